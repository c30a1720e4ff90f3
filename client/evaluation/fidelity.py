"""How alike two sets of images are in stated features: two distances, and precision, recall, density and coverage.

All take features [n, d] (`common.images.encoder.features` unless said otherwise), real ones first. Distances in our
encoder's features are not comparable with "FID" figures of papers, which come from another network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

Features = NDArray[np.float64]

NEIGHBOURS = 5
"""k of the manifolds; the value of both papers."""


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """Precision, recall, density and coverage, each from 0; 1 is the ideal (density may pass it).

    Source:
        Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def frechet(real: Features, synthetic: Features) -> float:
    """Frechet distance of two Gaussian fits, 0 or more (Heusel et al. 2017, eq. 6). NaN below 2 images a set.

    The trace of the root of the covariances' product is the sum of the roots of its eigenvalues, which exist for
    singular covariances too: sets of fewer images than features have no other kind.
    """
    if min(len(real), len(synthetic)) < 2:
        return float("nan")
    left, right = np.cov(real, rowvar=False), np.cov(synthetic, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(left @ right).real.clip(min=0)).sum()
    offset = np.square(real.mean(0) - synthetic.mean(0)).sum()
    return max(0.0, float(offset + np.trace(left) + np.trace(right) - 2 * roots))


def kernel(real: Features, synthetic: Features) -> float:
    """Unbiased squared MMD under the cubic kernel (Binkowski et al. 2018); about 0 for like sets."""
    n, m = len(real), len(synthetic)
    if min(n, m) < 2:
        return float("nan")
    within = [polynomial_kernel(x, degree=3, gamma=1 / x.shape[1], coef0=1) for x in (real, synthetic)]
    across = polynomial_kernel(real, synthetic, degree=3, gamma=1 / real.shape[1], coef0=1).mean()
    parts = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    return float(parts[0] + parts[1] - 2 * across)


def manifold(real: Features, synthetic: Features) -> Manifold:
    """Compare the sets' k-nearest-neighbour manifolds. NaN where a set has no k + 1 images."""
    if min(len(real), len(synthetic)) <= NEIGHBOURS:
        return Manifold(precision=np.nan, recall=np.nan, density=np.nan, coverage=np.nan)
    between = pairwise_distances(real, synthetic)
    real_radius, synthetic_radius = radii(real)[:, None], radii(synthetic)[None, :]
    return Manifold(
        precision=float((between < real_radius).any(0).mean()),
        recall=float((between < synthetic_radius).any(1).mean()),
        density=float((between < real_radius).sum(0).mean() / NEIGHBOURS),
        coverage=float((between < real_radius).any(1).mean()),
    )


def radii(points: Features) -> NDArray[np.float64]:
    """Distance [n] from each point to its k-th nearest other point."""
    distances, _ = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(points).kneighbors(points)
    last: NDArray[np.float64] = distances[:, -1]
    return last
