"""The moments phase at a hospital: noised sums over patients, from which the server forms the linear VAE.

Formal guarantee (each phase)
    Neighbouring relation: add or remove all images of one patient. The release is the sum over patients of the mean
    over that patient's images of a per-image vector, plus Gaussian noise of standard deviation sigma times the
    mechanism's sensitivity (`common.mechanism.moments`). The per-image vectors, with e_c the one-hot class and w the
    count weight:

    mean      [clip_M(f), M e_c]                   f: cosine coefficients; L2 norm at most sqrt(2) M
    subspace  [pack(u u'), w]                      u = clip_1((f - f_mean) / D); at most sqrt(1 + w^2)
    prior     e_c x [pack(z z'), z, w]             z = clip_1(V'(x - mean) / (D size)); at most sqrt(2 + w^2)
    centres   r x [z, w]                           r: shares of the image in the components of its class, at most
                                                   1 together; at most sqrt(1 + w^2)
    mixture   r x [pack(z z'), z, w]               at most sqrt(2 + w^2)
    means     e_c x [clip_M(a), w M]               a: all cosine coefficients; at most M sqrt(1 + w^2)
    scatters  e_c x [pack(u u'), B(h^2), w]        (u, h) = clip_1((a - a_mean_c) / D), u in the base and h beyond it,
                                                   B(h^2): sums of squares by band; at most sqrt(1 + w^2)

    With `warm.directions` there is a public mean p and a public basis Q, sent by the server: a is then of x - p, and
    (u, h) = clip_1((Q'y, coefficients of y - Q Q'y) / D) with y = x - mean_c. The clips come after p and Q, so the
    bounds hold for any p and Q, orthonormal or not.

    e_c x v has coordinates of its own for each class, so its norm is that of v, however many classes there are. A
    patient of several classes is a mean over its images and has the same bound. In scatters |pack(u u')| is |u|^2, and
    |B(h^2)| is at most |h|^2, the sum of its entries; |u|^4 + |h|^4 is at most (|u|^2 + |h|^2)^2, so at most 1.
    The norm of r x v is |r| |v|, and |r| is at most the sum of r, which is non-negative and at most 1.
    A mean of vectors in a ball is in the ball, so one patient moves the sum by at most that norm, however many images
    it has, and for any request of the server: the clips come after mean and basis, and `_held` bounds what components
    make.

    That holds of the float64 numbers, too, as each image's latents and shares are computed for that image alone. BLAS
    rounds a row by the number of rows in its batch. A server can send a basis by which rounding is all that is left,
    and one patient would then turn everybody's latents (tests/client/test_moments.py has such a basis). What is done
    for many images at once is sums, whose rounding nothing magnifies, and cosine coefficients. Their basis is a
    constant and D at least `common.plan.privacy.LEAST_CLIP`, so that rounding is below 1e-12 of a patient's part for
    any mean that was sent.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.mechanism.patient_sum import PatientSum
from common.mechanism.mechanism import Array
from common.mechanism.moments import (
    COUNT_WEIGHT,
    class_scatter,
    clip,
    coefficients,
    directed_scatter,
    pack_matrix,
    pixel_unit,
)
from common.model.closed_form import closed_form
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan


def _mean(plan: StudyPlan, _: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array) -> Array:
    bound = plan.privacy.mean_clip
    clipped = clip(coefficients(images, base=plan.model.base), bound)
    return np.concatenate([share @ clipped, bound * _class_shares(plan, labels, share)])


def _subspace(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    size, base = plan.data.image_size, plan.model.base
    centre = coefficients(closed_form(weights)["mean"].reshape(1, size, size), base=base)
    deviations = clip((coefficients(images, base=base) - centre) / plan.privacy.deviation_clip, 1.0)
    scatter = (deviations * share[:, None]).T @ deviations
    return np.append(pack_matrix(scatter), COUNT_WEIGHT * share.sum())


def _prior(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    latents = _latents(plan, weights, images)
    return _spreads(latents, (share * (labels == index) for index in range(plan.data.classes)))


def _centres(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    latents = _latents(plan, weights, images)
    held = _held(plan, weights, latents, labels) * share[:, None]
    return np.concatenate([held.T @ latents, COUNT_WEIGHT * held.sum(axis=0)[:, None]], axis=1).reshape(-1)


def _mixture(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    latents = _latents(plan, weights, images)
    held = _held(plan, weights, latents, labels) * share[:, None]
    return _spreads(latents, iter(held.T))


def _means(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    bound = plan.privacy.mean_clip
    offsets = _off_public_mean(plan, weights, images)
    clipped = clip(coefficients(offsets, base=plan.data.image_size), bound)
    rows = []
    for index in range(len(plan.data.labels)):
        held = share * (labels == index)
        rows += [held @ clipped, np.array([COUNT_WEIGHT * bound * held.sum()])]
    return np.concatenate(rows)


def _scatters(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    if plan.warm.directions:
        return _directed_scatters(plan, weights, images, labels, share)
    size, base = plan.data.image_size, plan.model.base
    centres = coefficients(closed_form(weights)["mean"].reshape(-1, size, size), base=size)
    spectra = coefficients(images, base=size)
    rows = []
    for index, centre in enumerate(centres):
        mine = labels == index
        held = share[mine]
        deviations = clip((spectra[mine] - centre) / plan.privacy.deviation_clip, 1.0)
        rows += [class_scatter(deviations, held, base=base), np.array([COUNT_WEIGHT * held.sum()])]
    return np.concatenate(rows)


def _directed_scatters(
    plan: StudyPlan, weights: Weights, images: NDArray[np.float32], labels: NDArray[np.int64], share: Array
) -> Array:
    """`_scatters` along public directions."""
    start = closed_form(weights)
    basis = start["public_basis"].astype(np.float64)
    rows = []
    for index, centre in enumerate(start["mean"].astype(np.float64)):
        mine = labels == index
        held = share[mine]
        along, beyond = _directed(images[mine].reshape(-1, centre.size) - centre, basis)
        scatter = directed_scatter(along, beyond, held, clip_at=plan.privacy.deviation_clip)
        rows += [scatter, np.array([COUNT_WEIGHT * held.sum()])]
    return np.concatenate(rows)


def _directed(offsets: Array, basis: Array) -> tuple[Array, Array]:
    """Coordinates of offsets [n, d] along public directions [d, r], and cosine coefficients of what these leave.

    Each row is made of its image alone, as in `_latents`: the server sends the basis.
    """
    size = math.isqrt(offsets.shape[1])
    along, left = np.empty((len(offsets), basis.shape[1])), np.empty_like(offsets)
    for row, offset in enumerate(offsets):
        along[row] = np.einsum("d,dk->k", offset, basis)
        left[row] = offset - np.einsum("dk,k->d", basis, along[row])
    return along / size, coefficients(left.reshape(-1, size, size), base=size)


def _off_public_mean(plan: StudyPlan, weights: Weights, images: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """The images less the public mean, where the plan has one."""
    if not plan.warm.directions:
        return images
    return images - closed_form(weights)["public_mean"].astype(np.float64).reshape(images.shape[1:])


def _latents(plan: StudyPlan, weights: Weights, images: NDArray[np.float32]) -> Array:
    """The images' coordinates in units of the clip, [n, k], each row clipped to norm 1 and made of its image alone."""
    start = closed_form(weights)
    offsets = images.reshape(len(images), -1).astype(np.float64) - start["mean"]
    basis = start["basis"].astype(np.float64)
    return clip(np.stack([np.einsum("d,dk->k", offset, basis) for offset in offsets]) / pixel_unit(plan), 1.0)


def _spreads(latents: Array, shares: Iterator[Array]) -> Array:
    """The packed second moment, the sum and the count of the latents under each of the shares [n]."""
    parts = []
    for mine in shares:
        some = mine > 0
        held, rows = mine[some], latents[some]
        scatter = (rows * held[:, None]).T @ rows
        parts += [pack_matrix(scatter), held @ rows, np.array([COUNT_WEIGHT * held.sum()])]
    return np.concatenate(parts)


def _held(plan: StudyPlan, weights: Weights, latents: Array, labels: NDArray[np.int64]) -> Array:
    """Each image's shares in its class's components, [n, C J], as `common.model.linear_start.LinearStart` weighs them.

    A row is of its image alone, non-negative and sums to 1, or is zero where the server's numbers make no sense.
    """
    components, unit = plan.model.components, pixel_unit(plan)
    start = {name: array.astype(np.float64) for name, array in closed_form(weights).items()}
    held = np.zeros((len(latents), len(start["centre"])))
    with np.errstate(all="ignore"):  # the server may send any numbers
        for row, label in enumerate(labels.tolist()):
            if not 0 <= label < plan.data.classes:
                continue
            cells = slice(label * components, (label + 1) * components)
            offsets = latents[row] * unit - start["centre"][cells]
            lengths = _lengths(plan, offsets, start["factor"][cells], start["gain"][cells])
            scores = start["evidence"][cells] - 0.5 * lengths
            shares = np.exp(scores - scores.max())
            held[row, cells] = shares / shares.sum()
        sound = np.isfinite(held).all(axis=1) & (held >= 0).all(axis=1) & (held.sum(axis=1) <= 1 + 1e-9)
    return np.where(sound[:, None], held / (1 + 1e-9), 0.0)


def _lengths(plan: StudyPlan, offsets: Array, factor: Array, gain: Array) -> Array:
    """Squared Mahalanobis lengths [J] of an image's offsets [J, k], by Woodbury's identity, as the gain is at hand."""
    explained = np.einsum("ji,jik->jk", offsets, factor) * np.einsum("ji,jki->jk", offsets, gain)
    lengths: Array = ((offsets**2).sum(axis=1) - explained.sum(axis=1)) / plan.model.observation_std**2
    return lengths


def _class_shares(plan: StudyPlan, labels: NDArray[np.int64], share: Array) -> Array:
    return np.array([share @ (labels == index) for index in range(plan.data.classes)])


HALVES = {
    "mean": PatientSum(_mean),
    "subspace": PatientSum(_subspace),
    "prior": PatientSum(_prior),
    "centres": PatientSum(_centres),
    "mixture": PatientSum(_mixture),
    "means": PatientSum(_means),
    "scatters": PatientSum(_scatters),
}
