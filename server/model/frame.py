"""The frame that a class's moments are taken in: cosine frequencies, or directions and mean of public images.

A frame says what is likely of a class before its moments are seen, so that what the noise drowns can be filled in:
frequencies half an octave wide are about as strong, or public images show how strong each direction is. All of it is
post-processing of noised releases by public constants and public images, and costs no budget.
"""

from abc import ABC, abstractmethod

import numpy as np

from common.mechanism.mechanism import Array
from common.mechanism.moments import coefficients, cosine_basis, detail_bands
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from server.model.shrinkage import scaled_spectrum, spectrum, towards_zero


class Frame(ABC):
    """Coordinates, m in number, and the bands of what they leave.

    Attributes:
        pixels: The coordinates' directions as images, [size * size, m], orthonormal columns.
        centre: Cosine coefficients that the class means were released relative to, [size * size].
    """

    pixels: Array
    centre: Array

    @abstractmethod
    def towards_zero(self, values: Array, deviations: Array) -> Array:
        """Draw noised cosine coefficients of a mean towards 0, as far as noise explains their size.

        Args:
            values: The coefficients less the centre, [size * size].
            deviations: Standard deviation of the noise on each.
        """

    @abstractmethod
    def spectrum(self, variances: Array, deviation: float) -> Array:
        """Take noise of this standard deviation out of the variances [m] of the coordinates."""

    @abstractmethod
    def rest(self, variances: Array, energies: Array) -> Array:
        """Variance of every cosine coefficient [size * size] that a class's own directions leave.

        Args:
            variances: What they leave of the coordinates, [m].
            energies: Mean energies of the bands beyond the coordinates.
        """


class CosineFrame(Frame):
    """The low cosine frequencies, `base` for each axis."""

    def __init__(self, plan: StudyPlan) -> None:
        self._size, self._base = plan.data.image_size, plan.model.base
        self.pixels = cosine_basis(self._size, self._base)
        self.centre = np.zeros(self._size**2)

    def towards_zero(self, values: Array, deviations: Array) -> Array:
        """See `Frame`."""
        return towards_zero(values, deviations)

    def spectrum(self, variances: Array, deviation: float) -> Array:
        """See `Frame`."""
        return spectrum(variances, deviation)

    def rest(self, variances: Array, energies: Array) -> Array:
        """See `Frame`."""
        bands = detail_bands(self._size, self._base)
        whole: Array = (bands @ (np.maximum(energies, 0.0) / bands.sum(axis=0))).reshape(self._size, self._size)
        whole[: self._base, : self._base] = variances.reshape(self._base, self._base)
        return whole.ravel()


class PublicFrame(Frame):
    """Mean and principal directions of public images (`server.model.public_directions`), and how strong each is."""

    def __init__(self, plan: StudyPlan, start: Weights) -> None:
        size = plan.data.image_size
        self.pixels = start["public_basis"].astype(np.float64)
        self._axes = coefficients(self.pixels.T.reshape(-1, size, size), base=size).T * size
        self.centre = coefficients(start["public_mean"].reshape(1, size, size), base=size)[0]
        self._likely, self._beyond = (start[f"public_{name}"].astype(np.float64) for name in ("variance", "rest"))
        self._groups = np.floor(2 * np.log2(1 + np.arange(len(self._likely)))).astype(np.int64)
        self._bands = detail_bands(size, 0)

    def towards_zero(self, values: Array, deviations: Array) -> Array:
        """See `Frame`: groups of directions, half an octave of their number wide, then what these leave by bands."""
        squares, axes = deviations**2, self._axes**2
        along = self._axes.T @ values
        left = towards_zero(values - self._axes @ along, np.sqrt(squares * (1.0 - axes.sum(axis=1)).clip(min=0.0)))
        noise = axes.T @ squares
        kept = np.zeros_like(along)
        for group in np.unique(self._groups):
            mine = self._groups == group
            size = float((along[mine] ** 2).mean())
            kept[mine] = along[mine] * max(0.0, 1.0 - float(noise[mine].mean()) / size) if size > 0 else 0.0
        found: Array = self._axes @ kept + left
        return found

    def spectrum(self, variances: Array, deviation: float) -> Array:
        """See `Frame`: within a group, variances are drawn towards those of public images, scaled to the group."""
        return scaled_spectrum(variances, deviation, groups=self._groups, likely=self._likely)

    def rest(self, variances: Array, energies: Array) -> Array:
        """See `Frame`: within a band, frequencies are as strong as public images have them."""
        shape = self._bands * self._beyond[:, None]
        whole: Array = self._axes**2 @ variances
        whole += shape @ (np.maximum(energies, 0.0) / np.maximum(shape.sum(axis=0), 1e-300))
        return whole


def frame_of(plan: StudyPlan, start: Weights) -> Frame:
    """The frame of a plan; the closed form `start` holds what public images say, where the plan asks them."""
    return PublicFrame(plan, start) if plan.warm.directions else CosineFrame(plan)
