"""The guard of a prior: what was learnt of public images must leave the hospitals' moments about where they are.

A denoiser that read public images can draw the wrong anatomy above a closed form that has none of it. The moments that
hospitals released say enough to notice: pictures that are drawn must have about the mean, the variances along the
class's directions and the spectrum that were released. How far off they may be is measured too: by rehearsed studies of
the public images themselves. All of it is post-processing of noised releases and costs no budget.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.mechanism.mechanism import Array
from common.mechanism.moments import coefficients, half_octaves
from common.model.linear_start import ClassStart
from common.model.refined import RefinedVae

PICTURES = 64
"""Drawn of each class."""
ALLOWED = 2.0
"""How many times as far as in the worst rehearsal pictures may be from their moments."""
LEAST_ALLOWED = 0.1
"""Distance that is always allowed: rehearsals can all lie close to their moments."""


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """What the guard found.

    Attributes:
        distance: Of pictures from the hospitals' moments, the worst class's; see `distance`.
        allowed: Largest distance at which the prior is kept.
    """

    distance: float
    allowed: float

    @property
    def kept(self) -> bool:
        """Whether the prior is kept; a distance that is no number is none that is allowed."""
        return self.distance <= self.allowed


def guarded(model: RefinedVae, rehearsals: list[ClassStart], *, seed: int) -> Guarded:
    """Measure a model's denoiser above its own start and above those of rehearsals that it was not trained on.

    Args:
        model: The model; its start holds the hospitals' closed form.
        rehearsals: Closed forms of public images.
        seed: Of the pictures.
    """
    own = {name: value.clone() for name, value in model.start.state_dict().items()}
    worst = 0.0
    for start in rehearsals:
        model.start.load_state_dict(start.state_dict())
        worst = max(worst, *distances(model, seed=seed))
    model.start.load_state_dict(own)
    return Guarded(distance=max(distances(model, seed=seed)), allowed=max(LEAST_ALLOWED, ALLOWED * worst))


def distances(model: RefinedVae, *, seed: int) -> list[float]:
    """Of each class, how far what is drawn lies from the closed form that it was drawn from."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(model.classes):
        latent = torch.randn((PICTURES, model.latent_size), generator=generator)
        noise = torch.randn((PICTURES, model.size, model.size), generator=generator)
        labels = torch.full((PICTURES,), index, dtype=torch.int64)
        with torch.no_grad():
            pictures = model.decode_latents(latent, labels)[:, 0]
        found.append(distance(model.start, index, model.refine(pictures, labels, noise)))
    return found


def distance(start: ClassStart, index: int, pictures: Tensor) -> float:
    """Distance of pictures [n, size, size] from a class's moments, in units of the variance that these say.

    The square of the Wasserstein distance of two Gaussians whose covariances have the same axes: the squared distance
    of the means, and along each axis the squared difference of the deviations. Axes are the class's directions and, for
    what these leave out, bands of frequencies half an octave wide. nan where the pictures are no finite numbers.

    Args:
        start: The closed form with a covariance for each class.
        index: Index of the class.
        pictures: Images, [n, size, size].
    """
    size, latent = start.mean.shape[1], start.factor.shape[1]
    side = math.isqrt(size)
    mean = start.mean[index].double().numpy()
    basis = start.basis[:, index * latent : (index + 1) * latent].double().numpy()
    along = start.factor[index].double().square().sum(dim=1).numpy()
    beside = start.texture[index].double().square().numpy()
    drawn = pictures.flatten(1).double().numpy()
    gap = float(((drawn.mean(axis=0) - mean) ** 2).sum())
    offsets = drawn - drawn.mean(axis=0)
    coordinates = offsets @ basis
    rest = (offsets - coordinates @ basis.T).reshape(-1, side, side)
    energy = (coefficients(rest.astype(np.float32), base=side) * side) ** 2
    spread = np.square(np.sqrt((coordinates**2).mean(axis=0)) - np.sqrt(along)).sum()
    spread += _by_band(energy.mean(axis=0), beside, side)
    return float((gap + spread) / max(1e-12, along.sum() + beside.sum()))


def _by_band(one: Array, two: Array, side: int) -> float:
    """Sum over bands of the squared difference of the roots of their energies."""
    bands = half_octaves(side)
    sums = [np.bincount(bands, weights=values) for values in (one, two)]
    return float(np.square(np.sqrt(sums[0]) - np.sqrt(sums[1])).sum())
