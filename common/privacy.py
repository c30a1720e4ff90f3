"""Accounting: from the Gaussian mechanisms a site has run to the (epsilon, delta) a patient has been exposed to.

Formal guarantee
    Neighbouring relation: two cohorts of one hospital that differ by adding or removing all images of one patient.
    Each event is `steps` runs of a Gaussian mechanism with noise standard deviation `sigma` times its sensitivity,
    on a Poisson sample that holds each patient with probability `sample_rate`. The composition of all events,
    chosen adaptively, is (epsilon, delta)-DP. `epsilon` returns the smaller of two upper bounds (PRV, Gopi et al.
    2021, with its stated error added; RDP, Mironov 2017), so it never reports less than is true. The GDP
    approximation underestimates (5.27 where 5.62 is true) and is never used.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant

from common.errors import PlanError

_RDP_ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [64, 96, 128, 256, 512, 1024]
LEAST_PRV_DELTA = 1e-8
"""Least delta at which PRV is asked: it convolves floating-point numbers, and below this nobody has compared it."""
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


def epsilon(events: Iterable[GaussianEvent], *, delta: float) -> float:
    """Return an upper bound on epsilon of the composition of `events` at `delta`.

    Returns:
        0.0 without events; infinity when an event has no noise.
    """
    merged: dict[tuple[float, float], int] = defaultdict(int)
    for event in events:
        merged[(event.sigma, event.sample_rate)] += event.steps
    return _epsilon(tuple((sigma, rate, steps) for (sigma, rate), steps in sorted(merged.items())), delta)


@functools.lru_cache(maxsize=4096)
def _epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    if not history:
        return 0.0
    if any(sigma == 0 for sigma, _, _ in history):
        return math.inf
    with np.errstate(all="ignore"):
        rdp = RDPAccountant()
        rdp.history = list(history)
        bound = float(rdp.get_epsilon(delta, alphas=_RDP_ORDERS))
        if delta < LEAST_PRV_DELTA:
            return bound
        prv = PRVAccountant()
        prv.history = list(history)
        try:
            tighter = float(prv.get_epsilon(delta))
        except (ValueError, ArithmeticError, RuntimeError, MemoryError):
            return bound  # PRV can fail numerically at extreme values; RDP alone is a valid, looser bound
    return min(bound, tighter) if math.isfinite(tighter) and tighter > 0 else bound


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
