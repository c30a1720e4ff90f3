"""The closed form of a plan whose every class has a mean and a covariance of its own (`model.covariance = "class"`).

Two releases make it: the classes' means over all cosine frequencies, then their scatters over the base's frequencies,
or along public directions (`server.model.frame`), with the energies of the bands beyond. All here is post-processing of
these releases.

The noised sums and the public size of their noise decide how much a class takes from the others. A class keeps the
directions that its own scatter shows clearly. What the noise leaves open is filled from the covariance of all classes
together, as far as the class's scatter agrees with it, and from the class's own spectrum.
"""

import math

import numpy as np
import scipy.optimize

from common.mechanism.mechanism import Array
from common.mechanism.moments import COUNT_WEIGHT, axes, cosine_images, pixel_unit, triangle, unpack_matrix
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from server.model.frame import Frame, frame_of
from server.model.mixture import described
from server.model.shrinkage import clear


def means(plan: StudyPlan, start: Weights, counts: Array, sums: Array, noise: float) -> dict[str, Array]:
    """The start's class means and class shares from the release of phase "means".

    Args:
        plan: The study plan.
        start: The closed form so far; its frame is taken from it.
        counts: Noised patients of each class, [C].
        sums: Noised sums of their coefficients, [C, size * size].
        noise: Standard deviation of the noise on each value of `sums`.
    """
    size, patients, bound = plan.data.image_size, float(counts.sum()), plan.privacy.mean_clip
    frame = frame_of(plan, start)
    whole = frame.towards_zero(sums.sum(axis=0) / patients, np.full(size**2, noise * math.sqrt(len(counts)) / patients))
    noises = noise * np.sqrt(
        1.0 + (whole / (COUNT_WEIGHT * bound)) ** 2
    )  # the count that `whole` is taken times has its own
    own = []
    for mine, count, held in zip(sums, counts, floored(counts, noise / bound), strict=True):
        own.append(frame.centre + whole + frame.towards_zero((mine - count * whole) / held, noises / held))
    shares = np.maximum(counts, 0.0)
    return {
        "mean": (cosine_images(np.stack(own), size=size) * size).reshape(len(counts), -1),
        "frequency": shares / shares.sum(),
    }


def scatters(plan: StudyPlan, start: Weights, counts: Array, rows: Array, noise: float) -> dict[str, Array]:
    """The start's directions, spreads and textures from the release of phase "scatters".

    Args:
        plan: The study plan.
        start: The closed form so far; its frame is taken from it.
        counts: Noised patients of each class, [C].
        rows: Noised packed scatter of the base and energies of the bands beyond it, [C, values].
        noise: Standard deviation of the noise on each value of `rows`.
    """
    frame, side, latent = frame_of(plan, start), axes(plan), plan.model.latent
    held = floored(counts, noise)
    packed = rows[:, : triangle(side)]
    energies = rows[:, triangle(side) :] / held[:, None]
    own = np.stack([unpack_matrix(row, side) for row in packed / held[:, None]])
    together = np.einsum("c,cij->ij", held / held.sum(), own)
    alike = _recovered(frame, together, noise * math.sqrt(len(held)) / float(held.sum()), most=latent)
    bases, variances, textures = [], [], []
    for scatter, energy, deviation in zip(own, energies, noise / held, strict=True):
        values, vectors = _directions(frame, scatter, alike, deviation, latent=latent)
        bases.append(frame.pixels @ vectors)
        variances.append(np.diag(values))
        left = frame.spectrum(np.diag(scatter) - vectors**2 @ values, deviation)
        textures.append(frame.rest(left, energy))
    unit = pixel_unit(plan)
    return {
        "basis": np.concatenate(bases, axis=1),
        "texture": np.sqrt(np.stack(textures)) * unit,
        "centre": np.zeros((len(held), latent)),
        **described(plan, np.stack(variances) * unit**2, np.ones(len(held))),
    }


def floored(counts: Array, noise: float) -> Array:
    """Noised counts, none below what the noise leaves to divide by; `noise` is that of a sum of unit vectors."""
    least: Array = np.maximum(counts, 1.0 + 2.0 * noise / COUNT_WEIGHT)
    return least


def _recovered(frame: Frame, matrix: Array, deviation: float, *, most: int) -> Array:
    """A noised covariance without its noise: the directions that stand out, and the spectrum of what they leave."""
    values, vectors = clear(matrix, deviation, most=most)
    rest = frame.spectrum(np.diag(matrix) - vectors**2 @ values, deviation)
    found: Array = (vectors * values) @ vectors.T + np.diag(rest)
    return found


def _directions(frame: Frame, scatter: Array, alike: Array, deviation: float, *, latent: int) -> tuple[Array, Array]:
    """The `latent` directions that hold most of a class: those that are clear, then the likeliest others.

    Below the noise's edge two things are still known of the class: its own spectrum, from many variances together, and
    how well its scatter, seen as one long vector, agrees with the covariance of all classes.

    Returns:
        Variances [latent], non-increasing, and directions [m, latent], 0 where nothing is left.
    """
    values, vectors = clear(scatter, deviation, most=latent)
    own = np.diag(frame.spectrum(np.diag(scatter) - vectors**2 @ values, deviation))
    apart = np.eye(len(scatter)) - vectors @ vectors.T
    left, own, shared = (apart @ matrix @ apart for matrix in (scatter, own, alike))
    parts, _ = scipy.optimize.nnls(np.stack([own.ravel(), shared.ravel()], axis=1), left.ravel())
    more_values, more = np.linalg.eigh(parts[0] * own + parts[1] * shared)
    count = latent - len(values)
    more_values, more = np.maximum(more_values[::-1][:count], 0.0), more[:, ::-1][:, :count]
    more = more * (more_values > 1e-12 * max(1e-300, float(np.trace(alike))))
    values, vectors = np.concatenate([values, more_values]), np.concatenate([vectors, more], axis=1)
    order = np.argsort(-values, kind="stable")
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(latent)])
    return values[order], (vectors * signs)[:, order]
