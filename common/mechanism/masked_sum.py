"""The masked sum as both sides agree on it: integers on a grid, noise shared between hospitals, uint64 on the wire.

Formal guarantee (of the noise)
    A hospital adds to its integers (`client.mechanism.grid`) an independent discrete Gaussian of parameter
    s = sigma 2^24 / sqrt(H - c - d) to each value. What c colluding hospitals know of the total's noise is their own
    part, so at least H - c - d shares are left. Their sum differs from a discrete Gaussian of parameter
    sigma 2^24 by a factor of at most exp(10 n exp(-pi^2 s^2)) (Kairouz, Liu & Steinke 2021, 2102.06387, on sums of
    discrete Gaussians): at s of `LEAST_DEVIATION` that is nothing a float64 can hold.

    The accountant counts it as a Gaussian of that sigma. Let R be a continuous Gaussian of that parameter S, rounded to
    integers: as the query is one of integers, R is the Gaussian mechanism with a rounding behind it, which is
    post-processing. Of a value x = z S the discrete Gaussian D has, with a = |z| / (2 S),
        R(x) / D(x) in [exp(-1 / (24 S^2)), sinh(a) / a], and sinh(a) / a <= exp(z^2 / (24 S^2)),
    up to a common factor below exp(2 exp(-2 pi^2 S^2)): expand the integral of exp(-x u / S^2 - u^2 / (2 S^2)) over
    |u| <= 1/2, by Jensen from below. For m values the logarithms add up. Outside of an event of chance exp(-50) the sum
    of z^2 is at most (sqrt(2 m + 150) + 1 / sigma)^2 (Laurent & Massart 2000), before or after one patient's part. So
    epsilon grows by at most `rounding`, and delta by exp(-50). With sigma of 1/16 and 10^6 values that is below 10^-6 a
    release. The accountant adds `STATED_ERROR` of 0.01 to an epsilon by privacy loss, and that holds thousands of
    releases. It adds nothing to one by Renyi divergence, where none is needed: a discrete Gaussian has no more of it
    than the Gaussian of its parameter (Canonne, Kamath & Steinke 2020, 2004.00010, proposition 5).
"""

import math

from common.errors import PlanError
from common.mechanism.mechanism import Shapes
from common.mechanism.sums import Sum
from common.plan.study_plan import StudyPlan
from common.secure.masks import BOX_BYTES
from common.secure.terms import Terms

GRID = 2.0**24
"""Steps of the grid in one sensitivity."""
LEAST_DEVIATION = 2.0**10
"""Least parameter of one hospital's share, in steps."""

BOXES, COMMITMENT = "boxes", "commitment"
"""Arrays that go with a masked release: a box for each hospital of the roster, and a digest of the own mask's key."""


def deviation(sigma: float, terms: Terms) -> float:
    """Parameter of one hospital's share of the noise, in steps of the grid.

    Args:
        sigma: Noise multiplier of the round, as the ledger books it.
        terms: Who shares the noise.

    Raises:
        PlanError: It is so small that the accountant's bound would not cover integers.
    """
    share = sigma * GRID * terms.share
    if not share >= LEAST_DEVIATION:
        raise PlanError(
            f"a noise multiplier of {sigma:g} is too small to be shared. Agree on a smaller privacy.epsilon"
        )
    return share


def rounding(values: int, sigma: float) -> float:
    """What integers add at most to the epsilon of one release, see the module's guarantee.

    Args:
        values: Length of the release.
        sigma: Noise multiplier of the sum, as it is counted on.
    """
    moved = math.sqrt(2 * values + 150) + 1 / sigma
    return (values + moved**2) / (24 * (sigma * GRID) ** 2)


def _arrays(plan: StudyPlan, shapes: Shapes) -> Shapes:
    boxes = (plan.aggregation.hospitals, BOX_BYTES // 8)
    return {**shapes, BOXES: boxes, COMMITMENT: (4,)}


def _leaves(plan: StudyPlan) -> list[str]:
    """What a steward is told of who shares the noise, and what holds if they do not keep to it."""
    rules, terms = plan.aggregation, plan.aggregation.terms
    return [
        f"masked: the coordinator sees only the sum of {terms.least} hospitals or more, of the {rules.hospitals} of",
        f"roster {rules.roster[:16] or '(simulated)'}; compare that digest with them by telephone",
        f"your own noise is {rules.share:.2f} of what is stated above; that of {terms.noisy} hospitals makes it whole",
        f"this holds if the coordinator and {terms.colluding} of them work together, and {terms.dropouts} are missing;",
        "a hospital that the coordinator runs, and one that you cannot reach, counts as working with it",
        "no person can look at one hospital's release any more: only sums are checked, and a check names no hospital",
        "once a round: a public key, boxes that only one other hospital can open, a signature, shares of keys",
    ]


SUMS = (Sum(name="masked", module="masked_sum", dtype="uint64", arrays=_arrays, leaves=_leaves),)
