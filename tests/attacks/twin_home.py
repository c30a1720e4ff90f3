"""Two live copies of a hospital's home: can they spend twice what either of their ledgers shows?

    python -m tests.attacks.twin_home

A hospital has answered one round. Then its home is copied, and both copies are asked for rounds of two studies.

cp -a       the copy is another folder of the same machine: its daemon is started, and it is asked itself
clone       the whole machine is cloned, so that the folder cannot be told from the original; an honest coordinator
            asks both copies by turns, with the heads that it remembers over all studies
gateway     two forwarders of one node key knock at the gateway, one after the other and again
afterwards  the hospital says which copy goes on and books what the other has spent: is it what patients truly paid?

Prints epsilon by each ledger and what was truly spent; exit code 1 if any copy works on unnoticed, or the way back
leaves anything out.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from client import hospital
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import Row
from client.site import adopt, place
from client.site.site import Site
from common.accountant.accounting import epsilon
from common.errors import WardroundError
from common.plan.study_plan import StudyPlan
from server.gateway.admission import Admitted
from server.gateway.twins import LATE, Twins
from server.study.heads import FOLDER, Heads
from tests.client.hospitals import build_home, request, tiny_plan

DELTA = 1e-5
_PRIVACY = '[privacy]\nphases = ["moments"]\nepsilon = 3.0\ndelta = 1e-5\n'
PLANS = {name: tiny_plan(_PRIVACY, name=name) for name in ("long", "other")}
TURNS = 4


@dataclass
class Coordinator:
    """An honest coordinator: it asks with the heads that it remembers, and counts what is answered."""

    folder: Path
    answers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / FOLDER).mkdir(parents=True)
        for name in PLANS:
            (self.folder / name).mkdir()
            (self.folder / name / FOLDER).symlink_to(Path("..") / FOLDER)

    def ask(self, home: Path, study: str, shift: float, *, head: str | None = None) -> str:
        """Ask one copy for a round of a study; what it said. `head` is what was sent before another reply counted."""
        book = Heads(self.folder / study)
        sent = book.to_send("north") if head is None else head
        said, named = ask(home, PLANS[study], shift, sent)
        print(f"  {home.name} is asked for {study!r} with {f'head {sent[:8]}' if sent else 'no head'}: {said}")
        if said == "LedgerBehind":
            book.refused("north", sent=sent, reason=said)
        if named:
            book.counted("north", named)
            self.answers[home.name] = self.answers.get(home.name, 0) + 1
        return said


def ask(home: Path, plan: StudyPlan, shift: float, head: str) -> tuple[str, str]:
    """Have a home answer a round: what it said, and the head it named."""
    asked = dataclasses.replace(request(plan, 1, shift=shift), last_head=head)
    try:
        reply = hospital.train(Site.open(home), asked)
    except WardroundError as error:
        return type(error).__name__, ""
    return "answered", reply.ledger_head


def copied(folder: Path) -> bool:
    """Whether a copy on the same machine serves, or answers."""
    print("cp -a")
    home = build_home(folder / "A", *PLANS.values())
    ask(home, PLANS["long"], 0.0, "")
    twin = Path(shutil.copytree(home, folder / "B", symlinks=True))
    command = [sys.executable, "-P", "-m", "deploy.cli", "site", "serve", "--home", str(twin)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False
    )
    print(f"  B: `site serve` ends with {done.returncode}: {done.stderr.strip()[-200:]}")
    said, _ = ask(twin, PLANS["other"], 0.0, "")
    print(f"  B is asked for a round: {said}")
    again, _ = ask(home, PLANS["other"], 0.0, "")
    print(f"  A, the original: {again}")
    return "not where it was bound" not in done.stderr or said != "HomeMoved" or again != "answered"


def cloned(folder: Path) -> bool:
    """Whether two copies that cannot tell themselves apart go on unnoticed, and whether the way back is whole."""
    print("clone")
    home = build_home(folder / "A", *PLANS.values())
    coordinator = Coordinator(folder / "coordinator")
    coordinator.ask(home, "long", 0.0)
    twin = Path(shutil.copytree(home, folder / "B", symlinks=True))
    as_if_cloned(home, twin)
    before = {name: Heads(coordinator.folder / name).to_send("north") for name in PLANS}  # both are on their way
    coordinator.ask(home, "long", 0.1, head=before["long"])
    coordinator.ask(twin, "other", 0.1, head=before["other"])
    last: dict[str, list[str]] = {"A": [], "B": []}
    for turn in range(TURNS):
        for copy, study in ((home, "long"), (twin, "other")):
            last[copy.name].append(coordinator.ask(copy, study, 0.2 + turn / 10))
    noticed = all(set(said[1:]) == {"LedgerBehind"} for said in last.values())
    print(f"  each copy refuses from its second request on at the latest: {'yes' if noticed else 'NO'}")
    lost = back(home, twin)
    return lost or not noticed


def back(home: Path, twin: Path) -> bool:
    """Book both ends in one ledger, as the hospital would; whether that is what was truly spent."""
    print("afterwards")
    ends = [Ledger(each / "ledger.sqlite").events() for each in (home, twin)]
    common = 1
    truly = epsilon([*ends[0], *ends[1][common:]], delta=DELTA)
    by_ledger = [epsilon(end, delta=DELTA) for end in ends]
    adopt.adopt(home, by="the data steward", other=twin)
    merged = Ledger(home / "ledger.sqlite").epsilon(delta=DELTA)
    print(
        f"  epsilon by A {by_ledger[0]:.3f}, by B {by_ledger[1]:.3f}, truly {truly:.3f}; after the merge {merged:.3f}"
    )
    known = all(ask(home, PLANS["long"], 0.9, row.hash)[0] != "LedgerBehind" for row in _rows(twin)[-1:])
    print(f"  A knows the head of B now: {'yes' if known else 'NO'}")
    return merged < truly - 1e-9 or not known


def knocking(folder: Path) -> bool:
    """Whether one node key passes the gateway from two places."""
    print("gateway")
    twins, site = Twins(folder), Admitted(site="north", node_key=b"the one node key")
    back = [("a", 2 + number) for number in range(LATE + 1)]  # a run that had ended would leave one less behind
    on = [("b", 1 + number) for number in range(LATE + 1)]
    seen = [f"{run * 32}.{number}" for run, number in (("a", 0), ("a", 1), ("b", 0), *back, *on, ("c", 0))]
    refused = [twins.refuses(site, instance) for instance in seen]
    for instance, no in zip(seen, refused, strict=True):
        print(f"  forwarder {instance[0]}, request {instance[33:]}: {'409, in two places' if no else 'passed'}")
    return refused != [False] * (3 + len(back) + LATE) + [True] * 2


def as_if_cloned(home: Path, twin: Path) -> None:
    """Make the copy's place look right to the copy, as a cloned machine does."""
    if (home / "place.json").exists():
        entry = json.loads((home / "place.json").read_text())[-1]
        (twin / "place.json").write_text(json.dumps([{**entry, **dataclasses.asdict(place.Place.here(twin))}]))


def _rows(home: Path) -> list[Row]:
    return Ledger(home / "ledger.sqlite").rows()


def main() -> int:
    """Play every part and say what came of it."""
    worked = []
    for attack in (copied, cloned, knocking):
        with tempfile.TemporaryDirectory() as folder:
            if attack(Path(folder)):
                worked.append(attack.__name__)
    print(f"\n{'THE ATTACK WORKS: ' + ', '.join(worked) if worked else 'no copy works on unnoticed'}")
    return 1 if worked else 0


if __name__ == "__main__":
    sys.exit(main())
