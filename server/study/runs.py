"""In which order the runs of a study began, by a count that only goes forward: wall clocks are set, also backwards.

    runs.json   in the study's folder: Flower's ids of its runs, the oldest first

A run is noted when it is submitted by us, and by its ServerApp when that begins, however it was submitted.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from common.host.disk import told
from common.host.files import write_atomically
from common.host.locks import locked

FILE, LOCK = "runs.json", ".runs.lock"
_MOST = 1000


class _Run(Protocol):
    @property
    def run_id(self) -> int: ...
    @property
    def ended(self) -> bool: ...


_R = TypeVar("_R", bound=_Run)


def note(folder: Path, *runs: int) -> None:
    """Note that these runs began, in this order, after all that are noted; one that is noted keeps its place.

    Raises:
        DiskRefused: The disk refuses, by its kind.
    """
    with told(folder / FILE), locked(folder / LOCK):
        known = _noted(folder)
        fresh = [run for run in dict.fromkeys(runs) if run not in known]
        if fresh:
            write_atomically(folder / FILE, json.dumps([*known, *fresh][-_MOST:]).encode())


def newest_first(folder: Path, runs: Sequence[_R]) -> list[_R]:
    """The runs of one study, the one that began last first.

    Args:
        folder: The study's folder.
        runs: As the SuperLink lists them, by its wall clock, the newest first; that decides only between runs of
            which neither is noted. A run that is not noted and has not ended is yet to begin.
    """
    place = {run: number for number, run in enumerate(_noted(folder))}
    unknown = len(place)

    def key(run: _R) -> int:
        return place.get(run.run_id, -1 if run.ended else unknown)

    return sorted(runs, key=key, reverse=True)


def _noted(folder: Path) -> list[int]:
    try:
        return [int(run) for run in json.loads((folder / FILE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
