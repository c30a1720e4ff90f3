"""What must hold before a hospital hears a request: this very home, a ledger that forgot nothing, a noised plan."""

import re

from client.egress import egress, spool
from client.site import place, policy
from client.site.site import Site
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
    """The site's own copy of a plan, which is approved here and noised; only a simulation takes one without noise."""
    plan = policy.approved_plan(site.home, digest)
    if not plan.privacy.enabled and not site.simulated:
        raise PlanRefused(f"plan {plan.name!r} trains without noise; only a simulation may")
    return plan


def admitted(site: Site, digest: str) -> StudyPlan:
    """The plan of a question without weights: approved, inside the site's rules, and asked of no second copy."""
    plan = approved(site, digest)
    policy.inside(site.policy, plan)
    _refuse_copy(site)
    return plan
