"""The utility release: how well the global model redraws a site's patients, as a noised sum and a noised count.

Both sides share what is here: the release's name, its bound, and how the server reads it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAME = "utility"
"""The array's name in a reply: [2] float32, the sum of the patients' errors and their number, both noised."""

WORST = 1.0
"""Errors are clipped to this: root mean square per pixel of a patient's images in [-1, 1]."""

SENSITIVITY = math.hypot(WORST, 1.0)
"""One patient moves (sum, count) by (at most WORST, 1)."""

_CERTAIN = 3.0
"""Standard deviations of noise that the count must exceed, or the quotient says nothing."""


@dataclass(frozen=True, kw_only=True)
class Utility:
    """What the server makes of the sites' utility releases.

    Attributes:
        error: Mean over all patients of the root mean square error per pixel.
        std: Standard deviation of that by the noise alone (delta method).
    """

    error: float
    std: float


def read(total: NDArray[np.float64], *, sites: int, sigma: float) -> Utility | None:
    """Make an error of the sum of the sites' releases of one round.

    Args:
        total: [2], summed over the sites.
        sites: How many released.
        sigma: Noise multiplier of each release.

    Returns:
        None where the noise is as large as the count.
    """
    errors, count = float(total[0]), float(total[1])
    noise = sigma * SENSITIVITY * math.sqrt(sites)
    if count <= _CERTAIN * noise or count <= 0:
        return None
    error = min(max(errors / count, 0.0), WORST)
    return Utility(error=error, std=noise * math.hypot(1.0, error) / count)
