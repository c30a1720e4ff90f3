"""Whether a moments release could be sums over one cohort: a norm alone lets a site put all of it into one number.

What an honest site adds up for a patient has a structure (layout in `client.mechanism.moments`): a count in its own
place, and moments whose size that count bounds. Noise blurs each value by a known deviation, so every figure here is
allowed what honest noise passes once in 10**8 times. A site that claims more patients than it has is bounded by
`aggregation.max_patients` and no further: only the site can count them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.mechanism.mechanism import Array

_SLACK = 6.0
"""Deviations that honest noise may take a figure beyond its bound."""
ROUNDED = 1 + 1e-5
"""How much float32 may add to a figure where there is no noise, and a cohort's patients all agree."""
_DUST = 1e-6
"""Patients by which moments may pass their count: a far component's share may be below 1e-38, where float32 rounds a
count by any part of itself."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A release taken apart into m groups of patients: what it says of each, in units of the clip.

    Attributes:
        counts: Noised patients of a group, by class where there are several counts, [m, c].
        sums: Noised sums of vectors of norm at most 1, [m, d].
        scatters: Noised sums of their packed second moments, [m, d (d + 1) / 2], or [m, 0].
        energies: Noised sums of squares that are at most 1 together, [m, e], or [m, 0].
        count_weight: What one patient adds to a count before it is one.
        unit: Clip that the release was divided by.
    """

    counts: Array
    sums: Array
    scatters: Array
    energies: Array
    count_weight: float
    unit: float = 1.0


def contradictions(claim: Claim, deviation: float, *, patients: int) -> Iterator[str]:
    """Say what in a claim no cohort's sums could be.

    Args:
        claim: A finite release, taken apart.
        deviation: Standard deviation of the noise on each value of the release.
        patients: Most that the release may speak for.
    """
    deviation /= claim.unit
    blur = _SLACK * deviation / claim.count_weight
    if (claim.counts < -blur).any():
        yield "it counts fewer patients than none"
    if claim.counts.sum() > patients * ROUNDED + blur * math.sqrt(claim.counts.size):
        yield f"it speaks for more than {patients} patients"
    most = claim.counts.sum(axis=1) * ROUNDED + blur * math.sqrt(claim.counts.shape[1]) + _DUST
    for moments in (claim.sums, claim.scatters, claim.energies):
        if (np.linalg.norm(moments, axis=1) > most + deviation * (math.sqrt(moments.shape[1]) + _SLACK)).any():
            yield "its moments are larger than its patients could make them"
    side = math.isqrt(2 * claim.scatters.shape[1])
    diagonal = np.cumsum([0, *range(side, 1, -1)])[:side]
    if (claim.scatters[:, diagonal].sum(axis=1) < -_SLACK * deviation * math.sqrt(side)).any():
        yield "its second moments are of a negative size"
    if (claim.energies < -_SLACK * deviation).any():
        yield "its energies are negative"
