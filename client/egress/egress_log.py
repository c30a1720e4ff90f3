"""The egress log on disk: one durable line for each message that leaves, in files of bounded size that are never lost.

`egress.jsonl` is the file in use. A full one becomes `egress.00001.jsonl`, then 00002 and so on. Its successor begins
with a line that names it and its SHA-256. So the log can be read back to the first day, and an altered or missing file
shows. Unlike other logs, no old file is deleted; archive them as the hospital keeps records.

A last line without an end was torn by a crash or a full disk, before `append` returned: its message did not leave. The
next `append` ends it and writes a mark behind it, a line of kind "torn" with its length and SHA-256. The torn bytes
stay, are known for what they are, and spoil no later line. `client.egress.check` reads all this back.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from client.site import layout
from common.host.disk import told
from common.host.files import PRIVATE, keep_private, sync, sync_folder, write_atomically
from common.host.locks import locked
from common.host.logs import MAX_BYTES

LOG, LOCK = layout.EGRESS_LOG, "egress.lock"

log = logging.getLogger(__name__)


def record(home: Path, *, kind: str, payload: str, size: int, keys: list[str], entry: int) -> None:
    """Append one durable line: what leaves, not what it says.

    Args:
        home: The site's home.
        kind: "train", "hello", "about", "verdict", "refusal", or the kind of a secure round's leg.
        payload: Digest of the arrays or of the plan, or the refusal's type.
        size: Bytes of the arrays.
        keys: Names of the arrays or scalars.
        entry: Ledger entry that paid; 0 where nothing was spent.

    Raises:
        DiskRefused: The disk refuses, by its kind; nothing may leave then.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kind": kind,
        "payload": payload,
        "bytes": size,
        "keys": keys,
        "entry": entry,
    }
    with told(home / LOG, so=", so nothing was sent"):
        append(home, line)


def append(home: Path, line: dict[str, Any]) -> None:
    """Write one line durably, after ending a torn one and putting a full file away.

    Raises:
        OSError: The disk refuses; nothing may leave then.
    """
    path = home / LOG
    with locked(home / LOCK):  # across threads and processes: a file is put away once
        if torn := _torn(path):
            log.warning("the last line of the egress log was torn; what it was to record did not leave")
            _write(path, b"\n" + mark(torn))
        if path.exists() and path.stat().st_size >= MAX_BYTES:
            _put_away(path)
        if not path.exists() and (older := files(home)):
            write_atomically(path, continued(older[-1]), mode=PRIVATE)
        _write(path, _bytes(line))


def files(home: Path) -> list[Path]:
    """Every file of the log, oldest first."""
    return [*sorted(home.glob("egress.[0-9]*.jsonl")), *([home / LOG] if (home / LOG).exists() else [])]


def mark(torn: bytes) -> bytes:
    """The line that stands behind a torn one, with its end."""
    return _bytes({"kind": "torn", "bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()})


def continued(old: Path) -> bytes:
    """The line that a file begins with when `old` came before it, with its end."""
    seal = hashlib.sha256(old.read_bytes()).hexdigest()
    return _bytes({"kind": "continued", "file": old.name, "sha256": seal})


def _torn(path: Path) -> bytes:
    """What follows the last whole line; empty where every line has its end."""
    if not path.exists() or not (size := path.stat().st_size):
        return b""
    with path.open("rb") as file:
        file.seek(size - 1)
        if file.read() == b"\n":
            return b""
        file.seek(0)
        return file.read().rpartition(b"\n")[2]


def _put_away(path: Path) -> None:
    """Rename the full file; after a crash behind this, the next `append` begins its successor."""
    number = 1 + max((int(old.name.split(".")[1]) for old in path.parent.glob("egress.[0-9]*.jsonl")), default=0)
    old = path.with_name(f"egress.{number:05d}.jsonl")
    path.rename(old)
    sync_folder(path.parent)


def _bytes(line: dict[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    keep_private(path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    with os.fdopen(handle, "ab") as file:
        file.write(content)
        sync(file)
