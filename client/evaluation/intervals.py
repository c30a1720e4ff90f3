"""A figure with its 95 % bootstrap interval, resampled by patient: images of one patient are not independent."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value and the interval that 95 % of patient-wise resamples fall into; NaN where it cannot be told."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes null."""
        return {key: value if math.isfinite(value) else None for key, value in vars(self).items()}


def bootstrap(statistic: Callable[[NDArray[np.intp]], float], groups: NDArray[np.intp], *, seed: int = 0) -> Figure:
    """Return the statistic on all rows, and its percentile interval over resamples of whole groups.

    Args:
        statistic: Of the chosen rows' indices, which may repeat; may be NaN for an unlucky resample.
        groups: [n] number of the patient that each row belongs to.
        seed: Of the resampling.
    """
    rows_of = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    value = statistic(np.arange(len(groups)))
    random = np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([rows_of[i] for i in random.integers(0, len(rows_of), len(rows_of))]))
        for _ in range(RESAMPLES if len(rows_of) > 1 else 0)
    ]
    usable = [value for value in drawn if math.isfinite(value)]
    if not usable:
        return Figure(value=value, low=math.nan, high=math.nan)
    low, high = np.percentile(usable, (2.5, 97.5))
    return Figure(value=value, low=float(low), high=float(high))
