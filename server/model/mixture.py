"""The prior of each class as Gaussians on the latent coordinates, from noised sums over patients.

One Gaussian a class comes from one release. A mixture begins with that one split into J, moves the centres in the
rounds "centres" (as k-means under privacy does), and learns each component's spread in the round "mixture": EM
(Dempster et al. 1977) whose sums are noised. While centres move, the components of a class share the spread that its
own covariance leaves within them, which costs nothing more.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from common.mechanism.mechanism import Array
from common.mechanism.moments import COUNT_WEIGHT, pixel_unit, triangle, unpack_matrix
from common.model.closed_form import closed_form
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from server.model.shrinkage import falling, shrunk

_DRAWN = 4000
_TELLS = 3.0
"""Standard deviations of the noise that a count must pass to tell patients from none."""
_LEAST_WITHIN = 0.1
"""Part of a class's variance along any direction that is within its components at least, while centres move."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What the sites together said of some Gaussians, in units of the deviation clip.

    Attributes:
        counts: Patients of each, [m], none below what the noise leaves to divide by.
        centres: Means of the coordinates, [m, k].
        within: Noised covariances, [m, k, k].
        empty: Whether it may have no patients: fewer than the noise can tell from none, [m].
        noise: Standard deviation of the noise on each summed value.
    """

    counts: Array
    centres: Array
    within: Array
    empty: NDArray[np.bool_]
    noise: float

    @classmethod
    def read(cls, total: Array, gaussians: int, latent: int, noise: float) -> Self:
        """Take a release of the phases "prior" and "mixture" apart (layout in `client.mechanism.moments`)."""
        rows = total.reshape(gaussians, triangle(latent) + latent + 1)
        counts = _counts(rows[:, -1], noise)
        empty = rows[:, -1] <= _TELLS * noise
        centres = rows[:, triangle(latent) : -1] / counts[:, None]
        scatters = np.stack([unpack_matrix(row[: triangle(latent)], latent) for row in rows])
        within = scatters / counts[:, None, None] - np.einsum("ci,cj->cij", centres, centres)
        return cls(counts=counts, centres=centres, within=within, empty=empty, noise=noise)

    def pooled(self, mine: NDArray[np.bool_]) -> tuple[Array, float, float]:
        """Covariance of some of the Gaussians together, the deviation of its packed values, and their patients."""
        patients = float(self.counts[mine].sum())
        mixed: Array = np.einsum("c,cij->ij", self.counts[mine] / patients, self.within[mine])
        return mixed, self.noise * float(np.sqrt(mine.sum())) / patients, patients


def components(plan: StudyPlan, sums: Sums, *, groups: NDArray[np.int64]) -> dict[str, Array]:
    """The start's arrays of Gaussians whose covariances are each drawn towards their group's, and that to all.

    One without patients has nothing to be drawn from and takes its group's, or all Gaussians', as it is. Its own noise
    would leave it no spread in half of all studies, and then no two images to draw.

    Args:
        plan: The study plan.
        sums: From `Sums.read`.
        groups: Group of each Gaussian, [m]: its class, or all one where a Gaussian is a class.
    """
    everyone, deviation, patients = sums.pooled(np.ones(len(groups), dtype=bool))
    diagonal = np.diag(falling(np.diag(everyone), deviation))
    likely = shrunk(everyone, diagonal, deviation, patients)
    covariances = np.empty_like(sums.within)
    weights = np.empty_like(sums.counts)
    for group in np.unique(groups):
        mine = groups == group
        target = likely
        if len(np.unique(groups)) > 1 and not sums.empty[mine].all():
            together, deviation, patients = sums.pooled(mine)
            target = _drawn(together, likely, deviation, patients)
        for index in np.flatnonzero(mine):
            own, deviation = sums.within[index], sums.noise / sums.counts[index]
            covariances[index] = target if sums.empty[index] else _drawn(own, target, deviation, sums.counts[index])
        weights[mine] = sums.counts[mine] / sums.counts[mine].sum()
    if plan.model.components == 1:
        weights = np.ones_like(weights)
    unit = pixel_unit(plan)
    return {"centre": sums.centres * unit, **described(plan, covariances * unit**2, weights)}


def _drawn(own: Array, target: Array, deviation: float, patients: float) -> Array:
    """Draw a noised covariance towards a target of its own size: the shape is shared, the trace needs no help."""
    whole = float(np.trace(target))
    alike = target * (max(float(np.trace(own)), 0.0) / whole) if whole > 0 else target
    return shrunk(own, alike, deviation, patients)


def split(plan: StudyPlan, found: dict[str, Array]) -> dict[str, Array]:
    """Split each class's Gaussian into the plan's J of equal weight.

    The centres are the cells' of a k-means on draws from that Gaussian (Lloyd 1982), from a seed that the plan fixes:
    they lie where a Gaussian is best described by J points, before any patient has been looked at for it.
    """
    each = plan.model.components
    seed = int(plan.digest[:12], 16)
    centres, covariances = [], []
    for index, (centre, factor) in enumerate(zip(found["centre"], found["factor"], strict=True)):
        draws = np.random.default_rng([seed, index]).normal(size=(_DRAWN, len(centre))) @ factor.T
        cells = np.zeros((each, len(centre)))  # where noise drowned all spread, there is nothing to divide
        if draws.any():
            cells, _ = kmeans2(draws, each, minit="++", seed=np.random.default_rng([seed, index, 1]))
        centres.append(centre + cells)
        covariances += [_left_within(factor @ factor.T, cells, np.full(each, 1.0 / each))] * each
    weights = np.full(len(found["centre"]) * each, 1.0 / each)
    return {"centre": np.concatenate(centres), **described(plan, np.stack(covariances), weights)}


def centred(plan: StudyPlan, carried: dict[str, Array], total: Array, noise: float) -> dict[str, Array]:
    """Move the centres and weights of the components carried so far to where a release of phase "centres" says."""
    each, latent = plan.model.components, plan.model.latent
    rows = total.reshape(-1, latent + 1)
    counts = _counts(rows[:, -1], noise)
    by_class = counts.reshape(-1, each)
    weights = (by_class / by_class.sum(axis=1, keepdims=True)).reshape(-1)
    centres = rows[:, :-1] / counts[:, None] * pixel_unit(plan)
    spreads = carried["factor"] @ carried["factor"].transpose(0, 2, 1)
    covariances = []
    for first in range(0, len(centres), each):
        mine = slice(first, first + each)
        whole = _spread(carried["centre"][mine], carried["weight"][mine]) + np.einsum(
            "c,cij->ij", carried["weight"][mine], spreads[mine]
        )
        covariances += [_left_within(whole, centres[mine], weights[mine])] * each
    return {"centre": centres, **described(plan, np.stack(covariances), weights)}


def _spread(centres: Array, weights: Array) -> Array:
    """Covariance [k, k] of points [J, k] of these weights, which sum to 1."""
    offsets = centres - weights @ centres
    spread: Array = np.einsum("c,ci,cj->ij", weights, offsets, offsets)
    return spread


def _left_within(whole: Array, centres: Array, weights: Array) -> Array:
    """What a class's covariance [k, k] leaves within components whose centres are spread like this."""
    values, vectors = np.linalg.eigh(whole - _spread(centres, weights))
    least = _LEAST_WITHIN * np.einsum("ij,ik,kj->j", vectors, whole, vectors)
    within: Array = (vectors * np.maximum(values, least)) @ vectors.T
    return within


def carried(weights: Weights) -> dict[str, Array]:
    """The components as the global weights hold them, in float64."""
    start = closed_form(weights)
    return {name: start[name].astype(np.float64) for name in ("centre", "factor", "weight")}


def described(plan: StudyPlan, covariances: Array, weights: Array) -> dict[str, Array]:
    """What `common.model.linear_start.LinearStart` holds of Gaussians [m, k, k] for pixels of the plan's deviation."""
    variance = plan.model.observation_std**2
    factors, gains, spreads, evidence = [], [], [], []
    for covariance, weight in zip(covariances, weights, strict=True):
        values, vectors = np.linalg.eigh(covariance)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        posterior = np.linalg.inv(np.eye(len(factor)) + factor.T @ factor / variance)
        factors.append(factor)
        gains.append(posterior @ factor.T / variance)
        spreads.append(np.log(np.diag(posterior)))
        evidence.append(np.log(weight) + 0.5 * np.linalg.slogdet(posterior)[1])
    return {
        "factor": np.stack(factors),
        "gain": np.stack(gains),
        "spread": np.stack(spreads),
        "weight": weights,
        "evidence": np.stack(evidence),
    }


def _counts(said: Array, noise: float) -> Array:
    """Patients of each Gaussian, from noised counts, never so few that noise divided by them would be all there is."""
    counts: Array = np.maximum(said / COUNT_WEIGHT, 1.0 + 2.0 * noise / COUNT_WEIGHT)
    return counts
