"""A running sum of float32 arrays that is bitwise the same for every order of its terms.

Floating-point addition depends on its order; integer addition does not. Each value is written as a 64-bit fixed-point
number, 2**14 terms of the stated reach fit without overflow, and the sum takes 8 bytes a value, however many terms.
With a reach of 128 a value is kept to 2**-41, finer than float32 holds any value above 1e-5. A moments release under
the default `aggregation.max_patients` reaches to 2**24 and is kept to 2**-24, which is nothing against its noise.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from common.model.weights import Weights

MOST_TERMS = 2**14
_BITS = 62
_SLAB = 2**18
"""Values turned at a time, so that the turning takes no memory worth naming."""


class ExactSum:
    """Adds named arrays; the first term allocates.

    Args:
        reach: By array name, the largest magnitude that any value of any term has; a term past it is the caller's
            mistake and raises.
    """

    def __init__(self, reach: Mapping[str, float]) -> None:
        self._shift = {name: _BITS - 14 - _exponent(most) for name, most in reach.items()}
        self._sums: dict[str, NDArray[np.int64]] = {}
        self.terms = 0

    def add(self, term: Weights) -> None:
        """Add one term; it is not kept.

        Raises:
            ValueError: Another set of names, a value past its reach or not finite, or more than `MOST_TERMS` terms.
        """
        if set(term) != set(self._shift) or self.terms == MOST_TERMS:
            raise ValueError(f"a term of {sorted(term)[:3]}..., number {self.terms + 1}, cannot be added")
        for name, array in term.items():
            most = float(np.abs(array).max(initial=0.0))
            if not most <= math.ldexp(1.0, _BITS - 14 - self._shift[name]):
                raise ValueError(f"array {name!r} has a value past its reach")
        for name, array in term.items():
            if name not in self._sums:
                self._sums[name] = np.zeros(array.shape, np.int64)
            self._add(self._sums[name].reshape(-1), array.reshape(-1), self._shift[name])
        self.terms += 1

    def total(self, name: str) -> NDArray[np.float64]:
        """The sum of one array's terms."""
        return np.ldexp(self._sums[name].astype(np.float64), -self._shift[name])

    def mean(self, names: Iterable[str]) -> Weights:
        """Mean of some arrays' terms, float32; these are used up one by one, so that memory never holds both."""
        means: Weights = {}
        for name in names:
            total = self._sums.pop(name)
            flat, mean = total.reshape(-1), np.empty(total.size, np.float32)
            for start in range(0, total.size, _SLAB):
                slab = flat[start : start + _SLAB].astype(np.float64)
                mean[start : start + _SLAB] = np.ldexp(slab, -self._shift[name]) / self.terms
            means[name] = mean.reshape(total.shape)
        return means

    @staticmethod
    def _add(total: NDArray[np.int64], values: NDArray[np.float32], shift: int) -> None:
        for start in range(0, total.size, _SLAB):
            scaled = np.ldexp(values[start : start + _SLAB].astype(np.float64), shift)
            total[start : start + _SLAB] += np.rint(scaled).astype(np.int64)


def _exponent(reach: float) -> int:
    """Smallest e with reach <= 2**e."""
    mantissa, exponent = math.frexp(reach)
    return exponent - 1 if mantissa == 0.5 else exponent
