"""Discrete Gaussian noise: exact integers from a secret stream of bits, a whole array at a time.

Formal guarantee
    Each value is x with probability proportional to exp(-x^2 / (2 s^2)), for the float64 number s as it is, given a
    stream of independent fair bits. No probability is rounded. A comparison is made in float64 where its outcome is
    beyond that arithmetic's error, and by decimal arithmetic with as many more bits as it takes where it is not. The
    float64 error that is allowed for is 16 times what NumPy states for `log` and `exp` (4 units in the last place).

Method
    With E exponential, floor(t E) is geometric with ratio exp(-1 / t). It gets a sign, and a negative zero is drawn
    again. Such a discrete Laplace value x is accepted with probability exp(-(|x| / s - s / t)^2 / 2), which makes it
    discrete Gaussian for every t (Canonne, Kamath & Steinke 2020, 2004.00010, algorithm 3 and its proof). The power of
    two next to s is taken for t, so at least 0.65 are accepted. The bits that a doubtful comparison needs come from a
    stream of their own: how often there is doubt, which depends on the processor, changes no other value.
"""

import decimal
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from client.mechanism.randomness import SecureRandom

MOST_DEVIATION = 2.0**44
_BITS = 53
_ERROR = 2.0**-46
"""Relative error of `log` and `exp` that is allowed for, and a few roundings."""
_MARGIN = 2.0**-44
"""The same of an acceptance probability, absolute: |a| exp(-a^2 / 2) is at most 1, and a is known to 2^-49 or so."""
_PRECISION = 60
_MOST_AT_ONCE = 1 << 20


def discrete_gaussian(count: int, *, deviation: float, random: SecureRandom) -> NDArray[np.int64]:
    """Draw independent values [count], int64.

    Args:
        count: How many.
        deviation: The parameter s, about the standard deviation; at least 1.
        random: Source of the bits.

    Raises:
        ValueError: The deviation is below 1 or above `MOST_DEVIATION`.
    """
    if not 1.0 <= deviation <= MOST_DEVIATION:
        raise ValueError(f"no discrete Gaussian of deviation {deviation} is drawn here")
    drawing = _Drawing(deviation, random)
    drawn, have = np.empty(count, np.int64), 0
    while have < count:
        fresh = drawing.some(min(_MOST_AT_ONCE, int((count - have) * 1.6) + 64))
        taken = min(count - have, len(fresh))
        drawn[have : have + taken] = fresh[:taken]
        have += taken
    return drawn


class _Drawing:
    """Draws of one deviation from one stream."""

    def __init__(self, deviation: float, random: SecureRandom) -> None:
        self._s, self._random = deviation, random
        self._more = SecureRandom(random.words(4).tobytes())
        self._t = 1 << round(math.log2(deviation))

    def some(self, proposals: int) -> NDArray[np.int64]:
        """Of so many proposals those that are accepted, in order."""
        words = self._random.words(2 * proposals)
        sizes = self._sizes(words[:proposals] >> np.uint64(64 - _BITS))
        second = words[proposals:]
        negative = (second & np.uint64(1)).astype(bool)
        accepted = self._accepted(sizes, second >> np.uint64(64 - _BITS)) & ~(negative & (sizes == 0))
        signed: NDArray[np.int64] = np.where(negative, -sizes, sizes)[accepted]
        return signed

    def _sizes(self, uniform: NDArray[np.uint64]) -> NDArray[np.int64]:
        """floor(-t ln U) for U in the steps of 2^-53 that these integers number."""
        middle = (uniform.astype(np.float64) + 0.5) * 2.0**-_BITS
        far = -self._t * np.log(middle)
        reach = far * _ERROR + self._t * (_ERROR + 2.0 ** -(_BITS + 1) / middle * 1.25) + 2.0**-20
        reach = np.where(uniform == 0, math.inf, reach)  # the first step reaches to infinity
        low, high = np.floor(np.maximum(far - reach, 0.0)), np.floor(far + reach)
        sizes = np.where(low == high, low, 0.0).astype(np.int64)
        for place in np.flatnonzero(low != high):
            sizes[place] = self._exact_size(int(uniform[place]))
        return sizes

    def _accepted(self, sizes: NDArray[np.int64], uniform: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether U < exp(-(x / s - s / t)^2 / 2)."""
        off = sizes / self._s - self._s / self._t
        chance, drawn = np.exp(-0.5 * off * off), uniform.astype(np.float64) * 2.0**-_BITS
        accepted: NDArray[np.bool_] = drawn < chance - _MARGIN
        for place in np.flatnonzero(~accepted & (drawn <= chance + _MARGIN)):
            accepted[place] = self._exactly_accepted(int(sizes[place]), int(uniform[place]))
        return accepted

    def _exact_size(self, uniform: int) -> int:
        bits, precision = _BITS, _PRECISION
        while True:
            with decimal.localcontext(prec=precision):
                unit, slack = Decimal(2) ** bits, Decimal(10) ** (5 - precision)
                nearest = -self._t * ((uniform + 1) / unit).ln()
                farthest = -self._t * (uniform / unit).ln() if uniform else Decimal("Infinity")
                low = math.floor(max(Decimal(0), nearest * (1 - slack)))
                if farthest.is_finite() and low == math.floor(farthest * (1 + slack)):
                    return low
            uniform, bits, precision = self._extended(uniform), bits + 64, precision + 25

    def _exactly_accepted(self, size: int, uniform: int) -> bool:
        s = Fraction(self._s)
        off = Fraction(size) / s - s / self._t
        exponent, bits, precision = off * off / 2, _BITS, _PRECISION
        while True:
            with decimal.localcontext(prec=precision):
                slack = Decimal(10) ** (5 - precision)
                chance = (-Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
                unit = Decimal(2) ** bits
                if (uniform + 1) / unit <= chance - slack:
                    return True
                if uniform / unit >= chance + slack:
                    return False
            uniform, bits, precision = self._extended(uniform), bits + 64, precision + 25

    def _extended(self, uniform: int) -> int:
        return uniform << 64 | int(self._more.words(1)[0])
