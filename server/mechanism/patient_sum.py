"""The coordinator's half of a mechanism that releases one noised sum over patients: its bound, claim and form."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.errors import PlanError
from common.mechanism.mechanism import RELEASE, Array
from common.mechanism.registry import release_length, sensitivity
from common.model.closed_form import with_closed_form
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from server.aggregation.plausible import Claim, contradictions
from server.aggregation.quarantine import NO_COHORT, TOO_LARGE, Quarantined, most, squares
from server.mechanism.half import Case, Total, half_of

Form = Callable[[StudyPlan, Weights, Array, float], dict[str, Array]]
"""From the plan, the global weights, the sum of all releases and the deviation of its noise to arrays of the start."""
Read = Callable[[StudyPlan, Array], Claim]
"""From the plan and a release to what it claims of its patients."""


@dataclass(frozen=True)
class PatientSums:
    """See `server.mechanism.half.Half`.

    Attributes:
        form: Makes arrays of the start from the sum.
        claim: Takes a release apart for the plausibility check.
    """

    form: Form
    claim: Read

    def reach(self, case: Case) -> dict[str, float]:
        """See `Half`: no value of a release is larger than its norm."""
        return {RELEASE: self.bound(case)}

    def bound(self, case: Case) -> float:
        """Largest L2 norm of an honest release."""
        return most(
            sensitivity(case.plan, case.step.phase),
            patients=case.patients,
            deviation=case.step.event.sigma * case.spread,
            values=release_length(case.plan, case.step.phase),
        )

    def check(self, case: Case, arrays: Weights) -> None:
        """See `Half`."""
        size, bound = math.sqrt(squares(arrays[RELEASE])), self.bound(case)
        if not size <= bound:
            raise Quarantined(TOO_LARGE, f"the reply's norm {size:.3g} is over the bound {bound:.3g}")
        if fault := self.contradiction(case, arrays[RELEASE].astype(np.float64)):
            raise Quarantined(NO_COHORT, f"the reply's release is of no cohort: {fault}")

    def contradiction(self, case: Case, release: Array) -> str | None:
        """Say what in a release no cohort's sums could be; None where nothing is."""
        claim = self.claim(case.plan, release)
        return next(contradictions(claim, self.noise(case), patients=case.patients), None)

    def noise(self, case: Case) -> float:
        """Standard deviation of the noise on each value."""
        return case.step.event.sigma * sensitivity(case.plan, case.step.phase) * case.spread

    def absorb(self, case: Case, total: Total) -> Weights:
        """See `Half`."""
        return self.formed(dataclasses.replace(case, spread=total.spread), total.total(RELEASE))

    def formed(self, case: Case, total: Array) -> Weights:
        """The global weights with what the sum of so noised releases makes of the start."""
        return with_closed_form(case.weights, self.form(case.plan, case.weights, total, self.noise(case)))


def absorb(plan: StudyPlan, step: Round, weights: Weights, total: Array, *, sites: int) -> Weights:
    """Return `weights` with the start's arrays of this phase set from the sum of noised releases.

    Args:
        plan: The study plan.
        step: The round; its phase says what the releases hold (layout in `client.mechanism.moments`).
        weights: The global weights so far.
        total: Sum of the sites' releases.
        sites: How many releases it is the sum of; each carries its own noise.

    Raises:
        PlanError: Rounds of this phase release no sum over patients.
        StudyStopped: The noise drowned the patient count; the cohort is too small for this epsilon.
    """
    half = half_of(step.phase)
    if not isinstance(half, PatientSums):
        raise PlanError(f"round {step.number} ({step.phase}) releases no sum over patients")
    case = Case.of_site(plan, step, weights)
    return half.formed(dataclasses.replace(case, spread=math.sqrt(sites)), total)
