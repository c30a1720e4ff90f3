"""The egress log on disk: one durable line for whatever leaves, in files of bounded size, none of which is ever lost.

`egress.jsonl` is the file in use. One that is full becomes `egress.00001.jsonl`, then 00002 and so on, and its
successor begins with a line that names it and its SHA-256: what left can be read back to the first day, and a file that
was altered or taken away shows. Unlike other logs, no old file is deleted; archive them as the hospital keeps records.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.logs import MAX_BYTES
from common.weights import sync_folder

LOG = "egress.jsonl"


def append(home: Path, line: dict[str, Any]) -> None:
    """Write one line durably, after putting a full file away.

    Raises:
        OSError: The disk refuses; nothing may leave then.
    """
    path = home / LOG
    with _alone(home):
        if path.exists() and path.stat().st_size >= MAX_BYTES:
            _put_away(path)
        _write(path, line)


def files(home: Path) -> list[Path]:
    """Every file of the log, oldest first."""
    return [*sorted(home.glob("egress.[0-9]*.jsonl")), *([home / LOG] if (home / LOG).exists() else [])]


def _put_away(path: Path) -> None:
    """Rename the full file and begin the next; a crash in between leaves a log that merely begins anew."""
    number = 1 + max((int(old.name.split(".")[1]) for old in path.parent.glob("egress.[0-9]*.jsonl")), default=0)
    old = path.with_name(f"egress.{number:05d}.jsonl")
    seal = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(old)
    sync_folder(path.parent)
    _write(path, {"kind": "continued", "file": old.name, "sha256": seal})


def _write(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One writer at a time, across threads and processes: a file is put away once."""
    handle = os.open(home / "egress.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
