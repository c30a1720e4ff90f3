"""The closed form that a model's weights carry: the moments phase reads it and sets it by these two words alone.

`common.model.linear_start.LinearStart` lists the arrays, their names and their shapes. What they are called among a
model's weights is known here and in the generators.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.model.array_table import PREFIX
from common.model.weights import Weights


def closed_form(weights: Weights) -> Weights:
    """The arrays of the closed form as weights hold them, by their own names: "mean", "basis", "centre" and so on."""
    return {name.removeprefix(PREFIX): array for name, array in weights.items() if name.startswith(PREFIX)}


def with_closed_form(weights: Weights, found: Mapping[str, NDArray[np.float64]]) -> Weights:
    """The weights with some arrays of the closed form set, rounded to float32.

    Args:
        weights: The weights of the whole model.
        found: Arrays by their own names.

    Raises:
        KeyError: The model's closed form has no array of that name.
    """
    if unknown := sorted(set(found) - set(closed_form(weights))):
        raise KeyError(f"the closed form has no array {unknown[0]!r}")
    return {**weights, **{PREFIX + name: value.astype(np.float32) for name, value in found.items()}}
