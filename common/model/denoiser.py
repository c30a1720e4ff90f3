"""The denoiser: a small convolutional net that adds to a linear start what Gaussians cannot say (edges, organs, ribs).

    D(x, s, c) = E(x, s, c) + r(s, c) * net(x, E, s, c)        x: an image plus white noise of deviation s, class c

E is the posterior mean of the linear start, r its expected error (`common.model.linear_start`). The last layer starts
at zero, so D starts as E, and training can only refine it. Weights are shared across positions: every patch of an image
trains all of them. So patient-level noise costs this net little, where a weight that speaks for one place drowns.

No buffers, no batch statistics, no dropout: an image's output depends on that image alone.

Source
    Denoising as a generator, with this preconditioning: Karras, Aittala, Aila & Laine 2022, arXiv 2206.00364.
    A Gaussian start: Pandey et al. 2022, DiffuseVAE, arXiv 2201.00308. Under DP: Dockhorn et al. 2023, 2210.09929.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.model.array_table import WAVES
from common.model.folding import folding

LEAST_LEVEL, MOST_LEVEL = 0.05, 0.9
"""Deviations of the noise that the net is trained on, image units in [-1, 1]; public constants."""
_FIRST, _LAST, _STEPS = 0.8, 0.06, 10
"""Noise that a drawing starts from and that its last step takes off, and the number of steps."""
_CONTRAST = 0.15
"""Deviation that images are taken to have around their posterior mean where inputs are brought to one scale."""


class Denoiser(nn.Module):
    """A residual U-net of two levels on folded pixels; about 95,000 weights with channels (32, 48).

    Args:
        size: Pixels on a side; see `folding`.
        classes: Number of classes C.
        channels: Channels of the fine level and of the coarse one.
    """

    def __init__(self, *, size: int, classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        fine, coarse = channels
        self.size, self.fold = size, folding(size)
        told = 2 * WAVES + classes
        self.enter = nn.Conv2d(2 * self.fold**2 + 2, fine, 3, padding=1)
        self.told = nn.Linear(told, fine)
        self.before = _Block(fine, told)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.middle = _Block(coarse, told)
        self.up = nn.Conv2d(coarse, fine, 1)
        self.after = _Block(fine, told)
        self.leave = nn.Conv2d(fine, self.fold**2, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for block in (self.before, self.middle, self.after):
            block.soften()
        for silent in (self.told, self.leave):
            _silence(silent)

    def silence(self) -> None:
        """Set the last layer to zero, so that nothing is added to the linear start."""
        _silence(self.leave)

    def forward(self, noisy: Tensor, expected: Tensor, chosen: Tensor, level: Tensor) -> Tensor:
        """What to add to `expected`, in units of its expected error.

        Args:
            noisy: [n, size, size].
            expected: [n, size, size], the linear start's posterior mean.
            chosen: [n, C] one-hot classes.
            level: [n], deviation of the noise in `noisy`.

        Returns:
            [n, size, size].
        """
        told = torch.cat([_waves(level), chosen], dim=1)
        scale = (_CONTRAST**2 + level.square()).rsqrt()[:, None, None]
        planes = torch.stack([(noisy - expected) * scale, 2.0 * expected], dim=1)
        folded = functional.pixel_unshuffle(planes, self.fold)
        fine = self.enter(torch.cat([folded, _places(folded)], dim=1)) + self.told(told)[:, :, None, None]
        fine = self.before(fine, told)
        coarse = self.middle(self.down(functional.silu(fine)), told)
        fine = fine + functional.interpolate(self.up(functional.silu(coarse)), scale_factor=2.0, mode="nearest")
        residual = self.leave(functional.silu(self.after(fine, told)))
        return functional.pixel_shuffle(residual, self.fold)[:, 0]


class _Block(nn.Module):
    """A residual block that class and noise level scale and shift (FiLM, Perez et al. 2018)."""

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(told, 2 * channels)

    def soften(self) -> None:
        """Have the block begin near the identity, told nothing."""
        _silence(self.film)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, features: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.film(told)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(functional.silu(features)) * (1.0 + scale) + shift
        changed: Tensor = features + self.second(functional.silu(inner))
        return changed


def _silence(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def levels(chance: Tensor) -> Tensor:
    """Noise levels of standard normal draws [n]: log-uniform between `LEAST_LEVEL` and `MOST_LEVEL`."""
    share = torch.special.ndtr(chance)
    return LEAST_LEVEL * torch.exp(share * math.log(MOST_LEVEL / LEAST_LEVEL))


def drawing_levels() -> list[float]:
    """Noise levels of the drawing's steps, falling: evenly spaced in the logarithm."""
    ratio = (_LAST / _FIRST) ** (1.0 / (_STEPS - 1))
    return [_FIRST * ratio**step for step in range(_STEPS)]


def _waves(level: Tensor) -> Tensor:
    """Sines and cosines [n, 2 * WAVES] of the log of noise levels [n]."""
    angles = level.log()[:, None] * torch.linspace(0.5, 3.0, WAVES, device=level.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _places(cells: Tensor) -> Tensor:
    """Where each cell of [n, any, h, w] lies: [n, 2, h, w] in [-1, 1], row first."""
    rows, columns = cells.shape[2:]
    axes = (torch.linspace(-1, 1, length, device=cells.device) for length in (rows, columns))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(cells.shape[0], -1, -1, -1)
