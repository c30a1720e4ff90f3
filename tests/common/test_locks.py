"""A lock is held by one at a time, in threads and in processes, and ends with its holder however that ends."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import OutputInUse, StateError
from common.host.locks import is_held, locked

HOLD = (
    "import sys, pathlib, time; from common.host.locks import locked\n"
    "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(300)"
)


@contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_a_held_lock_is_refused_with_the_callers_own_error_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with another(path) as holder:
        assert is_held(path)
        busy = OutputInUse("somebody else is at work")
        with pytest.raises(OutputInUse, match="somebody else") as caught, locked(path, busy=busy):
            pass
        assert caught.value is busy
        holder.kill()
        with locked(path, busy=StateError("it never let go"), patience_s=60):
            assert is_held(path)
    assert not is_held(path)


def test_without_an_error_to_raise_the_second_waits_for_the_first(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def second() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        order.append("first")
    waiting.join(60)
    assert order == ["first", "second"]


def test_an_error_in_the_block_passes_through_and_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(BlockingIOError, match="own"), locked(path, busy=StateError("busy")):
        raise BlockingIOError("the block's own")
    assert not is_held(path)


def test_the_file_is_its_owners_unless_said_otherwise_and_asking_makes_none(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
    before = os.umask(0o022)
    try:
        with locked(tmp_path / "own"), locked(tmp_path / "shared", mode=0o666):
            pass
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"own": 0o600, "shared": 0o644}


def test_a_file_that_cannot_be_opened_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "absent" / "lock", busy=StateError("busy")):
        pass
