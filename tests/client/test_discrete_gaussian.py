"""Noise of whole numbers has exactly the discrete Gaussian's probabilities, and the same draw on every processor."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from client.mechanism import discrete_gaussian as module
from client.mechanism.discrete_gaussian import MOST_DEVIATION, discrete_gaussian
from client.mechanism.randomness import SecureRandom


def drawn(deviation: float, count: int = 200_000, *, seed: int = 1) -> NDArray[np.int64]:
    return discrete_gaussian(count, deviation=deviation, random=SecureRandom.simulated(seed, "noise"))


@pytest.mark.parametrize("deviation", [1.0, 1.5, 2.9, 4.0, 11.3])
def test_frequencies_are_the_discrete_gaussians(deviation: float) -> None:
    """Chi-square against the probabilities themselves, tails gathered; the power of two may lie above or below."""
    x, reach = drawn(deviation), math.ceil(4 * deviation)
    values = np.arange(-40 * reach, 40 * reach + 1)
    chances = np.exp(-(values**2) / (2 * deviation**2))
    chances /= chances.sum()
    inside = np.abs(values) <= reach
    expected = np.append(chances[inside], chances[~inside].sum()) * len(x)
    found = np.array([np.count_nonzero(x == value) for value in values[inside]])
    found = np.append(found, len(x) - found.sum())
    assert stats.chisquare(found, expected).pvalue > 1e-3


@pytest.mark.parametrize("deviation", [2.0**20, 1.37 * 2**24, 2.0**31])
def test_at_the_sizes_in_use_it_is_as_a_rounded_gaussian(deviation: float) -> None:
    """Kolmogorov-Smirnov, variance to its own error, fair signs, and no value next to another too often."""
    x = drawn(deviation, 60_000)
    assert stats.kstest(x / deviation, "norm").pvalue > 1e-3
    assert np.mean((x / deviation) ** 2) == pytest.approx(1.0, abs=4 * math.sqrt(2 / len(x)))
    assert abs(np.count_nonzero(x > 0) / len(x) - 0.5) < 4 * 0.5 / math.sqrt(len(x))
    low_bits = np.bincount(x & 15, minlength=16)
    assert stats.chisquare(low_bits).pvalue > 1e-3


def test_the_sampler_agrees_with_opendps_exact_one() -> None:
    """Two samples, one of a sampler that was proved and audited by others."""
    dp = pytest.importorskip("opendp.prelude")
    dp.enable_features("contrib")
    theirs = dp.m.make_gaussian(dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float), scale=50.0)
    assert stats.ks_2samp(drawn(50.0, 4000), theirs([0] * 4000)).pvalue > 1e-3


def test_doubt_changes_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error allowed for that puts most comparisons in doubt, decimal arithmetic finds the same values."""
    certain = drawn(1000.0, 300)
    calls = 0
    exact = module._Drawing._exactly_accepted

    def counted(drawing: module._Drawing, size: int, uniform: int) -> bool:
        nonlocal calls
        calls += 1
        return exact(drawing, size, uniform)

    monkeypatch.setattr(module, "_ERROR", 2.0**-11)
    monkeypatch.setattr(module, "_MARGIN", 0.3)
    monkeypatch.setattr(module._Drawing, "_exactly_accepted", counted)
    np.testing.assert_array_equal(drawn(1000.0, 300), certain)
    assert calls > 100


def test_the_widest_and_the_narrowest_steps_are_settled_by_more_bits() -> None:
    """The first step of the uniform reaches to infinity; one that holds a boundary is cut until it does not."""
    drawing = module._Drawing(2.0**40, SecureRandom.simulated(2, "x"))
    first = drawing._sizes(np.array([0], np.uint64))[0]
    assert first >= 2**40 * 53 * math.log(2) * 0.999
    last = drawing._sizes(np.array([2**53 - 1], np.uint64))[0]
    assert 0 <= last <= 1


def test_two_streams_differ_and_one_stream_gives_one_draw() -> None:
    np.testing.assert_array_equal(drawn(100.0, 1000), drawn(100.0, 1000))
    assert (drawn(1e6, 1000) != drawn(1e6, 1000, seed=2)).mean() > 0.99
    assert len(discrete_gaussian(0, deviation=5.0, random=SecureRandom.from_os())) == 0


@pytest.mark.parametrize("deviation", [0.0, 0.99, -1.0, math.nan, math.inf, MOST_DEVIATION * 2])
def test_a_deviation_that_is_none_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="discrete Gaussian"):
        discrete_gaussian(3, deviation=deviation, random=SecureRandom.from_os())
