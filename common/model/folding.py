"""How a denoiser's grid lies over an image: pixels are folded into channels until the grid is small."""

import math

CELLS = 16
"""Most cells per axis of the finest grid."""


def folding(size: int) -> int:
    """Pixels per axis that make one cell: the least power of two that leaves at most `CELLS` cells per axis."""
    return int(2 ** max(0, math.ceil(math.log2(size / CELLS))))
