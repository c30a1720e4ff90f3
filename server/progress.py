"""Whether a study runs, waits for a person or is done; and the lock that lets one process at a time run it.

.running.lock   held by the process that runs the study
paused.json     why it stopped for a reason that a person must look at; absent while it runs and when it is done
card.json       the release: there is nothing left to do
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import OutputInUse, WardroundError
from common.files import write_atomically
from common.locks import is_held, locked

PAUSED = "paused.json"
_LOCK = ".running.lock"
_PATIENCE_S = 30.0
"""How long to wait for the study: whoever held it may be about to die."""

State = Literal["prepared", "running", "paused", "interrupted", "completed"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a study stands.

    Attributes:
        state: "prepared" before its first round; "paused" waits for a person, then for a resume; "interrupted" was cut
            off and can be resumed as it is; "completed" is released.
        reason: Type of the error that paused it, or "".
        message: What was asked, what is true and what to do next, or "".
    """

    state: State
    reason: str = ""
    message: str = ""


def read(folder: Path) -> Progress:
    """Return where the study in `folder` stands."""
    if is_held(folder / _LOCK):
        return Progress(state="running")
    if (folder / "card.json").exists():
        return Progress(state="completed")
    if (folder / PAUSED).exists():
        return _paused(folder / PAUSED)
    begun = any((folder / "checkpoints").glob("[0-9]*"))
    return Progress(state="interrupted" if begun else "prepared")


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Hold the study for this process; a deliberate error leaves `paused.json` behind.

    Raises:
        OutputInUse: Another process runs this study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = OutputInUse(f"{folder}: another process runs this study. Wait for it, or stop it first")
    with locked(folder / _LOCK, busy=busy, patience_s=_PATIENCE_S):
        try:
            (folder / PAUSED).unlink(missing_ok=True)
            yield
        except WardroundError as error:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            record = {"reason": type(error).__name__, "message": str(error), "time": when}
            write_atomically(folder / PAUSED, json.dumps(record, indent=1).encode())
            raise


def _paused(path: Path) -> Progress:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Progress(state="paused", reason=str(record["reason"]), message=str(record["message"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Progress(state="paused", reason=type(error).__name__, message=f"{path} cannot be read")
