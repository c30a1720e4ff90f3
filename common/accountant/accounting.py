"""Accounting: from the Gaussian mechanisms a site has run to the (epsilon, delta) a patient has been exposed to.

Formal guarantee
    Neighbouring relation: two cohorts of one hospital that differ by adding or removing all images of one patient.
    Each event is `steps` runs of a Gaussian mechanism with noise standard deviation `sigma` times its sensitivity,
    on a Poisson sample that holds each patient with probability `sample_rate`. The composition of all events,
    chosen adaptively, is (epsilon, delta)-DP. `epsilon` returns the smaller of two upper bounds: privacy loss
    distributions (`common.accountant.privacy_loss`), with a stated error on top, and RDP (`common.accountant.renyi`).
    So it never reports less than is true. The GDP approximation underestimates (5.27 where 5.62 is true) and is never
    used.

Runs on every patient (`sample_rate` 1) are merged exactly: together they are one run with the sum of `steps / sigma^2`.
Which bound is asked follows from the events and delta alone, never from memory or time: every machine finds the same.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from scipy.special import log_ndtr

from common.accountant import privacy_loss, renyi
from common.errors import PlanError

LEAST_LOSS_DELTA = 1e-8
"""Least delta at which loss distributions are asked: they are sums of floating-point numbers."""
MOST_KINDS = 128
"""Most different sampled mechanisms that are kept distinct; of more, similar ones count as the worst of them."""
LEAST_SIGMA, MOST_SIGMA = 1e-3, 1e100
"""Less noise than the first counts as none, and more than the second as the second: so that squares are numbers."""
MOST_STEPS = 10**8
"""Most steps of sampled mechanisms whose losses are composed, as rounding grows with them."""
STATED_ERROR = 0.01
"""What is added to the loss distributions' epsilon.

They need hundreds of times less. Earlier versions found epsilon by PRV (Gopi et al. 2021) to within this error, and the
noise of a plan follows from epsilon: with it, plans keep the noise that their ledgers hold.
"""
STATED_SHARE = 1e-3
"""Part of delta that is set aside for rounding, for the same reason as much as PRV set aside."""
TOLERANCE = 1e-3
"""Relative width at which the search for a noise multiplier stops; it stops on the private side."""


@dataclass(frozen=True, kw_only=True)
class GaussianEvent:
    """Runs of one subsampled Gaussian mechanism.

    Attributes:
        sigma: Noise standard deviation over the sensitivity (noise multiplier); 0 means no noise at all.
        sample_rate: Poisson probability of a patient at each step; 1 means every patient.
        steps: Number of runs.
    """

    sigma: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and 0 < self.sample_rate <= 1 and self.steps > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"not a Gaussian event: {self}")

    def with_share(self, share: float) -> "GaussianEvent":
        """The same runs with this part of the noise's standard deviation."""
        return replace(self, sigma=self.sigma * share)


def epsilon(events: Iterable[GaussianEvent], *, delta: float) -> float:
    """Return an upper bound on epsilon of the composition of `events` at `delta`.

    Returns:
        0.0 without events, and never less; infinity when an event has no noise.
    """
    merged: dict[tuple[float, float], int] = defaultdict(int)
    for event in events:
        merged[(event.sigma, event.sample_rate)] += event.steps
    return _epsilon(tuple((sigma, rate, steps) for (sigma, rate), steps in sorted(merged.items())), delta)


@functools.lru_cache(maxsize=4096)
def _epsilon(history: tuple[renyi.Step, ...], delta: float) -> float:
    if not history:
        return 0.0
    if any(sigma < LEAST_SIGMA for sigma, _, _ in history):
        return math.inf
    steps = _merged(history)
    bound = renyi.bound(steps, delta=delta)
    if delta < LEAST_LOSS_DELTA or sum(count for _, _, count in steps) > MOST_STEPS:
        return bound
    return min(bound, _by_losses(steps, delta * (1 - STATED_SHARE)) + STATED_ERROR)


def _merged(history: Sequence[renyi.Step]) -> list[renyi.Step]:
    """The history with every run on all patients merged into one, exactly, and not too many kinds of the others."""
    told = math.fsum(steps / min(sigma, MOST_SIGMA) ** 2 for sigma, rate, steps in history if rate == 1)
    merged = _gathered([(min(sigma, MOST_SIGMA), rate, steps) for sigma, rate, steps in history if rate < 1])
    return [*merged, (1 / math.sqrt(told), 1.0, 1)] if told else merged


def _gathered(sampled: list[renyi.Step]) -> list[renyi.Step]:
    """At most `MOST_KINDS` mechanisms that cost no less: of each group the least noise and the highest rate."""
    width = 1 / 128
    while len(sampled) > MOST_KINDS:
        groups: dict[tuple[int, int], list[renyi.Step]] = defaultdict(list)
        for step in sampled:
            groups[(math.floor(math.log(step[0]) / width), math.floor(math.log(step[1]) / width))].append(step)
        sampled = [
            (min(sigmas), max(rates), sum(steps))
            for sigmas, rates, steps in (zip(*group, strict=True) for group in groups.values())
        ]
        width *= 2
    return sampled


def _by_losses(steps: list[renyi.Step], delta: float) -> float:
    if len(steps) == 1 and steps[0][1] == 1:
        return gaussian_epsilon(steps[0][0], delta=delta)
    return privacy_loss.bound(steps, delta=delta)


def gaussian_epsilon(sigma: float, *, delta: float) -> float:
    """Epsilon of one Gaussian mechanism on all patients, exact to 1e-12 and rounded up (Balle & Wang 2018, theorem 8).

    Args:
        sigma: Its noise multiplier.
        delta: Above 0.
    """

    def exceeds(eps: float) -> bool:
        near, far = 1 / (2 * sigma) - eps * sigma, -1 / (2 * sigma) - eps * sigma
        return math.exp(log_ndtr(near)) - math.exp(eps + log_ndtr(far)) > delta

    if not exceeds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while exceeds(high):
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def smallest_multiplier(cost: Callable[[float], float], *, limit: float, what: str) -> float:
    """Find the least noise multiplier whose cost stays within the limit.

    Args:
        cost: Epsilon as a function of the multiplier; falls as the multiplier grows.
        limit: Epsilon that may not be passed.
        what: Named in the error.

    Returns:
        A multiplier with `cost(multiplier) <= limit`, at most `TOLERANCE` (relative) above the least one.

    Raises:
        PlanError: No multiplier below 1e5 is enough.
    """
    low, high = 0.0, 1.0
    while cost(high) > limit:
        low, high = high, high * 2
        if high > 1e5:
            raise PlanError(f"plan: epsilon {limit:g} is too small for {what}. Raise epsilon or train fewer steps")
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= limit else (middle, high)
    return high
