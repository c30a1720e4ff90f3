"""The linear VAE in closed form, from the sums that the sites released in the moments phase.

A linear VAE's optimum is probabilistic PCA (Tipping & Bishop 1999; Lucas et al. 2019): the mean, the leading
eigenvectors of the covariance, and here one Gaussian or a mixture of them per class on their coordinates. A plan may
ask for a mean and a covariance of each class in their place (`server.model.class_moments`). All is
post-processing of Gaussian mechanisms: it costs no budget. What the noise has likely made is taken out again
(`server.model.shrinkage`), as its size is public.

Each of `FORMS` takes the plan, the global weights so far, the sum of the sites' releases (layout in
`client.mechanism.moments`) and the standard deviation of its noise. It returns arrays of the start.
Each raises `StudyStopped` where the noise drowns the patient count.
"""

import math

import numpy as np

from common.errors import StudyStopped
from common.mechanism.mechanism import Array
from common.mechanism.moments import COUNT_WEIGHT, cosine_basis, unpack_matrix
from common.model.closed_form import closed_form
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from server.model import class_moments
from server.model.mixture import Sums, carried, centred, components, split
from server.model.shrinkage import edge, spectrum

_FEWEST = 2
"""Eigenvectors that are kept however little they stand out from the noise."""


def _mean(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    split, bound, size = plan.model.base**2, plan.privacy.mean_clip, plan.data.image_size
    patients = _enough(plan, total[split:] / bound, noise / bound)
    counts = np.maximum(total[split:], 0.0)
    return {
        "mean": cosine_basis(size, plan.model.base) @ (total[:split] / patients) * size,
        "frequency": counts / counts.sum(),
    }


def _subspace(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    base, latent = plan.model.base, plan.model.latent
    patients = _enough(plan, total[-1:] / COUNT_WEIGHT, noise / COUNT_WEIGHT)
    deviation = noise / patients
    scatter = unpack_matrix(total[:-1], base**2) / patients
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = values[::-1][:latent], vectors[:, ::-1][:, :latent]
    clear = max(_FEWEST, int((values > edge(deviation, base**2)).sum()))
    clear_vectors, clear_values = vectors[:, :clear], np.maximum(values[:clear], 0.0)
    left = spectrum(np.diag(scatter) - clear_vectors**2 @ clear_values, deviation)
    more_values, more = _likely(left, clear_vectors, count=latent - clear)
    kept = np.concatenate([clear_vectors, more], axis=1)
    signs = np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(latent)])
    rest = np.diag(scatter) - kept**2 @ np.concatenate([clear_values, more_values])
    return {
        "basis": cosine_basis(plan.data.image_size, base) @ (kept * signs),
        "texture": np.sqrt(spectrum(rest, deviation)) * plan.privacy.deviation_clip * plan.data.image_size,
    }


def _likely(variances: Array, found: Array, *, count: int) -> tuple[Array, Array]:
    """The `count` directions orthogonal to those found that hold most by the variances of the cosine frequencies.

    Below the noise's edge an eigenvector of the noised moments says nothing, but that images hold most in low
    frequencies is still known, from many variances together: these directions are close to the lowest frequencies
    that are not taken. Where nothing is left they are zero.

    Returns:
        Variances [count], non-increasing, and directions [base * base, count].
    """
    if count == 0:
        return np.zeros(0), found[:, :0]
    apart = np.eye(len(found)) - found @ found.T
    values, vectors = np.linalg.eigh(apart @ (variances[:, None] * apart))
    values, vectors = np.maximum(values[::-1][:count], 0.0), vectors[:, ::-1][:, :count]
    return values, vectors * (values > 1e-12 * max(1e-300, float(variances.sum())))


def _prior(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    classes = plan.data.classes
    _enough(plan, total.reshape(classes, -1)[:, -1] / COUNT_WEIGHT, noise / COUNT_WEIGHT)
    sums = Sums.read(total, classes, plan.model.latent, noise)
    found = components(plan, sums, groups=np.zeros(classes, dtype=np.int64))
    return found if plan.model.components == 1 else split(plan, found)


def _centres(plan: StudyPlan, weights: Weights, total: Array, noise: float) -> dict[str, Array]:
    return centred(plan, carried(weights), total, noise)


def _mixture(plan: StudyPlan, _: Weights, total: Array, noise: float) -> dict[str, Array]:
    each = plan.model.components
    sums = Sums.read(total, plan.data.classes * each, plan.model.latent, noise)
    return components(plan, sums, groups=np.arange(len(sums.counts)) // each)


def _means(plan: StudyPlan, weights: Weights, total: Array, noise: float) -> dict[str, Array]:
    rows, weight = total.reshape(len(plan.data.labels), -1), COUNT_WEIGHT * plan.privacy.mean_clip
    _enough(plan, rows[:, -1] / weight, noise / weight)
    return class_moments.means(plan, closed_form(weights), rows[:, -1] / weight, rows[:, :-1], noise)


def _scatters(plan: StudyPlan, weights: Weights, total: Array, noise: float) -> dict[str, Array]:
    rows = total.reshape(len(plan.data.labels), -1)
    _enough(plan, rows[:, -1] / COUNT_WEIGHT, noise / COUNT_WEIGHT)
    return class_moments.scatters(plan, closed_form(weights), rows[:, -1] / COUNT_WEIGHT, rows[:, :-1], noise)


def _enough(plan: StudyPlan, counts: Array, noise: float) -> float:
    """All patients, from their noised counts; not one is clipped before the sum, which would be too large then."""
    patients, deviation = float(counts.sum()), noise * math.sqrt(len(counts))
    if patients < max(2.0, 2.0 * deviation):
        raise StudyStopped(
            f"study {plan.name!r}: the noised patient count is {patients:.0f} with a standard deviation of "
            f"{deviation:.0f}; the cohorts are too small for this epsilon. Add sites or raise epsilon"
        )
    return patients


FORMS = {
    "mean": _mean,
    "subspace": _subspace,
    "prior": _prior,
    "centres": _centres,
    "mixture": _mixture,
    "means": _means,
    "scatters": _scatters,
}
"""By phase, what makes arrays of the start."""
