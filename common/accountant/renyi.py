"""Rényi moments of the Poisson-subsampled Gaussian mechanism, and the bound on epsilon that follows from them.

    P is what a step releases with the patient, Q without: P = (1 - q) N(0, σ²) + q N(1, σ²), Q = N(0, σ²). The moment
    of order α is log E_Q[(P/Q)^α]. It is integrated by the trapezoid rule, which errs by less than 1e-16 on functions
    this smooth (Trefethen & Weideman 2014), for all orders at once. Steps of all kinds add up.

Source:
    Mironov, Talwar & Zhang 2019 (1908.10530) for the moment, Balle et al. 2020 (1905.09982, theorem 21) for epsilon.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Step = tuple[float, float, int]
"""Noise multiplier, sample rate and number of runs of one mechanism."""
Floats = NDArray[np.float64]

ORDERS: Floats = np.array([1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 64, 96, 128, 256, 512, 1024])
"""Orders at which the bound is looked for."""
_NEAR, _FAR = 11, 64
"""Orders up to the first are integrated together, those up to the second too, on as many points as the last needs."""
_TAIL = 14.0
"""Deviations that the integral goes beyond the outermost peak: less than 1e-40 of a peak lies there."""
_MOST_POINTS = 1 << 16
"""Points of the longest integral. An order that needs more is bounded as if every patient were drawn."""


def bound(steps: Iterable[Step], *, delta: float) -> float:
    """Return an upper bound on epsilon of the composition of `steps`, none of which is without noise."""
    total = np.zeros_like(ORDERS)
    for sigma, rate, count in steps:
        total = total + count * moments(sigma, rate, tuple(ORDERS))
    with np.errstate(invalid="ignore"):
        found = (total - math.log(delta) - np.log(ORDERS)) / (ORDERS - 1) + np.log1p(-1 / ORDERS)
    return max(0.0, float(np.nanmin(found)))


@functools.lru_cache(maxsize=4096)
def moments(sigma: float, rate: float, orders: tuple[float, ...]) -> Floats:
    """Return log E_Q[(P/Q)^α] for each order α, negative ones too; a bound where the integral would be too long.

    Args:
        sigma: Noise multiplier.
        rate: Sampling rate, above 0 and at most 1.
        orders: Orders α.
    """
    alphas = np.array(orders)
    whole: Floats = alphas * (alphas - 1) / (2 * sigma**2)
    if rate == 1:
        return whole
    found = np.where(alphas >= 1, whole, np.inf)  # sampling lowers every moment
    step = min(0.25, sigma / 4)  # the nearest singularity lies π σ away from the real line
    size = np.abs(alphas)
    groups = [size <= _NEAR, (size > _NEAR) & (size <= _FAR), *(alphas == far for far in alphas[size > _FAR])]
    for group in groups:
        if not group.any():
            continue
        some = alphas[group]
        low, high = _lowest(sigma, rate, float(some.min())), max(0.0, some.max() / sigma) + _TAIL
        if high - low <= step * _MOST_POINTS:
            found[group] = _integrate(sigma, rate, some, np.arange(low, high, step)) + math.log(step)
    return found


def _lowest(sigma: float, rate: float, order: float) -> float:
    """Where the integral may begin: below, the integrand is less than 1e-40 of the whole.

    A negative order weighs at least 1/2 in all, and nowhere more than (1 - q)^α times the density.
    """
    if order >= 0:
        return -_TAIL
    return -min(_TAIL - order / sigma, math.sqrt(_TAIL**2 + 2 * order * math.log1p(-rate)))


def _integrate(sigma: float, rate: float, alphas: Floats, z: Floats) -> Floats:
    """Logarithm of the sum over `z` (deviations of Q) of Q's density times (P/Q)^α."""
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + z / sigma - 1 / (2 * sigma**2))
    terms = alphas[:, None] * loss - z**2 / 2 - math.log(2 * math.pi) / 2
    most = terms.max(axis=1)
    found: Floats = most + np.log(np.exp(terms - most[:, None]).sum(axis=1))
    return found
