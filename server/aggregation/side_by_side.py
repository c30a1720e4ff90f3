"""Replies side by side, for strategies that compare them value by value: each is written to disk and dropped.

On disk this takes 4 bytes a value and reply, in a file without a name in the study's folder, which goes with the
process. Memory is that of one slab of values of all replies, for any size of the model.
"""

import math
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import StateError
from common.model.weights import Weights

_SLAB_VALUES = 2**20
_Centre = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From the terms' values in order, [terms, n], to one value each, [n]."""


class SideBySide:
    """Keeps named arrays of several terms; what comes of them does not depend on the order of arrival, to the bit.

    Args:
        shapes: Name and shape of every array of a term.
        folder: Where to keep them; None takes the system's folder for temporary files.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, folder: Path | None = None) -> None:
        self._shapes = dict(sorted(shapes.items()))
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as this object
        weakref.finalize(self, self._file.close)
        self.terms = 0

    def add(self, term: Weights) -> None:
        """Add one term; it is not kept in memory.

        Raises:
            ValueError: Another set of names or shapes; nothing was written.
            StateError: The disk refuses.
        """
        if {name: array.shape for name, array in term.items()} != self._shapes:
            raise ValueError("a term of other arrays cannot be added")
        try:
            for name in self._shapes:
                self._file.write(np.ascontiguousarray(term[name], np.float32).data)
            self._file.flush()
        except OSError as error:
            raise StateError(
                f"a reply cannot be kept with the others ({error.strerror}). Free space, then resume the study"
            ) from error
        self.terms += 1

    def median(self) -> Weights:
        """Each value's median over the terms (Yin et al. 2018, arXiv 1803.01498); of two in the middle, their mean."""
        return self._along(lambda ordered: np.median(ordered, axis=0))

    def trimmed_mean(self, share: float) -> Weights:
        """Each value's mean without the `share` of terms, rounded down, that is lowest and highest (ibidem)."""
        cut = int(share * self.terms)
        return self._along(lambda ordered: ordered[cut : self.terms - cut].mean(axis=0))

    def _along(self, centre: _Centre) -> Weights:
        values = sum(math.prod(shape) for shape in self._shapes.values())
        stored = np.memmap(self._file, dtype=np.float32, mode="r", shape=(self.terms, values))
        flat = np.empty(values, np.float32)
        slab = max(1, _SLAB_VALUES // self.terms)
        for start in range(0, values, slab):
            ordered = np.sort(stored[:, start : start + slab], axis=0).astype(np.float64)
            flat[start : start + slab] = centre(ordered)
        result, start = {}, 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            result[name] = flat[start : start + size].reshape(shape)
            start += size
        return result
