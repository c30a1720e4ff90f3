"""The linear VAE in closed form, from the sums that the sites released in the moments phase.

A linear VAE's optimum is probabilistic PCA (Tipping & Bishop 1999; Lucas et al. 2019): the mean, the leading
eigenvectors of the covariance, and here one Gaussian per class on their coordinates. All is post-processing of
Gaussian mechanisms: it costs no budget. What the noise has likely made is taken out again, as its size is public.
"""

import math

import numpy as np

from common.errors import StudyStopped
from common.moments import COUNT_WEIGHT, Array, cosine_basis, sensitivity, triangle, unpack_matrix
from common.plan import StudyPlan
from common.schedule import Round
from common.weights import Weights

_FEWEST = 2
"""Directions that are kept however little they stand out from the noise."""


def absorb(plan: StudyPlan, step: Round, weights: Weights, total: Array, *, sites: int) -> Weights:
    """Return `weights` with the start's arrays of this phase set from the sites' noised sums.

    Args:
        plan: The study plan.
        step: The round; its phase says what the releases hold (layout in `client.moments`).
        weights: The global weights so far.
        total: Sum of the sites' releases.
        sites: How many releases it is the sum of; each carries its own noise.

    Raises:
        StudyStopped: The noise drowned the patient count; the cohort is too small for this epsilon.
    """
    noise = step.event.sigma * sensitivity(plan, step.phase) * math.sqrt(sites)
    form = {"mean": _mean, "subspace": _subspace, "prior": _prior}[step.phase]
    start = form(plan, weights, total, noise)
    return {**weights, **{f"start.{name}": value.astype(np.float32) for name, value in start.items()}}


def _mean(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    split, bound, size = plan.model.base**2, plan.privacy.mean_clip, plan.data.image_size
    counts = np.maximum(total[split:] / bound, 0.0)
    patients = _enough(plan, counts.sum(), noise / bound)
    return {
        "mean": cosine_basis(size, plan.model.base) @ (total[:split] / patients) * size,
        "frequency": counts / counts.sum(),
    }


def _subspace(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    base, latent = plan.model.base, plan.model.latent
    patients = _enough(plan, total[-1] / COUNT_WEIGHT, noise / COUNT_WEIGHT)
    scatter = unpack_matrix(total[:-1], base**2) / patients
    values, vectors = np.linalg.eigh(scatter)
    values, leading = values[::-1][:latent], vectors[:, ::-1][:, :latent]
    clear = values > _edge(noise / patients, base**2)
    clear[:_FEWEST] = True
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(latent)])
    kept = leading * np.where(clear, signs, 0.0)
    left = np.diag(scatter) - kept**2 @ np.maximum(values, 0.0)
    deviations = np.sqrt(spectrum(left, noise / patients))
    return {
        "basis": cosine_basis(plan.data.image_size, base) @ kept,
        "texture": deviations * plan.privacy.deviation_clip * plan.data.image_size,
    }


def spectrum(variances: Array, deviation: float) -> Array:
    """Take the noise out of the variances [base * base] that the subspace leaves to the cosine frequencies.

    Frequencies half an octave wide make a band. Within one, each variance is drawn towards the band's mean as far as
    noise of this standard deviation explains why they differ (James & Stein 1961, in its empirical Bayes form); what
    is then below 0 becomes 0, and the others give way so that the band keeps its mean.
    """
    base = math.isqrt(len(variances))
    rows, columns = np.divmod(np.arange(base**2), base)
    bands = np.round(2 * np.log2(1 + np.hypot(rows, columns)))
    clean = np.empty_like(variances)
    for band in np.unique(bands):
        mine = bands == band
        mean, spread = variances[mine].mean(), variances[mine].var()
        trust = max(0.0, 1.0 - deviation**2 / spread) if spread > 0 else 0.0
        drawn = np.maximum(mean + trust * (variances[mine] - mean), 0.0)
        clean[mine] = drawn * max(mean, 0.0) / drawn.mean() if drawn.any() else 0.0
    return clean


def _edge(deviation: float, size: int) -> float:
    """Largest eigenvalue of a symmetric noise matrix [size, size] (Wigner).

    `deviation` is the noise's standard deviation on a diagonal entry; off the diagonal it is 1/sqrt(2) of that.
    """
    return 2.0 * deviation / math.sqrt(2.0) * math.sqrt(size)


def _prior(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    classes, latent = max(1, len(plan.data.labels)), plan.model.latent
    unit = plan.privacy.deviation_clip * plan.data.image_size
    rows = total.reshape(classes, triangle(latent) + latent + 1)
    counts = np.maximum(rows[:, -1] / COUNT_WEIGHT, 0.0)
    _enough(plan, counts.sum(), noise / COUNT_WEIGHT)
    divisor = np.maximum(counts, 1.0 + 2.0 * noise / COUNT_WEIGHT)
    centres = rows[:, triangle(latent) : -1] / divisor[:, None]
    scatters = np.stack([unpack_matrix(row[: triangle(latent)], latent) for row in rows])
    within = scatters / divisor[:, None, None] - np.einsum("ci,cj->cij", centres, centres)
    covariances = np.stack(
        [
            _denoised(_shrunk(within[index], within, counts, counts[index], noise), noise / divisor[index])
            for index in range(classes)
        ]
    )
    return {"centre": centres * unit, **_encoder(plan, covariances * unit**2)}


def _shrunk(own: Array, within: Array, counts: Array, count: float, noise: float) -> Array:
    """Mix a class's covariance with the pooled one: the fewer patients it has per unit of noise, the more."""
    pooled = np.einsum("c,cij->ij", counts / counts.sum(), within)
    trust = count / (count + 10.0 * (1.0 + noise))
    mixed: Array = trust * own + (1.0 - trust) * pooled
    return mixed


def _denoised(covariance: Array, deviation: float) -> Array:
    """Take out what noise of this standard deviation alone would show."""
    values, vectors = np.linalg.eigh(covariance)
    kept = np.where(values > _edge(deviation, len(values)), values, 0.0)
    clean: Array = (vectors * kept) @ vectors.T
    return clean


def _encoder(plan: StudyPlan, covariances: Array) -> dict[str, Array]:
    """Factor, posterior gain and log-variance of each class for Gaussian pixels of the plan's deviation."""
    variance = plan.model.observation_std**2
    factors, gains, spreads = [], [], []
    for covariance in covariances:
        values, vectors = np.linalg.eigh(covariance)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        posterior = np.linalg.inv(np.eye(len(factor)) + factor.T @ factor / variance)
        factors.append(factor)
        gains.append(posterior @ factor.T / variance)
        spreads.append(np.log(np.diag(posterior)))
    return {"factor": np.stack(factors), "gain": np.stack(gains), "spread": np.stack(spreads)}


def _enough(plan: StudyPlan, patients: float, deviation: float) -> float:
    if patients < max(2.0, 2.0 * deviation):
        raise StudyStopped(
            f"study {plan.name!r}: the noised patient count is {patients:.0f} with a standard deviation of "
            f"{deviation:.0f}; the cohorts are too small for this epsilon. Add sites or raise epsilon"
        )
    return patients
