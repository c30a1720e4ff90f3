"""The hospital's own rules (`site.toml`): what may run here, and within which limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from client.approval.approvals import approve, approved_plan, smallest_delta
from client.cohort.label_attributes import allowed, identifies
from client.ledger.bookings import Bookings
from client.site.rules import Limits, Resources, SitePolicy
from common.accountant.accounting import GaussianEvent, epsilon
from common.errors import BudgetExhausted, CohortTooSmall, PlanRefused
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan

__all__ = [
    "Limits", "Resources", "SitePolicy", "Spent", "approve", "approved_plan", "enough", "inside", "permit", "round_of",
    "smallest_delta",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Epsilon of what is booked for a plan, for its study, and at the site.

    Attributes:
        plan: Of the plan's own mechanisms, at its delta.
        study: Of all plans of its study's name, at the smallest delta of them: a second version begins where the first
            has come to.
        site: Of all studies together, at the smallest delta of any plan that has trained here.
        alone: The same by this hospital's own noise only, were all others to collude.
    """

    plan: float
    study: float
    site: float
    alone: float

    @classmethod
    def of(
        cls, home: Path, plan: StudyPlan, booked: Bookings, *, extra: Sequence[GaussianEvent] = (), share: float = 1.0
    ) -> Self:
        """What is booked, `extra` counted as if booked for `plan`, too; raises `StateError` as `smallest_delta`.

        Args:
            home: The site's home folder.
            plan: The plan that `extra` is of.
            booked: What the ledger has booked.
            extra: Events that count as if they were booked.
            share: Standard deviation of the own noise of `extra` over that which is booked.
        """
        mine = [event.with_share(share) for event in extra]
        named = smallest_delta(home, plan, booked.plans(study=plan.name))
        whole = smallest_delta(home, plan, booked.plans())
        return cls(
            plan=epsilon([*booked.events(plan=plan.digest), *extra], delta=plan.privacy.delta),
            study=epsilon([*booked.events(study=plan.name), *extra], delta=named),
            site=epsilon([*booked.events(), *extra], delta=whole),
            alone=epsilon([*booked.events(alone=True), *mine], delta=whole),
        )


def round_of(plan: StudyPlan, number: int) -> Round:
    """Return round `number` of the approved plan; raises `PlanRefused` when it has no such round."""
    rounds = schedule(plan)
    if not 1 <= number <= len(rounds):
        raise PlanRefused(f"study {plan.name!r} has rounds 1 to {len(rounds)}; {number} was asked for")
    return rounds[number - 1]


def inside(policy: SitePolicy, plan: StudyPlan) -> None:
    """Refuse a plan that asks for more than this hospital ever grants, with any budget left.

    Raises:
        PlanRefused: The plan's delta is above the site's, its labels come from an attribute not allowed here, or it
            shares noise and the site has set no `max_epsilon_alone`.
    """
    limits, attribute = policy.limits, plan.data.label_attribute
    if plan.aggregation.secure and not limits.max_epsilon_alone:
        raise PlanRefused(
            f"study {plan.name!r} shares its noise with other hospitals, and this site has not said what its own share "
            "must hold alone. Set `limits.max_epsilon_alone` in site.toml, or agree on a plan without `secure`"
        )
    if plan.privacy.delta > limits.max_delta:
        raise PlanRefused(f"study {plan.name!r}: delta {plan.privacy.delta:g} is above the site's {limits.max_delta:g}")
    if not allowed(attribute, limits.label_attributes):
        cure = (
            "which is unknown or may identify a patient, so no site takes labels from it. Agree on another attribute"
            if identifies(attribute)
            else "which this site does not allow. Name it in `limits.label_attributes` of site.toml if none of its "
            "values picks a patient out, or agree on another attribute"
        )
        raise PlanRefused(f"study {plan.name!r} takes its labels from {attribute}, {cure}, or use labels.csv")


def enough(policy: SitePolicy, plan: StudyPlan, *, patients: int) -> None:
    """Refuse a cohort under the larger minimum, the site's own or the plan's; every request is checked so.

    Args:
        policy: The site's limits.
        plan: The approved plan.
        patients: Size of the cohort.

    Raises:
        CohortTooSmall: Too few patients.
    """
    own, asked = policy.limits.min_patients, plan.data.min_patients
    if patients >= max(own, asked):
        return
    if own > asked:
        raise CohortTooSmall(
            f"study {plan.name!r}: the site's policy trains on {own} patients or more; there are {patients}. Admit "
            "more, or lower `limits.min_patients` in site.toml"
        )
    raise CohortTooSmall(
        f"site {policy.name!r}: {patients} patients to train on, but plan {plan.name!r} asks for at least {asked}. "
        "Admit more, or agree on a smaller `data.min_patients`"
    )


def permit(
    policy: SitePolicy,
    plan: StudyPlan,
    *,
    patients: int | None,
    spent: Spent,
    after: Spent,
) -> None:
    """Let a round of `plan` pass, or say why not. Reads no scan and changes nothing.

    Args:
        policy: The site's rules.
        plan: The site's own approved copy.
        patients: Cohort size, used here only; None where it is not known yet, and then not judged.
        spent: Epsilon so far.
        after: The same were the round booked.

    Raises:
        PlanRefused: The plan lies outside the policy.
        CohortTooSmall: Too few patients for the policy or the plan.
        BudgetExhausted: The round would pass the plan's epsilon or a limit of the site.
    """
    inside(policy, plan)
    limits = policy.limits
    if patients is not None:
        enough(policy, plan, patients=patients)
    _within(plan, "plan", spent.plan, after.plan, plan.privacy.epsilon, cure="Agree on a plan that may cost more")
    cure = "Raise the limit in the site policy"
    _within(plan, "study", spent.study, after.study, limits.max_epsilon_per_study, cure=cure)
    _within(plan, "site", spent.site, after.site, limits.max_epsilon_total, cure=cure)
    if plan.aggregation.secure:
        _within(plan, "site", spent.alone, after.alone, limits.max_epsilon_alone, cure=cure, what="epsilon alone")


def _within(
    plan: StudyPlan, whose: str, spent: float, after: float, limit: float, *, cure: str, what: str = "epsilon"
) -> None:
    if not after <= limit:  # not a number is past every limit
        raise BudgetExhausted(
            f"study {plan.name!r}: the round would take the {whose}'s {what} from {spent:.2f} to {after:.2f}, past "
            f"its limit of {limit:.2f}. {cure}, or end the study here"
        )
