"""Whether a study runs, waits for a person or is done; and the lock that lets one process at a time run it.

.running.lock   held by the process that runs the study
.reserve        room on the disk for the next file, so that a disk which is full can be told
refused.json    which sites have said no since the last round that was saved, and why; absent where none has
paused.json     why it stopped for a reason that a person must look at; absent while it runs and when it is done
card.json       the release: there is nothing left to do
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.errors import DiskFull, DiskRefused, OutputInUse, WardroundError
from common.host.disk import refusal
from common.host.files import write_atomically
from common.host.locks import is_held, locked

log = logging.getLogger(__name__)

PAUSED, REFUSED = "paused.json", "refused.json"
_LOCK, _RESERVE = ".running.lock", ".reserve"
_RESERVED_BYTES = 16 * 1024
ROOM_BYTES = 64 * 1024 * 1024
"""Free space with which a study that stopped at a full disk goes on by itself."""
_PATIENCE_S = 30.0
"""How long to wait for the study: its holder may be about to die."""

State = Literal["prepared", "running", "paused", "interrupted", "completed"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a study stands.

    Attributes:
        state: "prepared" before its first round; "paused" waits for a person, then for a resume; "interrupted" was cut
            off and can be resumed as it is; "completed" is released.
        reason: Type of the error that paused it, or "".
        message: What was asked, what is true and what to do next, or "".
        refused: Type of the refusal by site, of sites that have said no to what a running study asks now.
    """

    state: State
    reason: str = ""
    message: str = ""
    refused: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> Progress:
    """Return where the study in `folder` stands."""
    if is_held(folder / _LOCK):
        return Progress(state="running", refused=_refused(folder / REFUSED))
    if (folder / "card.json").exists():
        return Progress(state="completed")
    if (folder / PAUSED).exists():
        return _paused(folder / PAUSED)
    begun = any((folder / "checkpoints").glob("[0-9]*"))
    return Progress(state="interrupted" if begun else "prepared")


def goes_on_by_itself(folder: Path) -> bool:
    """Whether a study that no process runs waits for no person: it was cut off, or its full disk has room again."""
    where = read(folder)
    if where.state == "paused" and where.reason == DiskFull.__name__:
        return shutil.disk_usage(folder).free >= ROOM_BYTES
    return where.state in ("prepared", "interrupted")


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Hold the study for this process; a deliberate error, or a disk that refuses, leaves `paused.json` behind.

    Raises:
        OutputInUse: Another process runs this study.
        DiskRefused: The disk refuses, by its kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = OutputInUse(f"{folder}: another process runs this study. Wait for it, or stop it first")
    with locked(folder / _LOCK, busy=busy, patience_s=_PATIENCE_S):
        try:
            (folder / PAUSED).unlink(missing_ok=True)
            (folder / REFUSED).unlink(missing_ok=True)
            write_atomically(folder / _RESERVE, os.urandom(_RESERVED_BYTES))
            yield
        except WardroundError as error:
            _pause(folder, error)
            raise
        except OSError as error:
            refused = refusal(error, folder, so="; the rounds that were saved stay")
            if type(refused) is DiskRefused:  # nothing that is known of disks: a broken connection, say
                raise
            _pause(folder, refused)
            raise refused from error
        finally:
            (folder / _RESERVE).unlink(missing_ok=True)


def tell(folder: Path, refused: dict[str, str]) -> None:
    """Write down which sites have said no, and why, for `server status`; an empty one takes that back.

    The study does not need the file. A disk that refuses is logged and stops nothing.

    Args:
        folder: The study's folder.
        refused: Type of the refusal by site name.
    """
    try:
        if refused:
            write_atomically(folder / REFUSED, json.dumps(refused, indent=1, sort_keys=True).encode())
        else:
            (folder / REFUSED).unlink(missing_ok=True)
    except (OSError, DiskRefused) as error:
        log.warning("the refusals could not be written down: %s", type(error).__name__)


def _refused(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(site): str(reason) for site, reason in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _pause(folder: Path, error: WardroundError) -> None:
    """Write down why; where the disk is full, in the room that was kept for it."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record = {"reason": type(error).__name__, "message": str(error), "time": when}
    try:
        (folder / _RESERVE).unlink(missing_ok=True)
        write_atomically(folder / PAUSED, json.dumps(record, indent=1).encode())
    except OSError as refused:  # what ended the study is what its run tells, not this
        log.error("the study's reason could not be written down: %s", type(refused).__name__)  # noqa: TRY400


def _paused(path: Path) -> Progress:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Progress(state="paused", reason=str(record["reason"]), message=str(record["message"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Progress(state="paused", reason=type(error).__name__, message=f"{path} cannot be read")
