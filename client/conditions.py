"""What must hold before a hospital hears a request: this very home, a ledger that forgot nothing, a noised plan."""

import re

from client.egress import egress
from client.site import place
from client.site.site import Site
from common.errors import MessageRefused, PlanRefused
from common.plan.study_plan import StudyPlan
from common.wire.messages import EvaluateRequest, TrainRequest


def refuse_rollback(site: Site, request: TrainRequest | EvaluateRequest) -> None:
    """Compare the ledger with the last reply that left this site, as the site and as the server remember it."""
    if not re.fullmatch(r"[0-9a-f]{64}|", request.last_head):
        raise MessageRefused("train.last_head is not the hash of a ledger row")
    refuse_copy(site)
    site.ledger.require(egress.last_head(site.home))
    site.ledger.require(request.last_head)


def refuse_copy(site: Site) -> None:
    """Refuse to be a second copy of a hospital: two ledgers of the same patients would each show half."""
    if not site.simulated:
        place.require(site.home)


def refuse_without_noise(site: Site, plan: StudyPlan) -> None:
    """Refuse a plan without noise; only a simulation takes one."""
    if not plan.privacy.enabled and not site.simulated:
        raise PlanRefused(f"plan {plan.name!r} trains without noise; only a simulation may")
