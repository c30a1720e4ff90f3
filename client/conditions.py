"""What must hold before a hospital hears a request: this very home, a ledger that forgot nothing, a noised plan."""

import re
from collections.abc import Sequence

from client.egress import egress, spool
from client.ledger.bookings import Bookings
from client.secure.standing import require_roster
from client.site import place, policy
from client.site.site import Site
from common.accountant.accounting import GaussianEvent
from common.errors import MessageRefused, PlanRefused
from common.plan.study_plan import StudyPlan


def refuse_rollback(site: Site, request: spool.Request) -> None:
    """Compare the ledger with the last reply that left this site, as the site and as the server remember it."""
    if not re.fullmatch(r"[0-9a-f]{64}|", request.last_head):
        raise MessageRefused("train.last_head is not the hash of a ledger row")
    _refuse_copy(site)
    site.ledger.require(egress.last_head(site.home))
    site.ledger.require(request.last_head)


def _refuse_copy(site: Site) -> None:
    """Refuse to be a second copy of a hospital: two ledgers of the same patients would each show half."""
    if not site.simulated:
        place.require(site.home)


def approved(site: Site, digest: str) -> StudyPlan:
    """The site's own copy of a plan, which is approved here, noised, and of a roster that was checked here."""
    plan = policy.approved_plan(site.home, digest)
    if not plan.privacy.enabled and not site.simulated:
        raise PlanRefused(f"plan {plan.name!r} trains without noise; only a simulation may")
    require_roster(site.home, plan, simulated=site.simulated)
    return plan


def admitted(site: Site, digest: str) -> StudyPlan:
    """The plan of a question without weights: approved, inside the site's rules, and asked of no second copy."""
    plan = approved(site, digest)
    policy.inside(site.policy, plan)
    _refuse_copy(site)
    return plan


def permit(
    site: Site,
    plan: StudyPlan,
    events: Sequence[GaussianEvent],
    booked: Bookings,
    *,
    patients: int | None,
    share: float = 1.0,
) -> None:
    """Weigh events on top of what is booked against plan and policy; none weighs what is booked alone.

    Args:
        site: The hospital.
        plan: Its own approved copy.
        events: What would be booked.
        booked: What is.
        patients: Size of the cohort; None where it is not known yet.
        share: Deviation of the own noise of `events` over that which is booked.

    Raises:
        Refusal: As `client.site.policy.permit`.
        DataError: Too few patients.
    """
    if site.simulated and not plan.privacy.enabled:
        return
    spent = policy.Spent.of(site.home, plan, booked)
    after = policy.Spent.of(site.home, plan, booked, extra=events, share=share)
    policy.permit(site.policy, plan, patients=patients, spent=spent, after=after)
