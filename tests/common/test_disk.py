"""A disk that refuses is told by its kind and its cure; nothing is damaged, and nobody is told to restore anything."""

import contextlib
import errno
import os
import resource
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.egress import egress_log, spool
from client.ledger import ledger_store
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import LedgerStore
from common.errors import (
    DiskFull,
    DiskReadOnly,
    DiskRefused,
    FileLocked,
    LedgerCorrupt,
    NoLocks,
    NotPermitted,
    WardroundError,
)
from common.host import disk, locks
from tests.client.test_ledger import anything, entry

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system, or becoming another user, takes root")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 512 KiB, as a real disk that can be full or read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def let_others_in(place: Path) -> None:
    """Let every user into a test's folder: several parallel workers have one folder more above it than one has."""
    for folder in (place, *place.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)


def book(home: Path, number: int = 2) -> None:
    Ledger(home / "ledger.sqlite").reserve(entry(number=number), permit=anything)


def rows(home: Path) -> list[str]:
    return [row.hash for row in LedgerStore(home / "ledger.sqlite").rows()]


def fill(home: Path, *, leave: int = 0) -> Path:
    """Fill the disk, but for `leave` bytes."""
    filler = home / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return filler


@AS_ROOT
@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768, 49152])
def test_a_full_disk_is_told_wherever_the_write_stops_and_the_ledger_goes_on_once_there_is_room(
    small: Path, leave: int
) -> None:
    book(small, 1)
    before = rows(small)
    filler = fill(small, leave=leave)
    outcome: WardroundError | None = None
    try:
        book(small)
    except WardroundError as error:
        outcome = error
    assert outcome is not None or leave
    assert outcome is None or type(outcome) is DiskFull
    assert "restore" not in str(outcome).lower()
    filler.unlink()
    after = rows(small)
    assert after[: len(before)] == before
    assert len(after) >= len(before) + (outcome is None)
    book(small, 3)
    assert len(rows(small)) == len(after) + 1


@AS_ROOT
def test_a_disk_that_was_mounted_read_only_is_told(small: Path) -> None:
    book(small, 1)
    before = rows(small)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(DiskReadOnly, match="Mount that file system writable"):
        book(small)
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    assert rows(small) == before


def in_a_child(work: Callable[[], None]) -> str:
    """Type and text of what `work` raises in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child never returns
        said = "nothing"
        try:
            work()
        except WardroundError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001 - told to the parent
            said = f"unforeseen {error!r}"
        os.write(writer, said.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


@AS_ROOT
def test_files_of_another_user_are_told_with_both_users_and_the_command(tmp_path: Path) -> None:
    home = tmp_path / "home"
    book(home, 1)
    let_others_in(tmp_path)
    for file in (home, *home.iterdir()):
        os.chown(file, 54321, 54321)
    os.chown(home / "ledger.sqlite", 0, 0)  # what one command made with sudo
    os.chown(home / "ledger.lock", 0, 0)

    def work() -> None:
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)
        book(home)

    said = in_a_child(work)
    assert said.startswith("NotPermitted: ")
    assert "belongs to root" in said
    assert f"chown -R USER {home}" in said
    assert "restore" not in said.lower()


def test_a_limit_on_file_sizes_is_as_a_full_disk(tmp_path: Path) -> None:
    book(tmp_path, 1)
    before = rows(tmp_path)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        book(tmp_path)

    assert in_a_child(work).startswith("DiskFull: ")
    assert rows(tmp_path) == before


def test_a_ledger_that_another_program_holds_is_locked_and_not_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book(tmp_path, 1)
    monkeypatch.setattr(ledger_store, "_PATIENCE_S", 0.05)
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FileLocked, match="Close the program"):
        book(tmp_path)
    other.execute("ROLLBACK")
    other.close()
    book(tmp_path)


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with pytest.raises(NoLocks, match="local disk"):
        book(tmp_path)


def test_only_a_ledger_that_is_damaged_is_called_corrupt_and_asks_for_its_backup(tmp_path: Path) -> None:
    book(tmp_path, 1)
    whole = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "ledger.sqlite").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(LedgerCorrupt, match="restore the ledger from its newest backup"):
        book(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, DiskFull), (sqlite3.SQLITE_BUSY, FileLocked), (sqlite3.SQLITE_LOCKED, FileLocked),
        (sqlite3.SQLITE_READONLY, NotPermitted), (sqlite3.SQLITE_PERM, NotPermitted),
        (sqlite3.SQLITE_PROTOCOL, NoLocks), (sqlite3.SQLITE_IOERR_LOCK, NoLocks),
        (sqlite3.SQLITE_IOERR_SHMLOCK, NoLocks), (sqlite3.SQLITE_IOERR_WRITE, DiskRefused),
        (sqlite3.SQLITE_CORRUPT, None), (sqlite3.SQLITE_NOTADB, None), (sqlite3.SQLITE_ERROR, None),
    ],
)  # fmt: skip
def test_each_of_sqlites_errors_has_its_kind(tmp_path: Path, code: int, kind: type[DiskRefused] | None) -> None:
    error = sqlite3.OperationalError("played")
    error.sqlite_errorcode = code
    error.sqlite_errorname = {v: k for k, v in vars(sqlite3).items() if k.startswith("SQLITE_IOERR_")}.get(code, "")
    found = disk.sqlite_refusal(error, tmp_path / "ledger.sqlite")
    assert (None if found is None else type(found)) is kind


@AS_ROOT
def test_a_reply_or_a_line_that_a_full_disk_refuses_is_told_and_the_next_one_is_whole(small: Path) -> None:
    def line(kind: str) -> None:
        egress_log.record(small, kind=kind, payload="0" * 64, size=0, keys=["site"], entry=0)

    line("hello")
    filler = fill(small)

    def lines() -> None:
        for _ in range(200):  # what is left of the file's last block is filled first
            line("hello")

    with pytest.raises(DiskFull, match="nothing was sent"):
        lines()
    filler.unlink()
    line("refusal")
    text = (small / egress_log.LOG).read_text()
    assert text.endswith("\n")
    assert '"refusal"' in text.splitlines()[-1]


@AS_ROOT
def test_a_paid_reply_that_cannot_be_read_for_lack_of_rights_is_not_paid_again(tmp_path: Path) -> None:
    from tests.client.hospitals import request, tiny_plan

    asked = request(tiny_plan())
    path = spool._path(tmp_path, asked)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a reply")
    let_others_in(tmp_path)
    path.parent.chmod(0o755)
    path.parent.parent.chmod(0o755)
    path.chmod(0o600)

    def work() -> None:
        os.setuid(54321)
        assert spool.find(tmp_path, asked) is None

    assert in_a_child(work).startswith("NotPermitted: ")
    path.parent.chmod(0o700)  # now not even that it is there can be seen
    assert in_a_child(work).startswith("NotPermitted: ")
