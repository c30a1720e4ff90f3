"""The closed-form part of the model, a linear VAE: set by the moments phase and left alone by gradients."""

import functools

import numpy as np
import scipy.fft
import torch
from torch import Tensor, nn

from common.model.array_table import PREFIX, start_shapes
from common.plan.study_plan import StudyPlan

DRAWING = tuple(PREFIX + n for n in ("mean", "basis", "centre", "factor", "frequency", "texture", "weight"))
"""The arrays that drawing needs; the others read images."""
_LEAST_ERROR = 1e-3
"""Least error, image units in [-1, 1], that the closed form admits to: a start of zeros knows nothing."""


class LinearStart(nn.Module):
    """The closed-form part; `classes` C with J components each, latent size k, pixels d = image_size squared.

    Arrays: mean [d], basis V [d, k] with orthonormal columns, frequency [C] (class shares, sum 1),
    texture [base * base] (standard deviations, in pixel units, of the cosine coefficients that the basis leaves out),
    and by component, class after class, C J in all: centre m [C J, k], factor L [C J, k, k], gain G [C J, k, k],
    spread [C J, k] (log-variance of the posterior), weight [C J] (share of its class), evidence [C J] (log of the
    weight less half the log-determinant of the coordinates' covariance, up to a constant).
    """

    mean: Tensor
    basis: Tensor
    centre: Tensor
    factor: Tensor
    gain: Tensor
    spread: Tensor
    frequency: Tensor
    texture: Tensor
    weight: Tensor
    evidence: Tensor

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__()
        self.components = plan.model.components
        for name, shape in start_shapes(plan).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    def texture_of(self, index: int) -> Tensor:
        """The texture of the class with this index."""
        return self.texture

    def decode(self, latent: Tensor, chosen: Tensor) -> Tensor:
        """Pixels [n, d] of latents [n, k] under one-hot components [n, C J]."""
        factor = torch.einsum("nc,cij->nij", chosen, self.factor)
        coordinates = chosen @ self.centre + torch.einsum("nij,nj->ni", factor, latent)
        images: Tensor = self.mean + coordinates @ self.basis.T
        return images

    def encode(self, pixels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each [n, k], of pixels [n, d] under one-hot components [n, C J]."""
        coordinates = (pixels - self.mean) @ self.basis - chosen @ self.centre
        gain = torch.einsum("nc,cij->nij", chosen, self.gain)
        return torch.einsum("nij,nj->ni", gain, coordinates), chosen @ self.spread

    @torch.no_grad()
    def explain(self, pixels: Tensor, chosen: Tensor, observation_std: float) -> Tensor:
        """The component of its class that explains each of the pixels [n, d] best, given one-hot classes [n, C].

        Args:
            pixels: Images as rows, [n, d].
            chosen: One-hot classes, [n, C].
            observation_std: Standard deviation of a pixel given its latents.

        Returns:
            One-hot components [n, C J], by the log-density of the coordinates (Woodbury's identity) and the weight.
        """
        if self.components == 1:
            return chosen
        own = chosen.repeat_interleave(self.components, dim=1) > 0
        best = torch.where(own, self.scores(pixels, observation_std), -torch.inf).argmax(dim=1)
        return (best[:, None] == torch.arange(len(self.evidence), device=best.device)).to(pixels.dtype)

    @torch.no_grad()
    def scores(self, pixels: Tensor, observation_std: float) -> Tensor:
        """Log-densities [n, C J], up to a constant, of the coordinates of pixels [n, d] under each component."""
        offsets = ((pixels - self.mean) @ self.basis)[:, None] - self.centre
        explained = torch.einsum("nci,cij->ncj", offsets, self.factor) * torch.einsum(
            "nci,cji->ncj", offsets, self.gain
        )
        lengths = (offsets.square().sum(2) - explained.sum(2)) / observation_std**2
        return self.evidence - 0.5 * lengths


class ClassStart(LinearStart):
    """A start whose every class has a mean, directions and a texture of its own (`model.covariance = "class"`).

    Arrays that differ: mean [C, d]; basis [d, C k], class after class k orthonormal columns; texture [C, d], of all the
    image's cosine coefficients. A class's coordinates lie along its own columns, so its centre is 0.

    A plan with `warm.directions` r has four arrays more, set from public images before the first round: public_mean
    [d], public_basis [d, r] with orthonormal columns, public_variance [r] along them, and public_rest [d], the
    variances of all cosine coefficients that they leave out. Drawing needs none of them.
    """

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        self._axes = _cosines(plan.data.image_size)  # a public constant, and so no array of the model

    def texture_of(self, index: int) -> Tensor:
        """The texture of the class with this index."""
        return self.texture[index]

    def decode(self, latent: Tensor, chosen: Tensor) -> Tensor:
        """Pixels [n, d] of latents [n, k] under one-hot classes [n, C]."""
        factor = torch.einsum("nc,cij->nij", chosen, self.factor)
        coordinates = chosen @ self.centre + torch.einsum("nij,nj->ni", factor, latent)
        images: Tensor = chosen @ self.mean + self._spread_out(coordinates, chosen)
        return images

    def encode(self, pixels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each [n, k], of pixels [n, d] under one-hot classes [n, C]."""
        of_all = ((pixels - chosen @ self.mean) @ self.basis).view(len(pixels), chosen.shape[1], -1)
        coordinates = torch.einsum("nc,nck->nk", chosen, of_all) - chosen @ self.centre
        gain = torch.einsum("nc,cij->nij", chosen, self.gain)
        return torch.einsum("nij,nj->ni", gain, coordinates), chosen @ self.spread

    @torch.no_grad()
    def posterior(self, noisy: Tensor, chosen: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of images under white noise, and the error that is expected of it.

        The closed form says that an image is Gaussian: variances along the class's directions, and the texture's along
        the cosine frequencies of what these leave out.

        Args:
            noisy: [n, size, size].
            chosen: [n, C] one-hot classes.
            level: [n], standard deviation of the noise.

        Returns:
            [n, size, size], and the root mean square error per pixel, [n], at least `_LEAST_ERROR`.
        """
        images, size, noise = noisy.shape[0], noisy.shape[-1], level.square()[:, None]
        along = chosen @ self.factor.square().sum(2)
        beside = chosen @ self.texture.square()
        offsets = noisy.flatten(1) - chosen @ self.mean
        of_all = (offsets @ self.basis).view(images, chosen.shape[1], -1)
        coordinates = torch.einsum("nc,nck->nk", chosen, of_all)
        rest = offsets - self._spread_out(coordinates, chosen)
        axes = self._axes.to(noisy.device)
        spectrum = axes @ rest.view(images, size, size) @ axes.T
        kept = spectrum * (beside / (beside + noise)).view(images, size, size)
        found = chosen @ self.mean + self._spread_out(coordinates * (along / (along + noise)), chosen)
        left = (along * noise / (along + noise)).sum(1) + (beside * noise / (beside + noise)).sum(1)
        error = (left / size**2).sqrt().clamp(min=_LEAST_ERROR)
        return found.view(images, size, size) + axes.T @ kept @ axes, error

    @torch.no_grad()
    def textured(self, noise: Tensor, chosen: Tensor, *, white: float) -> Tensor:
        """The class's texture and white noise together, from one standard normal draw for each pixel.

        Args:
            noise: [n, size, size].
            chosen: [n, C] one-hot classes.
            white: Standard deviation of the white noise.
        """
        axes = self._axes.to(noise.device)
        deviations = (chosen @ self.texture.square() + white**2).sqrt().view(noise.shape)
        coloured: Tensor = axes.T @ (deviations * (axes @ noise @ axes.T)) @ axes
        return coloured

    def _spread_out(self, coordinates: Tensor, chosen: Tensor) -> Tensor:
        """Pixels [n, d] of coordinates [n, k] along the directions of one-hot classes [n, C]."""
        of_all = (chosen[:, :, None] * coordinates[:, None, :]).flatten(1)
        return of_all @ self.basis.T


@functools.lru_cache(maxsize=8)
def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II along one axis, [size, size] float32; rows are frequencies."""
    return torch.from_numpy(scipy.fft.dct(np.eye(size), axis=0, norm="ortho").astype(np.float32))


def start_of(plan: StudyPlan) -> LinearStart:
    """The start that the plan's model is built around, all of it zero."""
    return (ClassStart if plan.model.covariance == "class" else LinearStart)(plan)
