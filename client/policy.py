"""The hospital's own rules (`site.toml`) and its approvals: what may run here, and within which limits."""

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from common.errors import BudgetExhausted, CohortTooSmall, PlanError, PlanRefused, StateError
from common.plan import MAX_EPSILON, StudyPlan
from common.schedule import Round, schedule
from common.settings import build
from common.weights import write_atomically

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
        if self.limits.min_patients < 2 or self.declared_patients < 0 or self.resources.threads < 0:
            raise StateError("site.toml: `limits.min_patients` must be 2 or more; counts cannot be negative")

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read `site.toml` in the site's home; raises `StateError` when it is absent or wrong."""
        path = home / "site.toml"
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise StateError(f"{path}: not a readable TOML file ({type(error).__name__}). Create it first") from error
        return build(cls, table, what="site.toml", error=StateError)


def approve(home: Path, plan: StudyPlan, *, approved_by: str) -> None:
    """Record that this hospital agrees to `plan`, identified by its digest. Durable; twice is as once."""
    folder = _folder(home, plan.digest)
    record = {"digest": plan.digest, "approved_by": approved_by, "plan": plan.to_dict()}
    write_atomically(folder / "approval.json", json.dumps(record, indent=1, sort_keys=True).encode())


def approved_plan(home: Path, digest: str) -> StudyPlan:
    """Return the plan this hospital approved under `digest`: the site's own copy, never one from the wire.

    Raises:
        PlanRefused: No plan of this digest was approved here, or the stored copy does not have it.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise PlanRefused("the request names no plan digest (64 hexadecimal digits)")
    try:
        record = json.loads((_folder(home, digest) / "approval.json").read_text())
        plan = build(StudyPlan, record["plan"], what="approved plan", error=PlanError)
    except FileNotFoundError as error:
        raise PlanRefused(f"plan {digest[:12]} is not approved at this site. Review it, then approve it") from error
    except (OSError, ValueError, KeyError, TypeError, PlanError) as error:
        raise PlanRefused(f"the approval of plan {digest[:12]} cannot be read ({type(error).__name__})") from error
    if plan.digest != digest:
        raise PlanRefused(f"the stored copy of plan {digest[:12]} has another digest; approve the plan again")
    return plan


def round_of(plan: StudyPlan, number: int) -> Round:
    """Return round `number` of the approved plan; raises `PlanRefused` when it has no such round."""
    rounds = schedule(plan)
    if not 1 <= number <= len(rounds):
        raise PlanRefused(f"study {plan.name!r} has rounds 1 to {len(rounds)}; {number} was asked for")
    return rounds[number - 1]


def permit(
    policy: SitePolicy,
    plan: StudyPlan,
    *,
    patients: int,
    spent: tuple[float, float],
    after: tuple[float, float],
) -> None:
    """Let a round of `plan` pass, or say why not. Reads no scan and changes nothing.

    Args:
        policy: The site's rules.
        plan: The site's own approved copy.
        patients: Cohort size, used here only.
        spent: Epsilon so far, of this study and of all studies.
        after: The same two were the round booked.

    Raises:
        PlanRefused: The plan lies outside the policy.
        CohortTooSmall: Too few patients for the plan or the policy.
        BudgetExhausted: The round would pass the study's epsilon or a limit of the site.
    """
    limits = policy.limits
    if plan.privacy.delta > limits.max_delta:
        raise PlanRefused(f"study {plan.name!r}: delta {plan.privacy.delta:g} is above the site's {limits.max_delta:g}")
    if patients < limits.min_patients:
        raise CohortTooSmall(
            f"study {plan.name!r}: the site's policy trains on {limits.min_patients} patients or more; there are fewer"
        )
    _within(plan, "study", spent[0], after[0], min(limits.max_epsilon_per_study, plan.privacy.epsilon))
    _within(plan, "site", spent[1], after[1], limits.max_epsilon_total)


def _within(plan: StudyPlan, whose: str, spent: float, after: float, limit: float) -> None:
    if after > limit:
        raise BudgetExhausted(
            f"study {plan.name!r}: the round would take the {whose}'s epsilon from {spent:.2f} to {after:.2f}, past "
            f"its limit of {limit:.2f}. Raise the limit in the site policy, or end the study here"
        )


def _folder(home: Path, digest: str) -> Path:
    return home / "approved" / digest
