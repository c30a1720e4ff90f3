"""DICOM from a known picture, in combinations that hypothesis draws: the cache holds it to the stated error.

`python -m tests.benchmarks.dicom_combinations` goes through all of them.
"""

import functools
import warnings

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client.combinations import Spec, all_specs, allowed, make, worst
from tests.client.decoding import decode


@functools.cache
def specs() -> list[Spec]:
    return list(all_specs())


def test_there_are_tens_of_thousands_of_them() -> None:
    assert len(specs()) > 30_000


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_cache_holds_the_picture_that_was_written(data: st.DataObject) -> None:
    spec = specs()[data.draw(st.integers(0, len(specs()) - 1), label="number")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pictures, reason = decode(make(spec), window=spec.window)
    assert (len(pictures), reason) == (spec.frames, ""), spec
    assert worst(spec, pictures) <= allowed(spec), spec
