"""The moments phase's arithmetic: the public cosine basis and the packing of what a site releases.

An image x of d pixels in [-1, 1] becomes `base * base` low cosine frequencies, scaled so that the coefficient
vector's L2 norm is at most the root mean square of the pixels, hence at most 1. The basis is a public constant,
works at any image size, and keeps the noise isotropic.

A release of phase p is one vector. A patient's contribution to it is the mean over that patient's images of a
per-image vector whose L2 norm is at most the mechanism's sensitivity. A mean of vectors in a ball lies in that ball, so
adding or removing one patient, with however many images, moves the sum by at most that (`client.mechanism.moments` has
the layouts and the proofs).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from common.accountant.accounting import GaussianEvent
from common.mechanism.mechanism import RELEASE, Array, Mechanism, Stage
from common.plan.study_plan import StudyPlan

COUNT_WEIGHT = 0.25
"""How loudly the patient count speaks next to the moments in the phases that need it only as a divisor."""
SHARES: tuple[tuple[str, float], ...] = (("mean", 0.10), ("subspace", 0.50), ("prior", 0.40))
"""How the stage divides its privacy among its releases, as shares of the sum of 1 / sigma^2."""
MIXTURE_SHARES: tuple[tuple[str, float], ...] = (
    ("mean", 0.05),
    ("subspace", 0.25),
    ("prior", 0.14),
    ("centres", 0.08),
    ("centres", 0.08),
    ("centres", 0.08),
    ("mixture", 0.32),
)
"""The same where a class's prior has several components (chosen on Fashion-MNIST and MNIST, docs/decisions/0008)."""
CLASS_SHARES: tuple[tuple[str, float], ...] = (("means", 0.15), ("scatters", 0.85))
"""The same where each class has its own covariance (`model.covariance`, docs/decisions/0009)."""


@functools.lru_cache(maxsize=8)
def cosine_basis(size: int, base: int) -> Array:
    """Orthonormal DCT-II images: [size * size, base * base]; column (u, v) is row frequency u, column frequency v."""
    axis = scipy.fft.idct(np.eye(size)[:, :base], axis=0, norm="ortho")
    basis: Array = np.einsum("iu,jv->ijuv", axis, axis).reshape(size * size, base * base)
    return basis


def cosine_images(coefficients: Array, *, size: int) -> Array:
    """Images [n, size, size] of cosine coefficients [n, base * base]: `cosine_basis` without its large matrix."""
    base = math.isqrt(coefficients.shape[1])
    axis = scipy.fft.idct(np.eye(size)[:, :base], axis=0, norm="ortho")
    images: Array = axis @ coefficients.reshape(-1, base, base) @ axis.T
    return images


def coefficients(images: NDArray[np.floating[Any]], *, base: int) -> Array:
    """Low cosine frequencies of images [n, size, size]: [n, base * base], L2 norm at most the pixels' RMS."""
    spectrum = scipy.fft.dctn(images.astype(np.float64), axes=(1, 2), norm="ortho")[:, :base, :base]
    flat: Array = spectrum.reshape(len(images), base * base) / images.shape[1]
    return flat


@functools.lru_cache(maxsize=8)
def half_octaves(side: int) -> NDArray[np.int64]:
    """Number of the band, half an octave wide, of each of the [side * side] cosine frequencies."""
    rows, columns = np.divmod(np.arange(side**2), side)
    bands: NDArray[np.int64] = np.round(2 * np.log2(1 + np.hypot(rows, columns))).astype(np.int64)
    bands.flags.writeable = False
    return bands


@functools.lru_cache(maxsize=8)
def detail_bands(size: int, base: int) -> Array:
    """The bands of the frequencies that the base leaves out: [size * size, bands], 1 where a frequency is in a band."""
    rows, columns = np.divmod(np.arange(size**2), size)
    beyond = (rows >= base) | (columns >= base)
    bands = half_octaves(size)
    belongs: Array = (beyond[:, None] & (bands[:, None] == np.unique(bands[beyond]))).astype(np.float64)
    belongs.flags.writeable = False
    return belongs


def clip(vectors: Array, bound: float) -> Array:
    """Scale each row of [n, m] whose L2 norm passes `bound` back onto it; rows that are not finite become zero."""
    finite = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0.0)
    norms = np.linalg.norm(finite, axis=1, keepdims=True)
    clipped: Array = finite * np.minimum(1.0, bound / np.maximum(norms, 1e-300)) * (1 - 1e-12)
    return clipped


@functools.lru_cache(maxsize=8)
def _triangle_places(side: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """Rows, columns and scales of a packed symmetric matrix; to find them takes longer than to pack one patient's."""
    rows, columns = np.triu_indices(side)
    scale: Array = np.where(rows == columns, 1.0, math.sqrt(2.0))
    for array in (rows, columns, scale):
        array.flags.writeable = False
    return rows, columns, scale


def pack_matrix(matrix: Array) -> Array:
    """Upper triangle of a symmetric matrix [m, m] -> [m(m+1)/2], isometric to the Frobenius norm.

    Off-diagonal entries are scaled by sqrt(2), so the packed L2 norm of v v' equals ||v||^2.
    """
    rows, columns, scale = _triangle_places(len(matrix))
    packed: Array = matrix[rows, columns] * scale
    return packed


def unpack_matrix(packed: Array, size: int) -> Array:
    """Undo the packing of `pack_matrix` for one [m(m+1)/2] vector: the symmetric matrix [m, m]."""
    rows, columns, scale = _triangle_places(size)
    matrix = np.zeros((size, size))
    matrix[rows, columns] = packed / scale
    symmetric: Array = matrix + np.triu(matrix, 1).T
    return symmetric


def class_scatter(deviations: Array, held: Array, *, base: int) -> Array:
    """What deviations of one class add to a release of phase "scatters", its count left out.

    Args:
        deviations: Clipped cosine coefficients less the class's mean, [n, size * size].
        held: Share of each image in its patient, [n].
        base: Frequencies per axis of the start.

    Returns:
        The packed second moment within the base, then the energies of the bands beyond it (`detail_bands`).
    """
    size = math.isqrt(deviations.shape[1])
    low = deviations.reshape(-1, size, size)[:, :base, :base].reshape(-1, base**2)
    energies = (held @ deviations**2) @ detail_bands(size, base)
    return np.concatenate([pack_matrix((low * held[:, None]).T @ low), energies])


def directed_scatter(along: Array, beyond: Array, held: Array, *, clip_at: float) -> Array:
    """The same along public directions: each image's two parts are clipped together, to norm 1.

    Args:
        along: Coordinates of one class's images less the class's mean along the directions, [n, r].
        beyond: Cosine coefficients of what the directions leave of them, [n, size * size].
        held: Share of each image in its patient, [n].
        clip_at: The deviation clip.

    Returns:
        The packed second moment along the directions, then the energies of all bands beyond them.
    """
    clipped = clip(np.concatenate([along, beyond], axis=1) / clip_at, 1.0)
    low, high = clipped[:, : along.shape[1]], clipped[:, along.shape[1] :]
    energies = (held @ high**2) @ detail_bands(math.isqrt(beyond.shape[1]), 0)
    return np.concatenate([pack_matrix((low * held[:, None]).T @ low), energies])


def triangle(size: int) -> int:
    """Length of a packed symmetric matrix of side `size`."""
    return size * (size + 1) // 2


def axes(plan: StudyPlan) -> int:
    """Coordinates that the second moments of a class are taken in: public directions, or the base's frequencies."""
    return plan.warm.directions or plan.model.base**2


def pixel_unit(plan: StudyPlan) -> float:
    """Pixel units in one unit of the clipped latent coordinates."""
    return plan.privacy.deviation_clip * plan.data.image_size


def cells(plan: StudyPlan) -> int:
    """Gaussians of the prior, all classes together."""
    return plan.data.classes * plan.model.components


def spreads_length(plan: StudyPlan) -> int:
    """Values that describe one Gaussian of the prior: its packed second moment, its sum and its count."""
    return triangle(plan.model.latent) + plan.model.latent + 1


def _moment(
    name: str,
    *,
    length: Callable[[StudyPlan], int],
    sensitivity: Callable[[StudyPlan], float],
    clearness: Callable[[StudyPlan, int, float], float],
    leaves: str,
    title: str,
) -> Mechanism:
    """A release of the closed form. `clearness` is its signal to noise, from patients and deviation of the noise."""
    return Mechanism(
        name=name,
        module="moments",
        arrays=lambda plan: {RELEASE: (length(plan),)},
        sensitivity=sensitivity,
        signal_to_noise=lambda plan, event, patients: clearness(plan, patients, event.sigma * sensitivity(plan)),
        leaves=leaves,
        title=title,
        band="closed form",
    )


_COUNTED = math.sqrt(1.0 + COUNT_WEIGHT**2)
"""Norm of a vector of norm 1 together with the count."""
_COUNTED_TWICE = math.sqrt(2.0 + COUNT_WEIGHT**2)
"""The same of a second moment and a vector, of norm 1 each."""

MECHANISMS = (
    _moment(
        "mean",
        length=lambda plan: plan.model.base**2 + plan.data.classes,
        sensitivity=lambda plan: math.sqrt(2.0) * plan.privacy.mean_clip,
        # n M over s sqrt(m), Euclidean, for the m cosine coefficients
        clearness=lambda plan, n, s: n * plan.privacy.mean_clip / (s * plan.model.base),
        leaves="the average image and the class shares",
        title="mean image",
    ),
    _moment(
        "subspace",
        length=lambda plan: triangle(plan.model.base**2) + 1,
        sensitivity=lambda _: _COUNTED,
        # n over s sqrt(2 m), operator norm of an m x m matrix (Wigner), as is what a leading direction sees
        clearness=lambda plan, n, s: n / (s * math.sqrt(2 * plan.model.base**2)),
        leaves="the directions in which images differ",
        title="main directions",
    ),
    _moment(
        "prior",
        length=lambda plan: plan.data.classes * spreads_length(plan),
        sensitivity=lambda _: _COUNTED_TWICE,
        # n / C over s sqrt(2 k), the same for one class's k x k matrix
        clearness=lambda plan, n, s: n / plan.data.classes / (s * math.sqrt(2 * plan.model.latent)),
        leaves="how images of each class spread along them",
        title="label statistics",
    ),
    _moment(
        "centres",
        length=lambda plan: cells(plan) * (plan.model.latent + 1),
        sensitivity=lambda _: _COUNTED,
        # n / (C J) over s sqrt(k), Euclidean, for one component's coordinates
        clearness=lambda plan, n, s: n / plan.data.classes / plan.model.components / (s * math.sqrt(plan.model.latent)),
        leaves="where groups of images of each class lie",
        title="groups within labels",
    ),
    _moment(
        "mixture",
        length=lambda plan: cells(plan) * spreads_length(plan),
        sensitivity=lambda _: _COUNTED_TWICE,
        # n / (C J) over s sqrt(2 k), as for a class
        clearness=lambda plan, n, s: (
            n / plan.data.classes / plan.model.components / (s * math.sqrt(2 * plan.model.latent))
        ),
        leaves="how each of those groups spreads",
        title="spread of the groups",
    ),
    _moment(
        "means",
        length=lambda plan: plan.data.classes * (plan.data.image_size**2 + 1),
        sensitivity=lambda plan: plan.privacy.mean_clip * _COUNTED,
        # n / C times M over s times the image's side, Euclidean, for one class's d cosine coefficients
        clearness=lambda plan, n, s: n / plan.data.classes * plan.privacy.mean_clip / (s * plan.data.image_size),
        leaves="the average image of each class and the class shares",
        title="mean image of each label",
    ),
    _moment(
        "scatters",
        length=lambda plan: plan.data.classes * (triangle(axes(plan)) + bands(plan) + 1),
        sensitivity=lambda _: _COUNTED,
        # n / C over s sqrt(2 m), as for subspace, for one class's m x m matrix
        clearness=lambda plan, n, s: n / plan.data.classes / (s * math.sqrt(2 * axes(plan))),
        leaves="how the images of each class vary around it",
        title="spread of each label",
    ),
)


def bands(plan: StudyPlan) -> int:
    """Bands of frequencies that the base leaves out; all of them along public directions."""
    base = 0 if plan.warm.directions else plan.model.base
    return int(detail_bands(plan.data.image_size, base).shape[1])


def shares(plan: StudyPlan) -> tuple[tuple[str, float], ...]:
    """The releases that make the plan's closed form, in order, each with its share of the stage's privacy."""
    if plan.model.covariance == "class":
        return CLASS_SHARES
    return SHARES if plan.model.components == 1 else MIXTURE_SHARES


def _rounds(plan: StudyPlan, multiplier: float) -> list[tuple[str, GaussianEvent]]:
    return [
        (name, GaussianEvent(sigma=multiplier / part**0.5, sample_rate=1.0, steps=1)) for name, part in shares(plan)
    ]


STAGES = (
    Stage(
        name="moments",
        rounds=_rounds,
        share=lambda plan: plan.privacy.moments_share,
        words=lambda _: "the moments phase",
    ),
)
