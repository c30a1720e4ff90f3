"""What studies will have come to at a hospital: this plan's whole, and what others that may still run have yet to cost.

Approving a plan costs nothing, but what it will cost counts against the same patients, at the smallest delta of all who
train. So a plan can leave another study no room for its last rounds; that is seen here, before anybody agrees to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from client.approval.approvals import State, approvals, smallest_delta
from client.ledger.bookings import Bookings
from common.accountant.accounting import GaussianEvent, epsilon
from common.plan.schedule import schedule, verdict_event
from common.plan.study_plan import StudyPlan


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A study that may still run here.

    Attributes:
        plan: Its plan.
        state: "active" or "paused".
        rounds: Rounds that are not booked yet, the verdict counted as one.
        events: Their mechanisms.
        alone: The same by this hospital's own noise only, were all that share it to collude.
    """

    plan: StudyPlan
    state: State
    rounds: int
    events: tuple[GaussianEvent, ...]
    alone: tuple[GaussianEvent, ...]

    def epsilon(self, delta: float) -> float:
        """What these rounds alone cost a patient at `delta`."""
        return epsilon(self.events, delta=delta)

    def to_dict(self, delta: float) -> dict[str, Any]:
        """Return the line as plain JSON types."""
        return {"study": self.plan.name, "plan": self.plan.digest, "state": self.state, "rounds": self.rounds,
                "epsilon": self.epsilon(delta)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Epsilon of what is booked together, now and later.

    Attributes:
        before: Spent, at the delta that counts before this plan trains.
        delta: The smallest delta of any plan that trained here and of this one; of the next two.
        spent: Epsilon of everything booked so far.
        after: The same were every round of this plan booked, too.
        all_delta: The smallest delta of those and of every other study that may still run.
        all_after: Epsilon at that delta were all of their rounds booked, too.
    """

    before: float
    delta: float
    spent: float
    after: float
    all_delta: float
    all_after: float

    @classmethod
    def of(
        cls, home: Path, plan: StudyPlan, booked: Bookings, others: Iterable[Owed], *, study: str | None = None
    ) -> Self:
        """Look ahead over all studies, or over the plans of one study's name alone.

        Args:
            home: The site's home folder.
            plan: The plan that is proposed.
            booked: What the ledger has booked.
            others: What other plans still have to cost.
            study: Name of one study, to count its plans alone; None counts all.

        Raises:
            StateError: A record of a plan that trained cannot be read.
        """
        spent, own = booked.events(study=study), owed(plan, booked, state="active").events
        counted = [other for other in others if study in (None, other.plan.name)]
        plans = booked.plans(study=study)
        delta = smallest_delta(home, plan, plans)
        trained = plan if plan.digest in plans else None
        all_delta = min([delta, *(other.plan.privacy.delta for other in counted)])
        everything = [*spent, *own, *(event for other in counted for event in other.events)]
        return cls(
            before=epsilon(spent, delta=smallest_delta(home, trained, plans, default=delta)),
            delta=delta,
            spent=epsilon(spent, delta=delta),
            after=epsilon([*spent, *own], delta=delta),
            all_delta=all_delta,
            all_after=epsilon(everything, delta=all_delta),
        )


def owed(plan: StudyPlan, booked: Bookings, *, state: State) -> Owed:
    """What a plan has yet to cost: every round that is not booked, and the verdict.

    Args:
        plan: The plan.
        booked: What the ledger has booked.
        state: The plan's state here.
    """
    done, rounds, share = booked.rounds(plan.digest), schedule(plan), plan.aggregation.share
    missing = [(step.events, share) for step in rounds if step.number not in done]
    if (verdict := verdict_event(plan)) is not None and len(rounds) + 1 not in done:
        missing.append(((verdict,), 1.0))  # its noise is shared with no other site
    return Owed(
        plan=plan,
        state=state,
        rounds=len(missing),
        events=tuple(event for events, _ in missing for event in events),
        alone=tuple(event.with_share(share) for events, share in missing for event in events),
    )


def alone_after(home: Path, plan: StudyPlan, booked: Bookings) -> float:
    """Epsilon by this hospital's own noise only, of everything booked and of all that this plan has yet to cost.

    Args:
        home: The site's home.
        plan: The plan that is proposed.
        booked: What the ledger has booked.

    Raises:
        StateError: A record of a plan that trained cannot be read.
    """
    delta = smallest_delta(home, plan, booked.plans())
    return epsilon([*booked.events(alone=True), *owed(plan, booked, state="active").alone], delta=delta)


def others(home: Path, plan: StudyPlan, booked: Bookings) -> tuple[Owed, ...]:
    """Every other plan that is approved here, was not left, and has something to cost yet.

    Args:
        home: The site's home folder.
        plan: The plan that is left out.
        booked: What the ledger has booked.
    """
    found = (
        owed(approval.plan, booked, state=approval.state)
        for approval in approvals(home)
        if approval.state != "left" and approval.plan.privacy.enabled and approval.plan.digest != plan.digest
    )
    return tuple(other for other in found if other.events)
