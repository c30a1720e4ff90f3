"""The window function LINEAR_EXACT as the standard's formula says it, to compare with."""

from torch import Tensor, float32


def window_to_unit(values: Tensor, *, centre: float, width: float) -> Tensor:
    """[-1, 1] of values under a window (PS3.3 C.11.2.1.3.2)."""
    return ((values.to(float32) - centre) * (2.0 / width)).clamp(-1.0, 1.0)
