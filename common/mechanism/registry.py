"""Every mechanism, rider, stage and sum there is: what the modules of this room declare, found by their names.

A module of `common.mechanism` declares `MECHANISMS`, `RIDERS`, `STAGES` or `SUMS`. The other halves of what it declares
lie in modules of the same name, and are loaded when they are first asked for: a plan without gradients needs no Opacus.
Names come from the modules declared here alone. None is ever taken from a message.
"""

import functools
import importlib
import pkgutil
from typing import Any

from common import mechanism as room
from common.errors import PlanError
from common.mechanism.mechanism import RELEASE, Mechanism, Rider, Shapes, Stage
from common.mechanism.sums import Sum
from common.plan.study_plan import StudyPlan


def _declared(kind: str) -> dict[str, Any]:
    """What the room's modules declare under one name, by its own name, in the order of the modules."""
    found: dict[str, Any] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(room.__path__)):
        if f"{room.__name__}.{name}" == __name__:
            continue
        for one in getattr(importlib.import_module(f"{room.__name__}.{name}"), kind, ()):
            if one.name in found:
                raise ImportError(f"two of {kind} are named {one.name!r}")
            found[one.name] = one
    return found


MECHANISMS: dict[str, Mechanism] = _declared("MECHANISMS")
RIDERS: dict[str, Rider] = _declared("RIDERS")
STAGES: dict[str, Stage] = _declared("STAGES")
SUMS: dict[str, Sum] = _declared("SUMS")


def mechanism(phase: str) -> Mechanism:
    """The mechanism of a phase.

    Raises:
        PlanError: There is no such phase in this version.
    """
    if phase not in MECHANISMS:
        raise PlanError(f"phase {phase[:40]!r} is not one of this version: {', '.join(MECHANISMS)}. Update wardround")
    return MECHANISMS[phase]


def stages(plan: StudyPlan) -> list[Stage]:
    """The stages of a plan's rounds, in order; the warm-up is none, as no hospital is asked.

    Raises:
        PlanError: The plan has a stage that this version does not know.
    """
    names = [name for name in plan.privacy.phases if name != "warm"]
    if unknown := [name for name in names if name not in STAGES]:
        raise PlanError(f"plan {plan.name!r} has the phase {unknown[0][:40]!r}, which this version does not know")
    return [STAGES[name] for name in names]


def riders(plan: StudyPlan, phase: str) -> list[Rider]:
    """The riders that the plan pays for on rounds of this phase."""
    return [rider for rider in RIDERS.values() if rider.share(plan) and rider.rides_on(mechanism(phase))]


def sum_of(plan: StudyPlan) -> Sum:
    """How the plan's releases are added up."""
    return SUMS[plan.aggregation.sum]


def leaving(plan: StudyPlan, phase: str) -> Shapes:
    """Name and shape of every array that leaves a site in a round of this phase, riders included."""
    arrays = mechanism(phase).arrays(plan) | {rider.name: rider.shape for rider in riders(plan, phase)}
    return sum_of(plan).arrays(plan, arrays)


def leaving_bytes(plan: StudyPlan, phase: str) -> int:
    """Bytes of all arrays that leave a site in a round of this phase: those of `leaving`, no more and no less."""
    return sum_of(plan).size(leaving(plan, phase))


def release_length(plan: StudyPlan, phase: str) -> int:
    """Number of values of the sum that a site releases in this phase."""
    return mechanism(phase).arrays(plan)[RELEASE][0]


def sensitivity(plan: StudyPlan, phase: str) -> float:
    """L2 bound on one patient's contribution to the release of this phase."""
    return mechanism(phase).sensitivity(plan)


@functools.cache
def half(side: str, module: str, name: str) -> Any:
    """A side's half of what is declared here: the entry `name` of `HALVES` in the side's module.

    Args:
        side: Room of the side, "client.mechanism", "server.mechanism" or "server.aggregation".
        module: As the mechanism, rider or sum states it.
        name: Its name.

    Raises:
        PlanError: This installation lacks the half.
    """
    try:
        halves: dict[str, Any] = importlib.import_module(f"{side}.{module}").HALVES
        return halves[name]
    except (ModuleNotFoundError, AttributeError, KeyError) as error:
        raise PlanError(f"phase {name!r} has no half in {side}.{module}. Install wardround anew") from error
