"""What a plan will cost and buy at a hospital: noise, epsilon, signal against noise by round, time and memory.

Signal is a full agreement: every patient's contribution lies on its clip and points the same way, so that a sum over n
patients has norm n times the clip. Noise is the expected norm of what the mechanism adds. Real patients agree in part,
so the ratio is the most that a round can show; below 1 it shows little but noise. Where S sites are averaged, the
signal stays and the noise falls: the ratio grows by sqrt(S).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from common.mechanism.registry import mechanism
from common.plan.schedule import Phase, Round, schedule
from common.plan.study_plan import MAX_EPSILON, StudyPlan
from deploy.planning.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class RoundForecast:
    """One round at one hospital.

    Attributes:
        number: From 1.
        phase: What the round computes.
        sigma: Noise multiplier.
        steps: Runs of the mechanism in the round.
        epsilon_after: Epsilon of the study at a site that took part in every round so far.
        signal_to_noise: Norm of a full agreement over the expected norm of the noise.
        relative_error: Of a moments round, the inverse: expected error of the mean or second moment it estimates, over
            that of a full agreement; None in the gradient phase.
    """

    number: int
    phase: Phase
    sigma: float
    steps: int
    epsilon_after: float
    signal_to_noise: float
    relative_error: float | None


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A plan or a cohort that differs in one thing, and what it would change.

    Attributes:
        change: The difference, in words.
        patients: Cohort.
        rounds: Gradient rounds.
        epsilon: Epsilon of the whole study.
        sigma: Noise multiplier of the last phase.
        first_ratio: Signal to noise of the first round.
        whole_ratio: Signal to noise of the gradient rounds together; of the last moments round where there are none.
    """

    change: str
    patients: int
    rounds: int
    epsilon: float
    sigma: float
    first_ratio: float
    whole_ratio: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What `forecast` found out about a plan at one hospital."""

    plan: StudyPlan
    patients: int
    rounds: tuple[RoundForecast, ...]
    alternatives: tuple[Alternative, ...]
    calibration: Calibration | None

    @property
    def seconds(self) -> float | None:
        """Time of all rounds at one site on the machine of the calibration; None without one."""
        if self.calibration is None:
            return None
        return sum(self.calibration.seconds(self.plan, step, self.patients) for step in schedule(self.plan))

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as plain JSON types; numbers that are not finite are None."""
        seen = self.calibration
        return {
            "name": self.plan.name,
            "digest": self.plan.digest,
            "patients": self.patients,
            "delta": self.plan.privacy.delta,
            "rounds": [_plain(entry) for entry in self.rounds],
            "alternatives": [_plain(entry) for entry in self.alternatives],
            "seconds_at_a_site": self.seconds,
            "memory_bytes": None if seen is None else seen.memory_bytes,
        }


def forecast(plan: StudyPlan, *, patients: int, calibration: Calibration | None = None) -> Forecast:
    """Work out what `plan` costs and buys at a hospital of `patients` patients.

    Args:
        plan: The study plan.
        patients: Cohort size, 1 or more.
        calibration: Times measured on a machine, for the estimate of run time and memory.

    Raises:
        PlanError: The plan's epsilon is too small for its steps.
    """
    alternatives = [_alternative(f"as planned, {patients} patients", plan, patients)]
    alternatives.append(_alternative("twice the patients", plan, 2 * patients))
    if "sgd" in plan.privacy.phases and plan.training.rounds > 1:
        fewer = dataclasses.replace(plan.training, rounds=plan.training.rounds // 2)
        alternatives.append(_alternative("half the rounds", dataclasses.replace(plan, training=fewer), patients))
    if plan.privacy.enabled and plan.privacy.epsilon < MAX_EPSILON:
        larger = min(MAX_EPSILON, 1.5 * plan.privacy.epsilon)
        dearer = dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, epsilon=larger))
        alternatives.append(_alternative(f"epsilon {larger:g}", dearer, patients))
    return Forecast(
        plan=plan,
        patients=patients,
        rounds=tuple(_round(plan, step, patients) for step in schedule(plan)),
        alternatives=tuple(alternatives),
        calibration=calibration,
    )


def signal_to_noise(plan: StudyPlan, step: Round, patients: int) -> float:
    """Norm of a full agreement of one site's cohort over the expected norm of a round's noise.

    Each mechanism states its own ratio (`common.mechanism.moments`, `common.mechanism.sgd`).

    Args:
        plan: The plan.
        step: The round of its schedule.
        patients: Size of the cohort.

    Returns:
        Infinity where there is no noise.
    """
    if step.event.sigma == 0:
        return math.inf
    return mechanism(step.phase).signal_to_noise(plan, step.event, patients)


def _round(plan: StudyPlan, step: Round, patients: int) -> RoundForecast:
    ratio = signal_to_noise(plan, step, patients)
    return RoundForecast(
        number=step.number,
        phase=step.phase,
        sigma=step.event.sigma,
        steps=step.event.steps,
        epsilon_after=step.epsilon_after,
        signal_to_noise=ratio,
        relative_error=None if step.trains else 1.0 / ratio,
    )


def _alternative(change: str, plan: StudyPlan, patients: int) -> Alternative:
    rounds = schedule(plan)
    gradient = [step for step in rounds if step.trains]
    last = rounds[-1]
    whole = signal_to_noise(plan, last, patients) * math.sqrt(max(1, len(gradient)))
    return Alternative(
        change=change,
        patients=patients,
        rounds=len(gradient),
        epsilon=last.epsilon_after,
        sigma=last.event.sigma,
        first_ratio=signal_to_noise(plan, rounds[0], patients),
        whole_ratio=whole,
    )


def _plain(entry: RoundForecast | Alternative) -> dict[str, Any]:
    values = dataclasses.asdict(entry)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
