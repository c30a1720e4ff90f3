"""A cohort read some patients at a time, as flat arrays that remember whose image is whose."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cache import Cache

_PATIENTS_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """Images of some patients.

    Attributes:
        images: [n, size, size] in [-1, 1].
        labels: [n] int64.
        patients: [n] number of each image's patient within the cohort.
    """

    images: Tensor
    labels: Tensor
    patients: NDArray[np.intp]

    def shares(self, held: NDArray[np.bool_], threshold: float) -> float:
        """Sum over patients of (share of the patient's images for which something holds, less `threshold`)."""
        owners, place = np.unique(self.patients, return_inverse=True)
        share = np.bincount(place, weights=held) / np.bincount(place)
        return float((share - threshold).sum()) if len(owners) else 0.0


def parts(cohort: Cache, *, most: int | None = None) -> Iterator[Part]:
    """Yield the cohort's patients in order, some at a time.

    Args:
        cohort: Whose patients.
        most: Stop before the patient that would bring the images above this number.
    """
    count = 0
    for first in range(0, cohort.patients, _PATIENTS_AT_ONCE):
        loaded: list[tuple[int, Tensor, Tensor]] = []
        for i in range(first, min(first + _PATIENTS_AT_ONCE, cohort.patients)):
            images, labels = cohort.patient(i)
            count += len(labels)
            if most is not None and count > most:
                break
            loaded.append((i, images[:, 0], labels))
        if loaded:
            yield Part(
                torch.cat([images for _, images, _ in loaded]),
                torch.cat([labels for _, _, labels in loaded]),
                np.concatenate([np.full(len(labels), i) for i, _, labels in loaded]).astype(np.intp),
            )
        if most is not None and count > most:
            return


def gathered(cohort: Cache, *, most: int) -> Part:
    """The first patients of a cohort as one part of at most `most` images; empty arrays for an empty cohort."""
    found = list(parts(cohort, most=most))
    if not found:
        size = cohort.image_size
        return Part(torch.zeros(0, size, size), torch.zeros(0, dtype=torch.int64), np.zeros(0, np.intp))
    return Part(
        torch.cat([part.images for part in found]),
        torch.cat([part.labels for part in found]),
        np.concatenate([part.patients for part in found]),
    )
