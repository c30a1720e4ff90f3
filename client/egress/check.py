"""Reads the egress log back: what was torn, and what is damaged, altered or gone."""

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.egress.egress_log import LOCK, continued, files, mark
from common.host.locks import locked


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the log's files show. A place is a file's name and a line's number; nothing that stands there is repeated.

    Attributes:
        lines: Whole lines.
        torn: Places of lines that a crash or a full disk cut off; what they were to record did not leave.
        faults: Lines that cannot be read, files that differ from what their successor says of them, files that are
            gone from between others, each with its place.
        begins_after: Name of the file before the oldest that is here; "" where the log is here from the first day.
    """

    lines: int
    torn: tuple[str, ...]
    faults: tuple[str, ...]
    begins_after: str


def check(home: Path) -> Checked:
    """Read every file of the site's egress log while no process writes; changes nothing.

    Raises:
        OSError: A file cannot be read.
    """
    lock = home / LOCK
    with locked(lock) if lock.exists() else nullcontext():
        return _check(files(home))


def _check(paths: list[Path]) -> Checked:
    whole, torn, faults, begins_after = 0, list[str](), list[str](), ""
    older: Path | None = None
    for path in paths:
        lines = path.read_bytes().split(b"\n")
        records = [_record(line) for line in lines]
        cut = _cut(lines, records)
        torn += [f"{path.name} line {number + 1}" for number in sorted(cut)]
        for number, record in enumerate(records[:-1]):
            if record is not None and number not in cut:
                whole += 1
            elif number not in cut:
                faults.append(f"{path.name} line {number + 1} cannot be read")
        first = lines[0] + b"\n"
        if older is None:
            begins_after = _named(first)
        elif first != continued(older):
            faults.append(_break_before(path, first, older))
        older = path
    return Checked(lines=whole, torn=tuple(torn), faults=tuple(faults), begins_after=begins_after)


def _cut(lines: list[bytes], records: list[dict[str, Any] | None]) -> set[int]:
    """Which of a file's lines were torn: the last if it has no end, those with a mark behind, and a torn mark's own."""
    cut = {len(lines) - 1} if lines[-1] else set[int]()
    for number in reversed(range(len(lines) - 1)):
        behind = lines[number + 1]
        torn_mark = records[number] is None and number + 1 in cut and mark(lines[number]).startswith(behind)
        if torn_mark or mark(lines[number]) == behind + b"\n":
            cut.add(number)
    return cut


def _named(first: bytes) -> str:
    """The file that a file with this first line says it goes on from; "" where it names none."""
    said = _record(first) or {}
    name = str(said.get("file", "")) if said.get("kind") == "continued" else ""
    return name if re.fullmatch(r"egress\.[0-9]+\.jsonl", name) else ""


def _break_before(path: Path, first: bytes, older: Path) -> str:
    """What is wrong between a file that does not begin with the line it should and the one before it."""
    if _named(first) == older.name:
        return f"{older.name} is not as it was when {path.name} was begun"
    return f"{path.name} does not go on from {older.name}: a file is gone, or its first line was altered"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
