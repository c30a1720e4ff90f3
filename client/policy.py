"""The hospital's own rules (`site.toml`): what may run here, and within which limits."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from client.approval import approve, approved_plan
from common.errors import BudgetExhausted, CohortTooSmall, PlanRefused, StateError
from common.plan import MAX_EPSILON, StudyPlan
from common.schedule import Round, schedule
from common.settings import build

__all__ = ["Limits", "Resources", "SitePolicy", "approve", "approved_plan", "inside", "permit", "round_of"]

MAX_DELTA = 1e-3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the hospital grants at most; the data steward owns these.

    Attributes:
        max_epsilon_per_study: Most one study may cost a patient.
        max_epsilon_total: Most all studies together may cost a patient.
        max_delta: Largest delta a plan may state.
        min_patients: Smallest cohort that may train at all.
    """

    max_epsilon_per_study: float = MAX_EPSILON
    max_epsilon_total: float = MAX_EPSILON
    max_delta: float = 1e-4
    min_patients: int = 50


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the hospital lends: device "auto" takes CUDA where there is one; threads 0 takes every core."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """The content of `site.toml`.

    Attributes:
        name: The site's public name in a study.
        declared_patients: A cohort size the hospital states publicly, the divisor of its gradient sums; 0 uses the
            plan's minimum. Never derived from the data, which would make the divisor itself a release.
    """

    name: str
    declared_patients: int = 0
    limits: Limits = field(default_factory=Limits)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", self.name):
            raise StateError(f"site.toml: `name` must be lower-case letters, digits and dashes, not {self.name!r}")
        if not (self.limits.max_epsilon_per_study > 0 and self.limits.max_epsilon_total > 0):
            raise StateError("site.toml: the epsilon limits must be above 0")
        if not 0 < self.limits.max_delta <= MAX_DELTA:
            raise StateError(f"site.toml: `limits.max_delta` must be above 0 and at most {MAX_DELTA:g}")
        if self.limits.min_patients < 1 or self.declared_patients < 0 or self.resources.threads < 0:
            raise StateError("site.toml: `limits.min_patients` must be 1 or more; counts cannot be negative")

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read `site.toml` in the site's home; raises `StateError` when it is absent or wrong."""
        path = home / "site.toml"
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise StateError(f"{path}: not a readable TOML file ({type(error).__name__}). Create it first") from error
        return build(cls, table, what="site.toml", error=StateError)


def round_of(plan: StudyPlan, number: int) -> Round:
    """Return round `number` of the approved plan; raises `PlanRefused` when it has no such round."""
    rounds = schedule(plan)
    if not 1 <= number <= len(rounds):
        raise PlanRefused(f"study {plan.name!r} has rounds 1 to {len(rounds)}; {number} was asked for")
    return rounds[number - 1]


def inside(policy: SitePolicy, plan: StudyPlan) -> None:
    """Refuse a plan that asks for more than this hospital ever grants, whatever is left of its budget.

    Raises:
        PlanRefused: The plan's delta is above the site's.
    """
    limits = policy.limits
    if plan.privacy.delta > limits.max_delta:
        raise PlanRefused(f"study {plan.name!r}: delta {plan.privacy.delta:g} is above the site's {limits.max_delta:g}")


def permit(
    policy: SitePolicy,
    plan: StudyPlan,
    *,
    patients: int | None,
    spent: tuple[float, float],
    after: tuple[float, float],
) -> None:
    """Let a round of `plan` pass, or say why not. Reads no scan and changes nothing.

    Args:
        policy: The site's rules.
        plan: The site's own approved copy.
        patients: Cohort size, used here only; None where it is not known yet, and then not judged.
        spent: Epsilon so far, of this study and of all studies, both at the plan's delta.
        after: The same two were the round booked.

    Raises:
        PlanRefused: The plan lies outside the policy.
        CohortTooSmall: Too few patients for the policy.
        BudgetExhausted: The round would pass the study's epsilon or a limit of the site.
    """
    inside(policy, plan)
    limits = policy.limits
    if patients is not None and patients < limits.min_patients:
        raise CohortTooSmall(
            f"study {plan.name!r}: the site's policy trains on {limits.min_patients} patients or more; there are fewer"
        )
    _within(plan, "study", spent[0], after[0], min(limits.max_epsilon_per_study, plan.privacy.epsilon))
    _within(plan, "site", spent[1], after[1], limits.max_epsilon_total)


def _within(plan: StudyPlan, whose: str, spent: float, after: float, limit: float) -> None:
    if not after <= limit:  # not a number is past every limit
        raise BudgetExhausted(
            f"study {plan.name!r}: the round would take the {whose}'s epsilon from {spent:.2f} to {after:.2f}, past "
            f"its limit of {limit:.2f}. Raise the limit in the site policy, or end the study here"
        )
