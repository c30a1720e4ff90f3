"""Privacy losses of subsampled Gaussian mechanisms on one grid, composed exactly by Fourier transform.

Formal guarantee
    `bound` never returns less than the epsilon of the composition. Each step's loss is moved to the two grid points
    around it so that its mass under both P and Q stays ("connect the dots", Doroshenko et al. 2022, 2207.04380): the
    step is then a post-processing of what stands on the grid. Sums of grid points are grid points, so composition adds
    nothing. What lies beyond the grid is bounded by Chernoff's inequality and counts as if it told everything. Both
    directions of the neighbouring relation, a patient added and one removed, are computed; the worse one counts.

How fine the grid is follows from the steps alone: neither time nor free memory enters, so every machine finds the same.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from common.accountant.renyi import Floats, Step, moments

Complexes = NDArray[np.complex128]
Direction = Literal["removed", "added"]

MOST_POINTS = 1 << 17
"""Points of the largest grid: a few MB an array."""
MOST_LOSS = 500.0
"""Largest loss on a grid, so that its exponential is a number."""
_FINENESS = 1e-5
"""What moving losses to grid points may add to epsilon, about, while `MOST_POINTS` allows it."""
_COARSER = 8
"""How many times coarser the grid may be on which the direction that seldom decides is looked at first."""
_BEYOND = 1e-6
"""Part of delta that is set aside for what lies beyond the grid."""
_DEVIATIONS = 9.5
"""Deviations of the noise beyond which a single step counts as if it told everything: 1e-21 of its mass."""
_TILTS: tuple[float, ...] = tuple(float(x) for x in np.geomspace(0.1, 600, 30))
"""Exponents among which Chernoff's inequality takes the best."""
_GAUSS: tuple[Floats, Floats] = tuple(np.polynomial.hermite_e.hermegauss(60))  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Losses from `first` times `width` up to below (`first` + `points`) times `width`."""

    width: float
    first: int
    points: int


def bound(steps: Sequence[Step], *, delta: float) -> float:
    """Return an upper bound on epsilon of the composition of `steps`; infinity where it does not fit a grid.

    Args:
        steps: At least one, each with noise; a sample rate of 1 is a mechanism without sampling.
        delta: Above 0.
    """
    removed = _epsilon(steps, delta, "removed", 1)
    if not math.isfinite(removed) or _epsilon(steps, delta, "added", _COARSER) <= removed:
        return removed
    return max(removed, _epsilon(steps, delta, "added", 1))


def _epsilon(steps: Sequence[Step], delta: float, direction: Direction, coarser: int) -> float:
    grid = _grid(steps, delta, direction, coarser)
    if grid is None:
        return math.inf
    spectrum = np.ones(grid.points // 2 + 1, dtype=np.complex128)
    told = _BEYOND * delta
    for sigma, rate, count in steps:
        factor, everything = _spectrum(sigma, rate, direction, grid.width, grid.points)
        told += count * everything
        _raise(factor, count, spectrum)
    masses = np.roll(np.fft.irfft(spectrum, grid.points), -(grid.first % grid.points))
    return _solve(np.maximum(masses, 0.0), grid, delta - told)


def _raise(factor: Complexes, count: int, spectrum: Complexes) -> None:
    """Multiply `spectrum` by the `count`-th power of `factor`, and set to 0 what is less than 1e-20 then."""
    size = np.abs(factor)
    alive = size > math.exp(-46 / count)
    spectrum[~alive] = 0
    if count == 1:
        spectrum *= factor
    else:
        spectrum[alive] *= np.exp(count * np.log(factor[alive]))


def _solve(masses: Floats, grid: _Grid, delta: float) -> float:
    """The least epsilon, at least 0, at which the masses leave at most `delta`; infinity where none does."""
    start = max(0, -grid.first)
    losses = grid.width * (grid.first + np.arange(start, grid.points))
    if not len(losses) or delta <= 0:
        return math.inf if delta <= 0 else 0.0
    above = np.cumsum(masses[start:][::-1])[::-1]
    weighed = np.cumsum((masses[start:] * np.exp(-losses))[::-1])[::-1]
    left = above - np.exp(losses) * weighed  # at epsilon = each loss
    inside = np.flatnonzero(left > delta)
    if not len(inside):
        return 0.0 if losses[0] > 0 or above[0] - weighed[0] <= delta else float(losses[0])
    after = inside[-1] + 1
    if after == len(losses) or weighed[after] <= 0:
        return float(losses[min(after, len(losses) - 1)])
    return max(0.0, math.log((above[after] - delta) / weighed[after]))


def _grid(steps: Sequence[Step], delta: float, direction: Direction, coarser: int) -> _Grid | None:
    """The grid for the sum of all losses: wide enough for all but a sliver of delta, as fine as `_FINENESS` asks.

    Its width is one of few, so that what was found on it for one sum serves the next.
    """
    count = sum(step[2] for step in steps)
    spread = sum(runs * _variance(sigma, rate, direction) for sigma, rate, runs in steps)
    low, high = _reach(steps, delta, direction)
    if not max(-low, high) < MOST_LOSS:
        return None
    least = (high - low) / (MOST_POINTS // coarser - 4)
    wanted = coarser * math.sqrt(6 * _FINENESS / (count * (0.5 + 2.5 / math.sqrt(spread)))) if spread else least
    power = math.floor(2 * math.log2(wanted)) if wanted > 1.5 * least else math.ceil(2 * math.log2(least))
    width = 2 ** (power / 2)
    points = 1 << max(10, math.ceil(math.log2((high - low) / width + 4)))
    return _Grid(width=width, first=math.floor(low / width) - 1, points=points)


def _reach(steps: Sequence[Step], delta: float, direction: Direction) -> tuple[float, float]:
    """Losses between which the sum lies, but for a part `_BEYOND` of delta on either side (Chernoff)."""
    rare = -math.log(_BEYOND * delta / 2)
    tilts = np.array(_TILTS)
    shift, sign = (1.0, 1.0) if direction == "removed" else (0.0, -1.0)
    up = sum(runs * moments(sigma, rate, tuple(shift + sign * tilts)) for sigma, rate, runs in steps)
    down = sum(runs * moments(sigma, rate, tuple(shift - sign * tilts)) for sigma, rate, runs in steps)
    with np.errstate(invalid="ignore"):
        return -float(np.nanmin((down + rare) / tilts)), float(np.nanmin((up + rare) / tilts))


def _variance(sigma: float, rate: float, direction: Direction) -> float:
    """About the variance of one step's loss; it chooses a grid and enters no bound."""
    points, weights = _GAUSS
    if rate == 1:
        return 1 / sigma**2
    found = []
    for centre in (0.0, 1.0):
        loss = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * (centre + sigma * points) - 1) / (2 * sigma**2))
        found.append((weights @ loss / weights.sum(), weights @ loss**2 / weights.sum()))
    parts = (1 - rate, rate) if direction == "removed" else (1.0, 0.0)
    mean, square = (sum(part * moment[i] for part, moment in zip(parts, found, strict=True)) for i in (0, 1))
    return max(0.0, float(square - mean**2))


@functools.lru_cache(maxsize=128)
def _spectrum(sigma: float, rate: float, direction: Direction, width: float, points: int) -> tuple[Complexes, float]:
    """The Fourier transform of one step's losses under P on a circle, and the mass that counts as if all were told."""
    index, masses, everything = _masses(sigma, rate, direction, width)
    return np.fft.rfft(np.bincount(index % points, weights=masses, minlength=points)), everything


def _masses(sigma: float, rate: float, direction: Direction, width: float) -> tuple[NDArray[np.int64], Floats, float]:
    """Where on the grid one step's losses lie, with which mass under P, and the mass above them all."""
    low, high = (_loss(place, sigma, rate) for place in (-_DEVIATIONS * sigma, 1 + _DEVIATIONS * sigma))
    first, last = (low, high) if direction == "removed" else (-high, -low)
    first, last = max(first, -MOST_LOSS), min(last, MOST_LOSS)
    index = np.arange(math.floor(first / width), math.ceil(last / width) + 1)
    edges: Floats = index.astype(np.float64) * width
    places = _places(edges, sigma, rate) if direction == "removed" else -_places(-edges, sigma, rate)
    plain, shifted = _between(places, 0.0), _between(places, 1 / sigma if direction == "removed" else -1 / sigma)
    mixed = (1 - rate) * plain + rate * shifted
    mass, other = (mixed, plain) if direction == "removed" else (plain, mixed)
    upper = np.clip((mass - np.exp(edges[:-1]) * other) / -math.expm1(-width), 0.0, mass)
    local = np.concatenate([[0.0], upper])
    local[:-1] += mass - upper
    ends = np.array([ndtr(places[0]), ndtr(-places[-1])])
    if direction == "removed":
        ends = (1 - rate) * ends + rate * np.array([ndtr(places[0] - 1 / sigma), ndtr(1 / sigma - places[-1])])
    local[0] += ends[0]
    return index, local, float(ends[1])


def _loss(place: float, sigma: float, rate: float) -> float:
    """The loss of what is released at `place`, log(P/Q)."""
    told = (2 * place - 1) / (2 * sigma**2)
    return told if rate == 1 else float(np.logaddexp(math.log1p(-rate), math.log(rate) + told))


def _places(losses: Floats, sigma: float, rate: float) -> Floats:
    """Where each loss is released, in deviations of the noise; minus infinity for one below every loss."""
    told = losses
    if rate < 1:
        with np.errstate(divide="ignore", over="ignore"):
            told = np.log1p(np.maximum(np.expm1(losses) / rate, -1.0))
    return sigma * told + 1 / (2 * sigma)


def _between(places: Floats, centre: float) -> Floats:
    """Mass of a Gaussian of deviation 1 between neighbouring places, exact in both tails."""
    far = places - centre
    tails = ndtr(-np.abs(far))
    split = (far[:-1] < 0) & (far[1:] > 0)
    found: Floats = np.where(split, 1 - tails[:-1] - tails[1:], np.abs(tails[:-1] - tails[1:]))
    return found
