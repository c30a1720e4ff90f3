"""The results file: one JSON line for each measurement, appended as soon as it is done."""

import json
import os
from pathlib import Path
from typing import Any

_SAME = ("data", "cell", "seed", "plan", "judge")


def key(line: dict[str, Any]) -> str:
    """What two results must share to be the same measurement."""
    return json.dumps([line[name] for name in _SAME], sort_keys=True)


def lines(results: Path) -> list[dict[str, Any]]:
    """The results so far; of two of the same measurement the newer one."""
    if not results.exists():
        return []
    found = [json.loads(text) for text in results.read_text().splitlines() if text.strip()]
    return list({key(line): line for line in found}.values())


def append(results: Path, line: dict[str, Any]) -> None:
    """Add a line, durably."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def current(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results without those of a cell's older plans or judges: what was last measured of each, in a fixed order."""
    newest = {_place(line): (line["plan"], line["judge"]) for line in found}
    kept = {key(line): line for line in found if newest[_place(line)] == (line["plan"], line["judge"])}
    return [kept[name] for name in sorted(kept)]


def _place(line: dict[str, Any]) -> str:
    return json.dumps([line["data"], line["cell"]], sort_keys=True)
