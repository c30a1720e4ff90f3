"""Two curves of an image set that an eye can compare: how often each grey occurs, and how much detail of each fineness.

They show at a glance what the distances measure: a generator that blurs lacks fine detail, one that is washed out
lacks dark and light.
"""

import numpy as np
import torch
from torch import Tensor

GREYS = 24


def curves(images: Tensor) -> dict[str, list[float]]:
    """Grey histogram and radial spectrum of images [n, size, size] in [-1, 1]; empty lists for an empty set.

    Returns:
        "grey": share of pixels in each of 24 equal steps from -1 to 1. "detail": log10 of the mean power at 1, 2, ...
        size / 2 - 1 cycles per image side.
    """
    if not len(images):
        return {"grey": [], "detail": []}
    counts, _ = np.histogram(images.clamp(-1, 1).numpy(), bins=GREYS, range=(-1, 1))
    size = images.shape[-1]
    power = torch.fft.fft2(images.double()).abs().square().mean(0).numpy() / size**2
    axis = np.fft.fftfreq(size, 1 / size)
    ring = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(int)
    rings = range(1, size // 2)
    detail = [float(np.log10(power[ring == r].mean() + 1e-9)) for r in rings]
    return {"grey": (counts / counts.sum()).round(6).tolist(), "detail": [round(value, 4) for value in detail]}
