"""Patients' vectors as integers on a grid: a sum that is exact, and one patient's part in it that is bounded by count.

Formal guarantee
    The grid's step is Delta / 2^24 for a mechanism of sensitivity Delta. A patient's vector is made from that patient's
    images alone, divided by the step and rounded toward zero. No value grows in magnitude, so neither does the L2
    norm. Then the integers themselves are measured: a vector whose norm is above 2^24 is shrunk, and one that is not
    finite is zero. The squares are integers below 2^53, so float64 adds them without error, and rounding is no part of
    the proof. The sum over patients is in int64. It cannot wrap: `MOST_PATIENTS` vectors of that norm stay below 2^62.
    So adding or removing one patient, with any images and for any weights of the server, moves the sum by an integer
    vector of L2 norm at most 2^24, exactly.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from client.cohort.cache import Cache
from common.errors import StateError
from common.mechanism.masked_sum import GRID
from common.mechanism.mechanism import Array

MOST_PATIENTS = 2**38
Integers = NDArray[np.int64]


def on_grid(vector: Array, *, sensitivity: float) -> Integers:
    """One patient's vector in steps of sensitivity / 2^24, toward zero, of norm at most 2^24."""
    with np.errstate(all="ignore"):  # the server may have sent any numbers; what is not finite is zero below
        steps = np.trunc(vector * (GRID / sensitivity))
        squares = float(np.einsum("i,i->", steps, steps))  # no BLAS, whose threads cost more than this sum
        if not squares <= GRID**2:
            steps = np.trunc(steps * ((1 - 2.0**-40) * GRID / np.sqrt(squares)))
            squares = float(np.einsum("i,i->", steps, steps))  # no BLAS, whose threads cost more than this sum
    if not squares <= GRID**2:
        return np.zeros(len(vector), np.int64)
    return steps.astype(np.int64)


def summed(vectors: Iterable[Array], *, length: int, sensitivity: float) -> Integers:
    """Exact sum of patients' vectors on the grid.

    Args:
        vectors: One of each patient.
        length: Of each vector.
        sensitivity: L2 bound on one of them.

    Raises:
        StateError: There are more patients than the sum holds without wrapping.
    """
    total = np.zeros(length, np.int64)
    for number, vector in enumerate(vectors):
        if number >= MOST_PATIENTS:
            raise StateError(f"a secure sum holds at most {MOST_PATIENTS} patients")
        total += on_grid(vector, sensitivity=sensitivity)
    return total


def patients(cache: Cache) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The images [n, size, size] and labels [n] of each patient, one patient at a time."""
    rows, owners = cache.every_row()
    ends = np.flatnonzero(np.diff(owners, append=-1)) + 1
    for mine in np.split(rows, ends[:-1]):
        if len(mine):
            images, labels = cache.at(mine)
            yield images[:, 0].numpy(), labels.numpy()
