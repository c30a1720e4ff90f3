"""The utility release: how well the global model redraws a site's patients, as a noised sum and a noised count.

Both sides share what is here: the release's name, its bound, and how the server reads it.
"""

import math

from common.accountant.accounting import GaussianEvent
from common.mechanism.mechanism import Array, Reading, Rider

NAME = "utility"
"""The array's name in a reply: [2] float32, the sum of the patients' errors and their number, both noised."""

WORST = 1.0
"""Errors are clipped to this: root mean square per pixel of a patient's images in [-1, 1]."""

SENSITIVITY = math.hypot(WORST, 1.0)
"""One patient moves (sum, count) by (at most WORST, 1)."""

_CERTAIN = 3.0
"""Standard deviations of noise that the count must exceed, or the quotient says nothing."""


def read(total: Array, noise: float) -> Reading | None:
    """Make an error of the sum of the sites' releases of one round.

    Args:
        total: [2], summed over the sites.
        noise: Standard deviation of the noise on each value of the sum.

    Returns:
        Mean over all patients of the root mean square error per pixel, with its standard deviation by the noise alone
        (delta method). None where the noise is as large as the count.
    """
    errors, count = float(total[0]), float(total[1])
    if count <= _CERTAIN * noise or count <= 0:
        return None
    error = min(max(errors / count, 0.0), WORST)
    return Reading(value=error, std=noise * math.hypot(1.0, error) / count)


def _leaves(event: GaussianEvent) -> list[str]:
    return [
        "with each refined generator: how well the one before redraws the patients' images, one sum and",
        f"their number, noise {event.sigma:.2f} times what one patient can add; paid for above",
    ]


RIDERS = (
    Rider(
        name=NAME,
        module="utility",
        share=lambda plan: plan.privacy.utility_share,
        rides_on=lambda mechanism: mechanism.trains,
        shape=(2,),
        sensitivity=SENSITIVITY,
        read=read,
        leaves=_leaves,
        title="RMSE at the sites",
        column="site_error",
    ),
)
