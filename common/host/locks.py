"""Lock files: hold one alone, waiting for its holder or refusing with the caller's own error.

A lock is `flock` on a file that is made where it is missing and never removed. It ends with the `with` block, and with
the process, however that ends. Threads of one process exclude each other, too: each opens the file for itself. A child
that was forked inside the block holds the lock as well, until it ends or executes another program.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import WardroundError

_PAUSE_S = 0.05
"""Between two tries to take a lock that another holds."""


@contextmanager
def locked(
    path: Path, *, busy: WardroundError | None = None, patience_s: float = 0.0, mode: int = 0o600
) -> Iterator[None]:
    """Hold the lock file `path` alone.

    Args:
        path: The file; its folder exists.
        busy: What to raise when another holds it; without one, wait as long as it takes.
        patience_s: How long to try before `busy` is raised, 0 or more: `is_held` takes a lock for an instant, too.
        mode: Of the file, where it is made now.

    Raises:
        OSError: The file cannot be opened.
        WardroundError: (`busy`) another holds it, and still does after `patience_s`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        if busy is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        elif not _taken_in_time(handle, patience_s):
            raise busy
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file `path` now; False where there is none or it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _taken(handle)
    finally:
        os.close(handle)


def _taken_in_time(handle: int, patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while not _taken(handle):
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE_S)
    return True


def _taken(handle: int) -> bool:
    """Take a lock if it is free; return whether it was."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
