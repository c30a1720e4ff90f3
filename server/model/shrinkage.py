"""Taking noise of a known size out of noised second moments: empirical Bayes on matrices and spectra.

Everything here is post-processing of Gaussian releases, whose noise is public, and costs no budget. A noised
symmetric matrix of side k carries independent noise of one standard deviation on each of its k(k+1)/2 packed values
(`common.mechanism.moments.pack_matrix`): that much on the diagonal, 1/sqrt(2) of it off the diagonal.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from common.mechanism.mechanism import Array
from common.mechanism.moments import half_octaves, triangle

_HALF_RIGHT = 1.5 / math.sqrt(2.0)
"""Edges at which an eigenvalue shows whose eigenvector has half its squared length along the true one."""


def edge(deviation: float, size: int) -> float:
    """Largest eigenvalue of a symmetric noise matrix [size, size] with this deviation on its diagonal (Wigner)."""
    return 2.0 * deviation / math.sqrt(2.0) * math.sqrt(size)


def towards(own: Array, target: Array, deviation: float, patients: float) -> tuple[Array, float]:
    """Draw a noised covariance [k, k] towards a target as far as noise and chance explain how they differ.

    Args:
        own: The noised covariance.
        target: What is likely without it.
        deviation: Standard deviation of the noise on its packed values.
        patients: How many patients `own` is the mean over; chance moves it by as much as it would move the target's.

    Returns:
        The shrunk matrix, and the trust in `own` from 0 to 1.

    Source:
        James & Stein 1961 in its empirical Bayes form; the variance of a Gaussian sample's covariance is Wishart's.
    """
    apart = float(((own - target) ** 2).sum())
    chance = (float(np.trace(target)) ** 2 + float((target**2).sum())) / patients
    expected = triangle(len(own)) * deviation**2 + chance
    trust = max(0.0, 1.0 - expected / apart) if apart > 0 else 1.0
    return target + trust * (own - target), trust


def cleaned(covariance: Array, target: Array, deviation: float) -> Array:
    """Replace every eigenvalue that noise of this deviation could have made by what the target has along that way.

    What is filled in is at most the noise's edge, so that an eigenvalue below it never becomes one above it.
    """
    values, vectors = np.linalg.eigh(covariance)
    limit = edge(deviation, len(values))
    likely = np.clip(np.einsum("ij,ik,kj->j", vectors, target, vectors), 0.0, limit)
    clean: Array = (vectors * np.where(values > limit, values, likely)) @ vectors.T
    return clean


def shrunk(own: Array, target: Array, deviation: float, patients: float) -> Array:
    """Draw a noised covariance `towards` a target, and clean what is left of its noise; arguments as there."""
    drawn, trust = towards(own, target, deviation, patients)
    return cleaned(drawn, target, trust * deviation)


def falling(variances: Array, deviation: float) -> Array:
    """The non-increasing sequence nearest to noised variances [k] that are known to fall.

    Neighbours that do not fall are given their mean. Where that is below two standard deviations of the noise in it,
    `deviation` being the noise's on one value, it is 0.
    """
    fit = isotonic_regression(variances, increasing=False)
    sizes = np.diff(fit.blocks)
    clear = fit.x[fit.blocks[:-1]] > 2.0 * deviation / np.sqrt(sizes)
    fitted: Array = np.where(np.repeat(clear, sizes), fit.x, 0.0)
    return fitted


def spectrum(variances: Array, deviation: float) -> Array:
    """Take the noise out of the variances [base * base] that the subspace leaves to the cosine frequencies.

    Frequencies half an octave wide make a band. Within one, each variance is drawn towards the band's mean as far as
    noise of this standard deviation explains why they differ (James & Stein 1961, in its empirical Bayes form). What
    is then below 0 becomes 0, and the others give way so that the band keeps its mean.
    """
    bands = half_octaves(math.isqrt(len(variances)))
    clean = np.empty_like(variances)
    for band in np.unique(bands):
        mine = bands == band
        mean, spread = variances[mine].mean(), variances[mine].var()
        trust = max(0.0, 1.0 - deviation**2 / spread) if spread > 0 else 0.0
        drawn = np.maximum(mean + trust * (variances[mine] - mean), 0.0)
        clean[mine] = drawn * max(mean, 0.0) / drawn.mean() if drawn.any() else 0.0
    return clean


def scaled_spectrum(variances: Array, deviation: float, *, groups: NDArray[np.int64], likely: Array) -> Array:
    """As `spectrum`, where it is known how strong each coordinate of a group is likely to be against the others.

    Args:
        variances: Noised variances, [m].
        deviation: Standard deviation of the noise on each.
        groups: Number of the group of each coordinate, [m].
        likely: Variance of each up to a factor for its group, above 0, [m].
    """
    clean = np.zeros_like(variances)
    for group in np.unique(groups):
        mine = groups == group
        whole = max(float(variances[mine].sum()), 0.0)
        target = likely[mine] * (whole / max(float(likely[mine].sum()), 1e-300))
        spread = float(((variances[mine] - target) ** 2).mean())
        trust = max(0.0, 1.0 - deviation**2 / spread) if spread > 0 else 0.0
        drawn = np.maximum(target + trust * (variances[mine] - target), 0.0)
        clean[mine] = drawn * whole / drawn.sum() if drawn.any() else 0.0
    return clean


def towards_zero(values: Array, deviations: Array) -> Array:
    """Draw noised cosine coefficients [side * side] towards 0, band by band, as far as noise explains their size.

    Args:
        values: The coefficients; a band is half an octave, as in `spectrum`.
        deviations: Standard deviation of the noise on each.
    """
    bands = half_octaves(math.isqrt(len(values)))
    drawn = np.zeros_like(values)
    for band in np.unique(bands):
        mine = bands == band
        size, noise = float((values[mine] ** 2).mean()), float((deviations[mine] ** 2).mean())
        drawn[mine] = values[mine] * max(0.0, 1.0 - noise / size) if size > 0 else 0.0
    return drawn


def clear(matrix: Array, deviation: float, *, most: int) -> tuple[Array, Array]:
    """The leading eigenvectors of a noised matrix [m, m] that stand out from the noise, and the variance along each.

    Noise raises a leading eigenvalue and turns its eigenvector. An eigenvector is kept where it is nearer to the true
    one than to all others. The variance given is that of the true matrix along the eigenvector as it was found.

    Args:
        matrix: Symmetric, with independent noise on each packed value.
        deviation: Standard deviation of that noise.
        most: Eigenvectors that are kept at most.

    Returns:
        Variances [n], non-increasing, and eigenvectors [m, n].

    Source:
        Benaych-Georges & Nadakuditi 2011 (spiked Wigner matrices): an eigenvalue x shows as x + s / x, its eigenvector
        turned by the angle of squared cosine 1 - s / x**2, with s the square of half the edge.
    """
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
    limit = edge(deviation, len(matrix))
    kept = (values > _HALF_RIGHT * limit) & (values > 0)
    return np.sqrt(np.maximum(values[kept] ** 2 - limit**2, 0.0)), vectors[:, kept]
