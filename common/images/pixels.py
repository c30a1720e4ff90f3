"""Pixel maths shared by both sides: resizing, the 8- and 16-bit forms of [-1, 1]."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def fit_square(image: Tensor, *, size: int) -> Tensor:
    """Resize one grey image to a square, keeping its aspect ratio; the short side is padded with its own edge level.

    Args:
        image: [height, width], float32 in [-1, 1].
        size: Side of the result, pixels.

    Returns:
        [size, size], float32 in [-1, 1].
    """
    height, width = image.shape
    longest = max(height, width)
    target = (max(1, round(height * size / longest)), max(1, round(width * size / longest)))
    mode = "area" if longest > size else "bilinear"
    if target == (height, width):
        resized = image
    else:
        corners = None if mode == "area" else False
        resized = functional.interpolate(image[None, None], size=target, mode=mode, align_corners=corners)[0, 0]
    top, left = (size - target[0]) // 2, (size - target[1]) // 2
    square = torch.full((size, size), float(resized.min()), dtype=torch.float32)
    square[top : top + target[0], left : left + target[1]] = resized
    return square.clamp(-1.0, 1.0)


def unit_to_uint16(image: Tensor) -> NDArray[np.uint16]:
    """Store [-1, 1] as 16-bit integers (the cache's form); `uint16_to_unit` undoes it to 1.6e-5."""
    return np.round((image.numpy().astype(np.float64) + 1.0) * 32767.5).astype(np.uint16)


def uint16_to_unit(stored: NDArray[np.uint16]) -> Tensor:
    """Undo `unit_to_uint16`; float32 in [-1, 1]."""
    return torch.from_numpy(stored.astype(np.float32) / np.float32(32767.5) - np.float32(1.0))


def unit_to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Render [-1, 1] as 8-bit grey (0 is black); values outside saturate. Any shape."""
    return np.round((image.clamp(-1.0, 1.0).numpy() + 1.0) * 127.5).astype(np.uint8)
