"""What a simulation can show beyond the sites' figures: the canary audit of its mechanism, and the light LiRA."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from client.mechanism.audit import CONFIDENCE, audit
from client.mechanism.randomness import SecureRandom
from client.site.site import Site
from common.errors import StudyStopped
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from common.simulation import SimulationSetup
from common.wire.not_run import NotRun, not_run
from deploy.simulation.shadows import KIND, Pool, attack


def canary_audit(plan: StudyPlan, *, seed: int, canaries: int) -> dict[str, Any]:
    """Audit the plan's own gradient mechanism on artificial patients; plain JSON types.

    Args:
        plan: The study plan; its noise, rate, steps and clip norm are used.
        seed: Of the simulation; the same run gives the same audit.
        canaries: How many; 0 for no audit.

    Returns:
        "ran", and either the fields of `client.mechanism.audit.AuditResult` with its faults or the reason why not.
    """
    if reason := _no_audit(plan, canaries):
        return not_run(reason)
    random = SecureRandom.simulated(seed, "canary audit")
    found = audit(plan, random=random, device=torch.device("cpu"), canaries=canaries)
    return {"ran": True, "confidence": CONFIDENCE, **dataclasses.asdict(found), "faults": found.faults}


def membership(
    plan: StudyPlan,
    weights: Weights,
    setup: SimulationSetup,
    *,
    shadows: int,
    on_shadow: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run the light LiRA against a simulation's finished model; plain JSON types.

    Args:
        plan: The study plan.
        weights: The finished model, as it is released.
        setup: The simulated sites.
        shadows: Number of shadow models, even; 0 for no attack.
        on_shadow: Called after each.

    Returns:
        "ran", and either "shadows", their "kind" and "sites" (`deploy.simulation.shadows.attack`), or the reason why
        not.
    """
    if reason := _no_attack(plan, shadows):
        return not_run(reason)
    pools = [Pool.of(Site.open(home, simulation_seed=setup.seed), plan) for home in setup.homes]
    try:
        found = attack(plan, weights, pools, shadows=shadows, seed=setup.seed, on_shadow=on_shadow)
    except StudyStopped:
        return not_run(NotRun.TOO_FEW_PATIENTS)
    return {"ran": True, "shadows": shadows, "kind": KIND, "sites": found}


def _no_audit(plan: StudyPlan, canaries: int) -> NotRun | None:
    if not canaries:
        return NotRun.SWITCHED_OFF
    if not plan.privacy.enabled:
        return NotRun.NO_NOISE
    return None if "sgd" in plan.privacy.phases else NotRun.NO_GRADIENT_PHASE


def _no_attack(plan: StudyPlan, shadows: int) -> NotRun | None:
    if not shadows:
        return NotRun.SWITCHED_OFF
    if not plan.evaluation.gated:
        return NotRun.NOBODY_SET_ASIDE
    return None if "moments" in plan.privacy.phases else NotRun.NO_CLOSED_FORM
