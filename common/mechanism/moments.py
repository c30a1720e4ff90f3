"""The moments phase's arithmetic: the public cosine basis and the packing of what a site releases.

An image x of d pixels in [-1, 1] becomes `base * base` low cosine frequencies, scaled so that the coefficient
vector's L2 norm is at most the root mean square of the pixels, hence at most 1. The basis is a public constant,
works at any image size, and keeps the noise isotropic.

A release of phase p is one vector; a patient's contribution to it is the mean over that patient's images of a
per-image vector whose L2 norm is at most `sensitivity(p)`. A mean of vectors in a ball lies in that ball, so adding or
removing one patient, with however many images, moves the sum by at most `sensitivity(p)`.
"""

import functools
import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from common.plan.schedule import Phase
from common.plan.study_plan import StudyPlan

Array = NDArray[np.float64]
COUNT_WEIGHT = 0.25
"""How loudly the patient count speaks next to the moments in the phases that need it only as a divisor."""


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


def coefficients(images: NDArray[np.float32], *, base: int) -> Array:
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


def pack_matrix(matrix: Array) -> Array:
    """Upper triangle of a symmetric matrix [m, m] -> [m(m+1)/2], isometric to the Frobenius norm.

    Off-diagonal entries are scaled by sqrt(2), so the packed L2 norm of v v' equals ||v||^2.
    """
    rows, columns = np.triu_indices(len(matrix))
    packed: Array = matrix[rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0))
    return packed


def unpack_matrix(packed: Array, size: int) -> Array:
    """Undo the packing of `pack_matrix` for one [m(m+1)/2] vector: the symmetric matrix [m, m]."""
    rows, columns = np.triu_indices(size)
    matrix = np.zeros((size, size))
    matrix[rows, columns] = packed / np.where(rows == columns, 1.0, math.sqrt(2.0))
    symmetric: Array = matrix + np.triu(matrix, 1).T
    return symmetric


def triangle(size: int) -> int:
    """Length of a packed symmetric matrix of side `size`."""
    return size * (size + 1) // 2


def pixel_unit(plan: StudyPlan) -> float:
    """Pixel units in one unit of the clipped latent coordinates."""
    return plan.privacy.deviation_clip * plan.data.image_size


def release_length(plan: StudyPlan, phase: Phase) -> int:
    """Number of values a site releases in this phase."""
    base, classes, latent = plan.model.base**2, max(1, len(plan.data.labels)), plan.model.latent
    cells, size = classes * plan.model.components, plan.data.image_size
    lengths: dict[Phase, int] = {
        "mean": base + classes,
        "subspace": triangle(base) + 1,
        "prior": classes * (triangle(latent) + latent + 1),
        "centres": cells * (latent + 1),
        "mixture": cells * (triangle(latent) + latent + 1),
        "means": classes * (size**2 + 1),
        "scatters": classes * (triangle(base) + detail_bands(size, plan.model.base).shape[1] + 1),
    }
    return lengths[phase]


def sensitivity(plan: StudyPlan, phase: Phase) -> float:
    """L2 bound on one patient's contribution to the release of this phase (layout: `client.mechanism.moments`)."""
    return {
        "mean": math.sqrt(2.0) * plan.privacy.mean_clip,
        "subspace": math.sqrt(1.0 + COUNT_WEIGHT**2),
        "prior": math.sqrt(2.0 + COUNT_WEIGHT**2),
        "centres": math.sqrt(1.0 + COUNT_WEIGHT**2),
        "mixture": math.sqrt(2.0 + COUNT_WEIGHT**2),
        "means": plan.privacy.mean_clip * math.sqrt(1.0 + COUNT_WEIGHT**2),
        "scatters": math.sqrt(1.0 + COUNT_WEIGHT**2),
    }[phase]
