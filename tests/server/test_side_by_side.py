"""Replies that are compared value by value lie on disk, and leave nothing behind."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import trim_mean

from common.model.weights import Weights
from server.aggregation import side_by_side
from server.aggregation.side_by_side import SideBySide

SHAPES = {"b": (3, 5), "a": (7,), "scalar": ()}


def terms(count: int) -> list[Weights]:
    random = np.random.default_rng(2)
    return [{n: random.normal(size=s).astype(np.float32) for n, s in SHAPES.items()} for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 11])
@pytest.mark.parametrize("slab", [2, 2**20])
def test_median_and_trimmed_mean_are_the_textbooks_in_any_number_of_slabs(
    tmp_path: Path, count: int, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_SLAB_VALUES", slab)
    given = terms(count)
    beside = SideBySide(SHAPES, folder=tmp_path)
    for term in given:
        beside.add(term)
    median, trimmed = beside.median(), beside.trimmed_mean(0.2)
    for name, shape in SHAPES.items():
        stacked = np.stack([term[name] for term in given]).astype(np.float64)
        assert median[name].shape == trimmed[name].shape == shape
        np.testing.assert_allclose(median[name], np.median(stacked, axis=0), rtol=1e-6)
        np.testing.assert_allclose(trimmed[name], trim_mean(stacked, 0.2, axis=0), rtol=1e-5, atol=1e-7)


def test_a_term_of_other_arrays_is_refused_and_not_kept(tmp_path: Path) -> None:
    beside = SideBySide(SHAPES, folder=tmp_path)
    whole = terms(1)[0]
    beside.add(whole)
    for wrong in ({"a": whole["a"]}, whole | {"a": whole["a"][:2]}, whole | {"more": whole["a"]}):
        with pytest.raises(ValueError, match="other arrays"):
            beside.add(wrong)
    np.testing.assert_array_equal(beside.median()["a"], whole["a"])


def test_nothing_lies_in_the_folder_while_it_works_or_afterwards(tmp_path: Path) -> None:
    beside = SideBySide(SHAPES, folder=tmp_path)
    beside.add(terms(1)[0])
    assert list(tmp_path.iterdir()) == []
    del beside
    assert list(tmp_path.iterdir()) == []
