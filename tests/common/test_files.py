"""Files are there whole or not at all, durable, and never readable by more people than was said."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.host.files import (
    DRAFT,
    PRIVATE,
    PUBLIC,
    new_file,
    sync,
    sync_folder,
    write_atomically,
    write_once,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from common.host import files

owner = Path if sys.argv[3] in ("replace", "hardlink_to") else os
setattr(owner, sys.argv[3], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
getattr(files, sys.argv[2])(Path(sys.argv[1]), b"what the killed writer had", mode=0o600)
"""
"""Writes a file and is killed in the moment of the named operation."""


def killed(path: Path, writer: str, operation: str) -> Path:
    """Have a process killed while it writes `path`; the draft that it left behind."""
    ended = subprocess.run([sys.executable, "-c", KILLED, path, writer, operation], check=False).returncode
    assert ended == -signal.SIGKILL
    (left,) = [other for other in path.parent.iterdir() if other != path]
    assert left.name.startswith(".")
    assert left.name.endswith(DRAFT)
    return left


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every fsync (with the inode) and every move into place, in order."""
    found: list[tuple[str, int]] = []
    fsync = os.fsync

    def synced(handle: int) -> None:
        fsync(handle)
        found.append(("fsync", os.fstat(handle).st_ino))

    def moved(name: str) -> None:
        move = getattr(Path, name)

        def noted(*paths: Path) -> Any:
            found.append((name, 0))
            return move(*paths)

        monkeypatch.setattr(Path, name, noted)

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("replace", "hardlink_to"):
        moved(name)
    return found


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_a_mode_that_was_said_holds_under_any_umask_and_over_a_wider_file(
    mask: int, tmp_path: Path, umask: Callable[[int], int]
) -> None:
    (tmp_path / "wide").write_bytes(b"old")
    (tmp_path / "wide").chmod(0o666)
    umask(mask)
    write_atomically(tmp_path / "wide", b"new", mode=PRIVATE)
    write_atomically(tmp_path / "public", b"new", mode=PUBLIC)
    assert write_once(tmp_path / "once", b"new")
    assert write_once(tmp_path / "told", b"new", mode=0o400)
    with new_file(tmp_path / "streamed", mode=PRIVATE) as file:
        file.write(b"new")
    modes = {path.name: mode_of(path) for path in tmp_path.iterdir()}
    assert modes == {"wide": 0o600, "public": 0o644, "once": 0o600, "told": 0o400, "streamed": 0o600}


def test_at_no_moment_can_anybody_else_read_a_private_file(
    tmp_path: Path, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    umask(0)
    seen: list[int] = []

    def watched(name: str) -> None:
        real = getattr(os, name)

        def looked(handle: int, *rest: int) -> None:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
            real(handle, *rest)

        monkeypatch.setattr(os, name, looked)

    watched("fchmod")  # right after it was made
    watched("fsync")
    write_atomically(tmp_path / "a", b"secret", mode=PRIVATE)
    write_once(tmp_path / "b", b"secret")
    with new_file(tmp_path / "c", mode=PRIVATE) as file:
        file.write(b"secret")
    assert seen == [PRIVATE] * 6


def test_without_a_mode_the_umask_decides_as_for_any_file(tmp_path: Path, umask: Callable[[int], int]) -> None:
    for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        umask(mask)
        write_atomically(tmp_path / f"of {mask}" / "a", b"")
        assert mode_of(tmp_path / f"of {mask}" / "a") == mode
        assert mode_of(tmp_path / f"of {mask}") == 0o777 & ~mask


def test_a_folder_made_for_a_file_with_a_mode_is_its_owners_alone(tmp_path: Path, umask: Callable[[int], int]) -> None:
    umask(0)
    write_atomically(tmp_path / "one" / "a", b"", mode=PUBLIC)
    write_once(tmp_path / "two" / "a", b"")
    assert mode_of(tmp_path / "one") == mode_of(tmp_path / "two") == 0o700


@pytest.mark.parametrize("operation", ["fchmod", "fsync", "replace"])
def test_a_writer_killed_on_the_way_leaves_the_old_content_and_blocks_nobody(operation: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    left = killed(path, "write_atomically", operation)
    assert path.read_bytes() == b"old"
    assert mode_of(left) == PRIVATE
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("operation", ["fsync", "hardlink_to"])
def test_a_first_writer_killed_on_the_way_leaves_nothing_and_blocks_nobody(operation: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    left = killed(path, "write_once", operation)
    assert not path.exists()
    assert mode_of(left) == PRIVATE
    assert write_once(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_disk_that_refuses_leaves_the_old_content_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    with pytest.raises(OSError, match="No space left"):
        write_once(tmp_path / "other", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_of_several_first_writers_one_wins_and_all_read_what_it_wrote(tmp_path: Path) -> None:
    for number in range(20):
        path, start = tmp_path / f"{number}", threading.Barrier(6)
        won: list[bytes] = []
        read: list[bytes] = []

        def write(content: bytes) -> None:
            start.wait()  # noqa: B023  the threads end within the turn
            if write_once(path, content):  # noqa: B023
                won.append(content)  # noqa: B023
            read.append(path.read_bytes())  # noqa: B023

        threads = [threading.Thread(target=write, args=(bytes([writer]) * 4096,)) for writer in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert read == won * 6
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(DRAFT)]


def test_what_is_there_is_never_written_over_by_a_first_writer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"there")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        assert not write_once(tmp_path / name, b"new")
    assert (tmp_path / "file").read_bytes() == b"there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_writers_of_one_file_at_once_never_mix_their_contents(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([writer]) * 65536 for writer in range(4)]
    write_atomically(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(30):
            write_atomically(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    assert [other.name for other in tmp_path.iterdir()] == ["file"]


def test_content_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, done: list[tuple[str, int]]
) -> None:
    folder = tmp_path.stat().st_ino
    write_atomically(tmp_path / "a", b"content")
    assert done == [("fsync", (tmp_path / "a").stat().st_ino), ("replace", 0), ("fsync", folder)]
    done.clear()
    write_once(tmp_path / "b", b"content")
    assert done == [("fsync", (tmp_path / "b").stat().st_ino), ("hardlink_to", 0), ("fsync", folder)]
    done.clear()
    assert not write_once(tmp_path / "b", b"content")
    assert done[-1] == ("fsync", folder), "the winner may not have come so far yet"


def test_a_streamed_file_is_synced_at_its_end_with_all_that_was_written(
    tmp_path: Path, done: list[tuple[str, int]]
) -> None:
    path = tmp_path / "a"
    with new_file(path) as file:
        file.write(b"one")
        assert not done
    assert done == [("fsync", path.stat().st_ino)]
    with path.open("ab") as file:
        file.write(b", two")
        sync(file)
        assert path.read_bytes() == b"one, two"
    sync_folder(tmp_path)
    assert done[1:] == [("fsync", path.stat().st_ino), ("fsync", tmp_path.stat().st_ino)]


def test_a_new_file_follows_no_link_and_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_bytes(b"there")
    for name in ("link", "file"):
        with pytest.raises(FileExistsError), new_file(tmp_path / name):
            pass
    assert (tmp_path / "file").read_bytes() == b"there"
    assert not (tmp_path / "elsewhere").exists()


def test_no_handle_is_passed_on_to_a_child(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as file:
        assert not os.get_inheritable(file.fileno())


def test_what_is_about_disks_lies_on_the_disk_also_where_other_tests_lie_in_memory(tmp_path: Path) -> None:
    assert tmp_path.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev
