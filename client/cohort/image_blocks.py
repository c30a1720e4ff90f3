"""A cohort read some images at a time, as flat arrays that remember whose image is whose."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.cache import Cache
from client.mechanism.patient_views import images_at_once


@dataclass(frozen=True)
class Part:
    """Some images, in the cohort's order; a patient's may lie in several parts.

    Attributes:
        images: [n, size, size] in [-1, 1].
        labels: [n] int64.
        patients: [n] number of each image's patient within the cohort.
        shares: [n] what each image counts of its patient, whose images together count as one.
    """

    images: Tensor
    labels: Tensor
    patients: NDArray[np.intp]
    shares: NDArray[np.float64]


def parts(cohort: Cache, *, at_once: int | None = None, most: int | None = None) -> Iterator[Part]:
    """Yield the cohort's images in order, no more than `at_once` in memory, however many one patient has.

    Args:
        cohort: Whose images.
        at_once: Images of every part but the last, which may have fewer; as many as a pass takes where None.
        most: Stop after so many images, in the middle of a patient if need be.
    """
    step = at_once or images_at_once(cohort.image_size)
    rows, owners = cohort.every_row()
    shares = 1.0 / np.bincount(owners)[owners]
    last = len(rows) if most is None else min(most, len(rows))
    for first in range(0, last, step):
        part = slice(first, min(first + step, last))
        images, labels = cohort.at(rows[part])
        yield Part(images[:, 0], labels, owners[part], shares[part])


def gathered(cohort: Cache, *, most: int) -> Part:
    """The first `most` images of a cohort as one part; empty arrays for an empty cohort."""
    found = list(parts(cohort, most=most))
    if not found:
        size = cohort.image_size
        return Part(torch.zeros(0, size, size), torch.zeros(0, dtype=torch.int64), np.zeros(0, np.intp), np.zeros(0))
    return Part(
        torch.cat([part.images for part in found]),
        torch.cat([part.labels for part in found]),
        np.concatenate([part.patients for part in found]),
        np.concatenate([part.shares for part in found]),
    )


def mean_by_patient(values: NDArray[np.float64], owners: NDArray[np.intp], *, patients: int) -> NDArray[np.float64]:
    """Mean [patients, ...] over each patient's images of `values` [n, ...]; every patient owns at least one.

    Args:
        values: One row for each image, [n, ...].
        owners: Index of each image's patient, [n], each from 0 to `patients` - 1.
        patients: Number of patients.
    """
    total = np.zeros((patients, *values.shape[1:]))
    np.add.at(total, owners, values)
    counts = np.bincount(owners, minlength=patients)
    return total / counts.reshape(-1, *[1] * (values.ndim - 1))
