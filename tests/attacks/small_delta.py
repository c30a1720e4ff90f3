"""A coordinator ends another's running study by plans of a tiny delta, or has one study paid for again and again.

    python -m tests.attacks.small_delta

All studies of a hospital compose on the same patients, at the smallest delta of all that trained: at a smaller delta
the same rounds cost more. A study is under way at a hospital, and its rounds fit the hospital's limit. Then a second
coordinator offers a plan of delta 1e-12, by which the rest of the first study does not fit any more. Tried are: to have
it approved as the steward's command does it; to have it approved all the same and left at once; and to offer a study's
next version whenever the budget of one is used up.

Prints what each try came to; exit code 1 if the running study could not finish or a study costs more than one may.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from client import hospital
from client.approval import approvals
from client.approval.proposal import Proposal
from client.ledger.ledger import Ledger
from client.site.policy import SitePolicy
from client.site.site import Site
from common.errors import BudgetExhausted, Refusal
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from tests.client.hospitals import build_home, request, set_policy, tiny_plan

MOMENTS = '[privacy]\nphases = ["moments"]\nepsilon = {epsilon}\ndelta = {delta}\n'
RUNNING = tiny_plan(name="running")
TINY = tiny_plan(MOMENTS.format(epsilon=1, delta=1e-12), name="tiny-delta")
MOST = 4.0
"""Most that one study may cost at the hospital of the last try."""


def main() -> int:
    """Try each and say what came of it."""
    worked = sum(attempt() for attempt in TRIES)
    print(f"\n{worked} of {len(TRIES)} attacks work")
    return 1 if worked else 0


def approved_unseen() -> bool:
    """Whether the steward's command approves, without a word, a plan that leaves the running study no room."""
    print("a plan of delta 1e-12 is offered while another study is under way")
    with tempfile.TemporaryDirectory() as folder:
        home = under_way(Path(folder))
        try:
            proposal = Proposal.weigh(TINY, SitePolicy.load(home), Ledger(home / "ledger.sqlite"))
        except BudgetExhausted as error:
            print(f"  refused: {error}")
            return told(works=False, what="the steward is told")
        print(f"  shown to the steward:\n{proposal.text()}")
        approvals.approve(home, TINY, approved_by="steward")
        for step in schedule(TINY):
            hospital.train(Site.open(home), request(TINY, step.number))
        return told(works=not finishes(home), what="the running study after it was approved and trained")


def left_at_once() -> bool:
    """Whether a plan that never trained, and was left, still ends the running study."""
    print("a plan of delta 1e-12 is approved all the same, never trains, and is left")
    with tempfile.TemporaryDirectory() as folder:
        home = under_way(Path(folder))
        approvals.approve(home, TINY, approved_by="steward")
        approvals.leave(home, TINY.digest, by="steward")
        return told(works=not finishes(home), what="the running study after that")


def version_after_version() -> bool:
    """Whether each new plan of one study's name begins at nothing spent."""
    print(f"one study may cost {MOST:g}; versions 1 to 3 of a study of 3 are offered one after the other")
    with tempfile.TemporaryDirectory() as folder:
        versions = [version(number) for number in (1, 2, 3)]
        home = build_home(Path(folder) / "north", *versions)
        set_policy(home, study=MOST)
        trained = [all_rounds(home, plan) for plan in versions]
        spent = Ledger(home / "ledger.sqlite").epsilon(delta=1e-5)
        print(f"  versions that trained to the end: {trained}; the study has cost a patient {spent:.2f}")
        return told(works=spent > MOST, what="the study's cost")


def version(number: int) -> StudyPlan:
    """A plan of the same name with something else in it each time."""
    return tiny_plan(MOMENTS.format(epsilon=3, delta=1e-5), f"[release]\nimages_per_label = {number}\n", name="again")


def under_way(place: Path) -> Path:
    """A hospital whose one study has done its first round."""
    home = build_home(place / "north", RUNNING)
    hospital.train(Site.open(home), request(RUNNING, 1))
    return home


def finishes(home: Path) -> bool:
    """Whether the running study's other rounds are all answered."""
    return all_rounds(home, RUNNING)


def all_rounds(home: Path, plan: StudyPlan) -> bool:
    """Ask for every round of a plan; whether all were answered."""
    for step in schedule(plan):
        try:
            hospital.train(Site.open(home), request(plan, step.number))
        except Refusal as error:
            print(f"  round {step.number} of {plan.name}: {error}")
            return False
    return True


def told(*, works: bool, what: str) -> bool:
    """Print whether a try works, and return it."""
    print(f"  -> {what}: {'THE ATTACK WORKS' if works else 'as it should be'}")
    return works


TRIES: tuple[Callable[[], bool], ...] = (approved_unseen, left_at_once, version_after_version)

if __name__ == "__main__":
    sys.exit(main())
