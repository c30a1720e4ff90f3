"""An audit of the gradient phase: canaries with known gradients go through the real trainer, and are looked for after.

What is measured
    `canaries` artificial patients, each in the cohort by a fair coin. Patient i's gradient is ten clip norms along
    coordinate i of the model and nothing else: after the clip, the most that one patient can do to one number. The
    trainer that hospitals run (`client.mechanism.trainer.PatientTrainer`: its sampling, clipping, noise, divisor and
    steps) trains all rounds of the plan on them. Who sees the released weights then guesses the coins. From how many
    guesses are right follows a lower bound on epsilon that holds with 95 % confidence (Steinke, Nasr & Jagielski 2023,
    2305.08846); one run is enough. A bound above the claimed epsilon proves the claim wrong. As one run's bound lies
    far below a claim that is right (about 0.8 at epsilon 3), two sharper tests complement it: the area under the
    curve and the noise on the coordinates that no canary has, both against what the booked noise must give.

What it costs
    Nothing. No cache and no scan is opened, no ledger entry is made, nothing leaves: the canaries are no patients.

What it does not see
    The per-patient gradients of the model (tests compare them with a plain loop) and the moments phase. Plain SGD
    stands in for the plan's optimizer, because what it releases is the sum of the noised gradients itself. Any other
    optimizer is a function of the same sums.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray

from client.cohort.cache import Cache
from client.mechanism.gradients import DenseGradients, PatientGradients
from client.mechanism.randomness import SecureRandom
from client.mechanism.sgd import trained_rounds
from client.mechanism.trainer import PatientTrainer
from common.accountant.accounting import epsilon
from common.errors import PlanError
from common.model.generator import Generator
from common.model.study_model import initial
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan

CONFIDENCE = 0.95
_OVER_CLIP = 10.0
"""Norm of a canary's gradient in clip norms: a clip that is missing shows as ten times the signal."""
_CHUNK = 16
_DIVISOR = 100
"""The public constant that sums are divided by; any will do, as scores are in clip norms."""
_DEVIATIONS = 4.0
"""Half width of the bands, in standard errors; a sound trainer leaves one in about 1 of 16,000 audits."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What an audit found.

    Attributes:
        canaries: Number of canaries, in and out.
        steps: DP-SGD steps taken.
        delta: Delta of the claim and of the bound.
        claimed_epsilon: Epsilon of the gradient phase as the ledger would book it.
        lower_bound: Epsilon that the trainer has at least, with 95 % confidence; 0 where nothing can be shown.
        auc: How well the released weights tell canaries that were in from those that were not; 0.5 is not at all.
        auc_band: Where `auc` lies if noise, sampling and clip are as booked.
        sigma: Noise multiplier as booked.
        measured_sigma: The same from the released weights.
        sigma_band: Where `measured_sigma` lies if the noise is as booked.
    """

    canaries: int
    steps: int
    delta: float
    claimed_epsilon: float
    lower_bound: float
    auc: float
    auc_band: tuple[float, float]
    sigma: float
    measured_sigma: float
    sigma_band: tuple[float, float]

    @property
    def faults(self) -> list[str]:
        """What contradicts the claim, in words; empty for a trainer that does what its ledger books."""
        found = []
        if self.lower_bound > self.claimed_epsilon:
            found.append(f"epsilon is at least {self.lower_bound:.2f}, not {self.claimed_epsilon:.2f}")
        if not self.auc_band[0] <= self.auc <= self.auc_band[1]:
            found.append(f"canaries are distinguished with AUC {self.auc:.3f}, not {_range(self.auc_band)}")
        if not self.sigma_band[0] <= self.measured_sigma <= self.sigma_band[1]:
            found.append(f"the noise multiplier is {self.measured_sigma:.3f}, not {_range(self.sigma_band)}")
        return found


def audit(
    plan: StudyPlan,
    *,
    random: SecureRandom,
    device: torch.device,
    canaries: int = 1000,
    on_round: Callable[[int], None] = lambda _: None,
) -> AuditResult:
    """Train the gradient rounds of `plan` on canaries and look for them in what would have been released.

    Args:
        plan: The study plan; its noise, rate, steps, clip norm and model are used.
        random: The coins, and the trainer's own randomness.
        device: Where the site trains.
        canaries: How many; at most half of the model's trained values are used.
        on_round: Called with the number of rounds done after each.

    Raises:
        PlanError: The plan trains without noise, has no gradient phase, or trains by another trainer.
    """
    rounds = trained_rounds(schedule(plan))
    if not rounds or not plan.privacy.enabled:
        raise PlanError(f"plan {plan.name!r} has no noised gradient phase to audit. Audit a plan that has")
    model = initial(plan)
    model.load_arrays({name: np.zeros_like(array) for name, array in model.arrays().items()})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    canaries = min(canaries, sum(parameter.numel() for parameter in trained) // 2)
    present = random.uniform(canaries) < 0.5
    unit = _train(model, plan, rounds, np.flatnonzero(present), random=random, device=device, on_round=on_round)
    released = -torch.cat([parameter.detach().flatten() for parameter in trained]).cpu().double().numpy() / unit
    return _judge(plan, rounds, present, scores=released[:canaries], noise=released[canaries:])


def _train(
    model: Generator,
    plan: StudyPlan,
    rounds: list[Round],
    members: NDArray[np.int64],
    *,
    random: SecureRandom,
    device: torch.device,
    on_round: Callable[[int], None],
) -> float:
    """Run the trainer as a hospital does, one for each round; return how far one clip norm moves a weight."""
    sgd = dataclasses.replace(plan.training, optimizer="sgd", learning_rate=1.0)
    for done, step in enumerate(rounds, start=1):
        CanaryTrainer(
            model,
            cast(Cache, Canaries(members)),
            plan=dataclasses.replace(plan, training=sgd),
            event=step.event,
            random=random,
            divisor_patients=_DIVISOR,
            device=device,
        ).run()
        on_round(done)
    return plan.privacy.clip_norm / (rounds[0].event.sample_rate * _DIVISOR)


@dataclass(frozen=True)
class Canaries:
    """A cohort of artificial patients in place of a cache; `members[i]` is the coordinate of patient i."""

    members: NDArray[np.int64]

    @property
    def patients(self) -> int:
        """Number of canaries that the coin put in."""
        return len(self.members)


class CanaryTrainer(PatientTrainer):
    """The real trainer; only what a patient's gradient is has been replaced."""

    def patient_gradients(self, patients: list[int]) -> Iterator[PatientGradients]:
        """Yield unclipped gradients, [p, parameters]: patient i has ten clip norms on its one coordinate."""
        size = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        members = cast(Canaries, self.cache).members
        for first in range(0, len(patients), _CHUNK):
            chosen = members[patients[first : first + _CHUNK]]
            flat = torch.zeros((len(chosen), size))
            flat[torch.arange(len(chosen)), torch.from_numpy(chosen)] = _OVER_CLIP * self.optimizer.max_grad_norm
            yield DenseGradients(flat.to(self.device))


def _judge(
    plan: StudyPlan, rounds: list[Round], present: NDArray[np.bool_], *, scores: Scores, noise: Scores
) -> AuditResult:
    """Compare scores and noise, both in clip norms and summed over all steps, with what the booking promises."""
    steps = sum(step.event.steps for step in rounds)
    sigma, rate = rounds[0].event.sigma, rounds[0].event.sample_rate
    expected = expected_auc(sigma=sigma, rate=rate, steps=steps)
    slack = _DEVIATIONS * auc_error(expected, len(scores))
    doubt = _DEVIATIONS / math.sqrt(2.0 * len(noise))
    return AuditResult(
        canaries=len(scores),
        steps=steps,
        delta=plan.privacy.delta,
        claimed_epsilon=epsilon([step.event for step in rounds], delta=plan.privacy.delta),
        lower_bound=epsilon_lower_bound(scores, present, delta=plan.privacy.delta),
        auc=area_under_curve(scores, present),
        auc_band=(expected - slack, min(1.0, expected + slack)),
        sigma=sigma,
        measured_sigma=float(noise.std() / math.sqrt(steps)),
        sigma_band=(sigma * (1 - doubt), sigma * (1 + doubt)),
    )


def expected_auc(*, sigma: float, rate: float, steps: int) -> float:
    """Area under the curve that Dirac canaries have under the booked mechanism: drawn b times, seen b clip norms off.

    Args:
        sigma: Noise multiplier.
        rate: Sampling rate.
        steps: Steps in all.
    """
    drawn = np.arange(steps + 1)
    apart = scipy.stats.norm.cdf(drawn / (sigma * math.sqrt(2 * steps)))
    return float(scipy.stats.binom.pmf(drawn, steps, rate) @ apart)


def auc_error(auc: float, canaries: int) -> float:
    """Standard error of an area under the curve with half of the canaries on each side (Hanley & McNeil 1982)."""
    half = canaries / 2
    one, two = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    return math.sqrt((auc * (1 - auc) + (half - 1) * (one + two)) / half**2)


def area_under_curve(scores: Scores, present: NDArray[np.bool_]) -> float:
    """Chance that a canary that was in scores above one that was not; 0.5 where all or none were in."""
    inside, outside = int(present.sum()), int((~present).sum())
    if not inside or not outside:
        return 0.5
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[present].sum() - inside * (inside + 1) / 2) / (inside * outside))


def epsilon_lower_bound(scores: Scores, present: NDArray[np.bool_], *, delta: float) -> float:
    """Epsilon that the mechanism behind `scores` has at least, with 95 % confidence.

    The k highest scores are guessed in and the k lowest out. Several k are tried, and the error that is allowed is
    divided among them.

    Args:
        scores: Score of each canary, [canaries].
        present: Whether each canary was in, [canaries].
        delta: The delta of the claim.
    """
    order = np.argsort(scores)
    most = len(scores) // 2
    sizes = sorted({max(1, round(most * share)) for share in (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)})
    best = 0.0
    for k in sizes:
        right = int(present[order[-k:]].sum() + (~present[order[:k]]).sum())
        allowed = (1 - CONFIDENCE) / len(sizes)
        best = max(best, _largest_refuted(len(scores), 2 * k, right, delta=delta, allowed=allowed))
    return best


def _largest_refuted(canaries: int, guesses: int, right: int, *, delta: float, allowed: float) -> float:
    """Bisect for the largest epsilon under which so many right guesses are less likely than `allowed`; 0 for none."""
    low, high = 0.0, 20.0
    if p_value(canaries, guesses, right, epsilon=low, delta=delta) >= allowed:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        refuted = p_value(canaries, guesses, right, epsilon=middle, delta=delta) < allowed
        low, high = (middle, high) if refuted else (low, middle)
    return low


def p_value(canaries: int, guesses: int, right: int, *, epsilon: float, delta: float) -> float:
    """Greatest chance that an (epsilon, delta)-DP mechanism allows `right` or more of `guesses` to be right.

    Args:
        canaries: Number of canaries.
        guesses: Number of guesses made.
        right: Number of right guesses.
        epsilon: The claimed epsilon.
        delta: The claimed delta.

    Source:
        Steinke, Nasr & Jagielski, Privacy Auditing with One (1) Training Run, 2023, theorem 5.2 and appendix D.
    """
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    beyond = float(scipy.stats.binom.sf(right - 1, guesses, chance))
    if right == 0:
        return 1.0
    fewer = np.arange(1, right + 1)
    slope = float((np.cumsum(scipy.stats.binom.pmf(right - fewer, guesses, chance)) / fewer).max())
    return min(1.0, beyond + slope * delta * 2 * canaries)


def _range(band: tuple[float, float]) -> str:
    return f"{band[0]:.3f} to {band[1]:.3f}"
