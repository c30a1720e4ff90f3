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
    base, latent = plan.model.base**2, plan.model.latent
    patients = _enough(plan, total[-1] / COUNT_WEIGHT, noise / COUNT_WEIGHT)
    values, vectors = np.linalg.eigh(unpack_matrix(total[:-1], base) / patients)
    leading = vectors[:, np.argsort(values)[::-1][:latent]]
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(latent)])
    return {"basis": cosine_basis(plan.data.image_size, plan.model.base) @ (leading * signs)}


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
    """Take out what noise alone would show: a symmetric noise matrix has its spectrum within 2 s sqrt(k) (Wigner).

    `deviation` is the noise's standard deviation on a diagonal entry; off the diagonal it is 1/sqrt(2) of that.
    """
    values, vectors = np.linalg.eigh(covariance)
    edge = 2.0 * deviation / math.sqrt(2.0) * math.sqrt(len(values))
    kept = np.where(values > edge, values, 0.0)
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
