"""An upgrade of Flower under a study: a coordinator and three hospitals change its version one after the other.

    .venv/bin/python tests/benchmarks/upgrade_day.py --to OTHER/bin/python
    .venv/bin/python tests/benchmarks/upgrade_day.py --to OTHER/bin/python --first hospitals

Each interpreter has this very checkout installed and another minor of Flower. The study starts with this interpreter's
Flower everywhere. Then one party after the other is stopped, started with the other interpreter and waited for, while
the study goes on. With `--back` the coordinator is taken back to the first version once, by the copy of Flower's
database that was made before. Prints one JSON object. It ends with 1 if a round is lost, a patient costs more than the
plan says, or a site does not come back.
"""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.plan.schedule import schedule
from deploy.install.lab import PLAN, Lab, Party
from server.coordinator import studies
from server.gateway import peers

ROUNDS = 10
LONGER = (
    PLAN.replace("rounds = 3", f"rounds = {ROUNDS}").replace("deadline_s = 120", "deadline_s = 600\nretries = 10")
    .replace("images_per_label = 4", "images_per_label = 1")
)  # fmt: skip
PATIENCE_S = 900.0


class Day:
    """One upgrade day.

    Args:
        lab: A running deployment whose study is under way.
        to: The interpreter to change to.
    """

    def __init__(self, lab: Lab, to: str) -> None:
        self.lab, self.to = lab, to
        self.steps: list[dict[str, Any]] = []

    def rounds(self) -> int:
        return studies.rounds_saved(self.lab.run_dir)

    def online(self) -> bool:
        return set(self.lab.online()) == {site.name for site in self.lab.sites}

    def coordinator(self, to: str, *, back: bool = False) -> None:
        """Stop the study, change the coordinator, resume the study; what docs/operations.md says."""
        party, database = self.lab.coordinator, self.lab.coordinator.home / "superlink" / "state.db"
        began, before = time.monotonic(), self.rounds()
        party.wardround("server", "stop", self.lab.plan.name, "--home", party.home)
        party.stop()
        old = revision(database)
        copy = self.lab.folder / f"state-{version(party.python)}.db"
        if back:
            for name in ("-wal", "-shm"):
                database.with_name(database.name + name).unlink(missing_ok=True)
            shutil.copyfile(self.lab.folder / f"state-{version(to)}.db", database)
        else:
            backup(database, copy)
        party.python = to
        party.serve()
        self.lab.wait("the coordinator is healthy", lambda: bool(self.lab.status()["healthy"]))
        self.lab.wait("every site is online", self.online, patience_s=PATIENCE_S)
        away = time.monotonic() - began
        party.wardround("server", "resume", self.lab.plan.name, "--home", party.home)
        self.lab.wait("a round after the change", lambda: self.rounds() > before, patience_s=PATIENCE_S)
        self.note(party, away_s=round(away, 1), rounds_before=before, database=[old, revision(database)])

    def hospital(self, party: Party) -> None:
        """Stop, change and start one hospital; the study is not touched."""
        began, before = time.monotonic(), self.rounds()
        party.stop()
        party.python = self.to
        party.serve()
        said = version(self.to)
        self.lab.wait(
            f"{party.name} is back",
            lambda: self.online() and peers.read(self.lab.coordinator.home).get(party.name) == said,
            patience_s=PATIENCE_S,
        )
        self.note(party, away_s=round(time.monotonic() - began, 1), rounds_before=before)

    def note(self, party: Party, **found: Any) -> None:
        sites = self.lab.status()["sites"]
        ours = version(self.lab.coordinator.python)
        words = {name: " ".join(filter(None, (site["connection"], peers.words(site["flower"], ours))))
                 for name, site in sites.items()}  # fmt: skip
        self.steps.append({"party": party.name, "to": version(party.python), **found, "status": words})


def version(python: str) -> str:
    """Version of Flower of an interpreter."""
    code = "import importlib.metadata; print(importlib.metadata.version('flwr'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def revision(database: Path) -> str:
    """The form of Flower's database, as it names it itself."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return ", ".join(sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")))


def backup(database: Path, copy: Path) -> None:
    """What `sqlite3 state.db ".backup copy.db"` does."""
    with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
        source.backup(target)


def run(folder: Path, *, to: str, first: str, back: bool) -> dict[str, Any]:
    """Live through one upgrade day below `folder`; return what was seen."""
    lab = Lab.build(
        folder, plan=LONGER, say=lambda word: print(f"{time.strftime('%H:%M:%S')}  {word}", file=sys.stderr)
    )
    began = time.monotonic()
    try:
        lab.up()
        lab.submit()
        day = Day(lab, to)
        lab.wait("the first round", lambda: day.rounds() >= 1, patience_s=PATIENCE_S)
        if first == "coordinator":
            day.coordinator(to)
            if back:
                day.coordinator(sys.executable, back=True)
                day.coordinator(to)
        for site in lab.sites:
            day.hospital(site)
        if first == "hospitals":
            day.coordinator(to)
        card = lab.finish(patience_s=2 * PATIENCE_S)
    finally:
        left = lab.down()
    planned = schedule(lab.plan)[-1].epsilon_after
    spent = card["privacy"]["epsilon_by_site"]
    replied = [sorted(record["replied"]) for record in card["rounds"]]
    names = sorted(site.name for site in lab.sites)
    return {
        "from": version(sys.executable), "to": version(to), "first": first, "steps": day.steps,
        "rounds": len(replied), "rounds_without_a_site": sum(names != each for each in replied),
        "epsilon": max(spent.values()), "planned": planned, "left_behind": left,
        "seconds": round(time.monotonic() - began),
        "lost": len(replied) != ROUNDS or max(spent.values()) > lab.plan.privacy.epsilon or bool(left),
    }  # fmt: skip


def _say(word: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {word}", file=sys.stderr, flush=True)


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, help="An interpreter with another minor of Flower.")
    parser.add_argument("--first", choices=("coordinator", "hospitals"), default="coordinator")
    parser.add_argument("--back", action="store_true", help="Take the coordinator back to its first version once.")
    parser.add_argument("--out", type=Path, help="Folder of the lab.  [default: a temporary one]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = run((asked.out or Path(temporary) / "lab").absolute(), to=asked.to, first=asked.first, back=asked.back)
    print(json.dumps(found, indent=1))
    return int(found["lost"])


if __name__ == "__main__":
    sys.exit(main())
