"""On the grid one patient moves a sum by at most 2^24, counted in integers, and the sum is exact in any order."""

import math
from pathlib import Path

import numpy as np
import pytest

from client.mechanism import grid
from client.mechanism.grid import on_grid, patients, summed
from common.errors import StateError
from common.mechanism.masked_sum import GRID
from tests.client.moment_cohorts import cache_of, moments_plan, random_patients


def exact_norm(steps: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """Sum of squares in whole numbers of any size."""
    return sum(int(value) ** 2 for value in steps.tolist())


@pytest.mark.parametrize("size", [1, 7, 4000])
@pytest.mark.parametrize("length", [0.001, 1.0, 1.0000001, 3.0, 1e300])
def test_no_vector_is_longer_than_the_grid_allows(size: int, length: float) -> None:
    random = np.random.default_rng(size)
    for sensitivity in (0.3, 1.0, math.sqrt(2.0)):
        vector = random.normal(size=size)
        vector *= length * sensitivity / np.linalg.norm(vector)
        steps = on_grid(vector, sensitivity=sensitivity)
        assert exact_norm(steps) <= 2**48
        if 1.0 <= length < 1e100:
            assert exact_norm(steps) > 0.999 * 2**48
        if length < 1.0:
            np.testing.assert_allclose(steps * sensitivity / GRID, vector, atol=sensitivity / GRID)
            assert (np.abs(steps) * (sensitivity / GRID) <= np.abs(vector) * (1 + 1e-12)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_is_zero(bad: float) -> None:
    assert not on_grid(np.array([0.5, bad, 0.1]), sensitivity=1.0).any()


def test_a_vector_on_the_very_bound_stays_and_one_step_beyond_it_is_shrunk() -> None:
    assert on_grid(np.array([1.0, 0.0]), sensitivity=1.0).tolist() == [2**24, 0]
    assert exact_norm(on_grid(np.array([1.0, 2.0**-24]), sensitivity=1.0)) <= 2**48


def test_a_patient_moves_the_sum_by_the_own_integers_and_no_bit_of_anothers() -> None:
    random = np.random.default_rng(3)
    vectors = [vector / np.linalg.norm(vector) for vector in random.normal(size=(50, 30))]
    whole = summed(vectors, length=30, sensitivity=1.0)
    np.testing.assert_array_equal(whole, summed(vectors[::-1], length=30, sensitivity=1.0))
    for place in (0, 17, 49):
        rest = summed(vectors[:place] + vectors[place + 1 :], length=30, sensitivity=1.0)
        assert 0 < exact_norm(whole - rest) <= 2**48
        np.testing.assert_array_equal(whole - rest, on_grid(vectors[place], sensitivity=1.0))


def test_a_sum_that_could_wrap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grid.MOST_PATIENTS * 2**24 <= 2**62
    monkeypatch.setattr(grid, "MOST_PATIENTS", 3)
    with pytest.raises(StateError, match="at most 3 patients"):
        summed([np.zeros(2)] * 4, length=2, sensitivity=1.0)


def test_every_patient_comes_once_with_all_images(tmp_path: Path) -> None:
    plan = moments_plan()
    cohort = random_patients(9, seed=5)
    cache = cache_of(tmp_path, plan, cohort)
    found = list(patients(cache))
    assert [len(images) for images, _ in found] == [len(labels) for _, labels in cohort]
    assert [labels.tolist() for _, labels in found] == [list(labels) for _, labels in cohort]
    for (images, _), (mine, _) in zip(found, cohort, strict=True):
        np.testing.assert_allclose(images, mine, atol=2e-5)
