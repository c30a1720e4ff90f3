"""Which run of a study is the newest, whatever clocks say; and a study that stopped at a full disk."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import DiskFull, QuorumLost
from server.study import progress, runs
from tests.common.test_disk import AS_ROOT, fill


@dataclass(frozen=True)
class Run:
    run_id: int
    ended: bool = True


def order(folder: Path, *listed: Run) -> list[int]:
    return [run.run_id for run in runs.newest_first(folder, listed)]


def test_the_run_that_began_last_is_the_newest_though_a_clock_was_set_back(tmp_path: Path) -> None:
    runs.note(tmp_path, 7)
    runs.note(tmp_path, 5, 9)
    runs.note(tmp_path, 7)  # its ServerApp begins: it keeps its place
    assert order(tmp_path, Run(7), Run(5), Run(9)) == [9, 5, 7]
    assert order(tmp_path, Run(9), Run(5), Run(7)) == [9, 5, 7]


def test_a_run_that_is_yet_to_begin_is_newer_and_one_that_ended_unnoted_is_older(tmp_path: Path) -> None:
    runs.note(tmp_path, 7)
    assert order(tmp_path, Run(7), Run(3, ended=False)) == [3, 7]
    assert order(tmp_path, Run(3), Run(7)) == [7, 3]


def test_runs_of_an_older_version_are_taken_as_the_superlink_lists_them(tmp_path: Path) -> None:
    assert order(tmp_path, Run(7), Run(3), Run(5)) == [7, 3, 5]
    (tmp_path / runs.FILE).write_text("damaged")
    assert order(tmp_path, Run(7), Run(3)) == [7, 3]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def stopped_by(folder: Path, error: BaseException) -> None:
    with progress.watched(folder):
        raise error


@AS_ROOT
def test_a_full_disk_at_the_coordinator_is_the_studys_state_with_its_reason(small: Path) -> None:
    folder = small / "study"
    fillers = []

    def save() -> None:
        with progress.watched(folder):
            fillers.append(fill(small))
            (folder / "checkpoint").write_bytes(bytes(100_000))

    with pytest.raises(DiskFull):
        save()
    where = progress.read(folder)
    assert (where.state, where.reason) == ("paused", "DiskFull")
    assert "Free some space" in where.message
    assert "restore" not in where.message.lower()
    assert not progress.goes_on_by_itself(folder)


def test_a_study_whose_disk_has_room_again_goes_on_by_itself_and_any_other_pause_waits(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        stopped_by(tmp_path, OSError(28, "No space left on device"))
    assert json.loads((tmp_path / progress.PAUSED).read_text())["reason"] == "DiskFull"
    assert progress.goes_on_by_itself(tmp_path)
    with pytest.raises(QuorumLost):
        stopped_by(tmp_path, QuorumLost("too few"))
    assert not progress.goes_on_by_itself(tmp_path)
    assert not (tmp_path / ".reserve").exists()


def test_a_broken_connection_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        stopped_by(tmp_path, ConnectionResetError(104, "reset"))
    assert progress.read(tmp_path).state == "prepared"


def test_a_reason_that_cannot_be_written_down_does_not_hide_what_ended_the_study(tmp_path: Path) -> None:
    (tmp_path / progress.PAUSED).mkdir()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child never returns
        try:
            progress._pause(tmp_path, QuorumLost("too few"))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - told by the exit status
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == 0
