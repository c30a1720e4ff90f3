"""What a patient would have paid by this hospital's own noise only, were all hospitals that share noise to collude."""

import dataclasses
from pathlib import Path

from client.approval.approvals import smallest_delta
from client.ledger.bookings import Bookings
from common.accountant.accounting import epsilon
from common.plan.schedule import schedule, verdict_event
from common.plan.study_plan import StudyPlan


def alone_after(home: Path, plan: StudyPlan, booked: Bookings) -> float:
    """Epsilon alone of everything booked, and of all that this plan has yet to cost.

    Args:
        home: The site's home.
        plan: The plan that is proposed.
        booked: What the ledger has booked.

    Raises:
        StateError: A record of a plan that trained cannot be read.
    """
    done, share, rounds = booked.rounds(plan.digest), plan.aggregation.share, schedule(plan)
    events = [event for step in rounds if step.number not in done for event in step.events]
    mine = [dataclasses.replace(event, sigma=event.sigma * share) for event in events]
    if (verdict := verdict_event(plan)) is not None and len(rounds) + 1 not in done:
        mine.append(verdict)
    delta = smallest_delta(home, plan, booked.plans())
    return epsilon([*booked.events(alone=True), *mine], delta=delta)
