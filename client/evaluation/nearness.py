"""Did the generator copy? Distances to the nearest synthetic image, of patients who trained and of held-out ones.

Distances are root mean squares per pixel, images in [-1, 1]. Real data holds pictures twice (PneumoniaMNIST has 29
exact pairs). A held-out image that also occurs among the training images says nothing about copying. So both figures
leave out every real image whose exact twin is on the other side, and count each picture once.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.evaluation.intervals import Figure, bootstrap

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """What the nearest synthetic images say.

    Attributes:
        trained: Median distance of a training image to its nearest synthetic one.
        held_out: The same of held-out images.
        ratio: Median over training images of (distance to the nearest synthetic image) / (distance to the nearest
            held-out image), over the same median with the two kinds of patients swapped. About 1 without copying,
            towards 0 with it.
        auc: How well the distance tells training from held-out images; 0.5 is not at all.
        twins: Real images left out because an exact twin exists.
    """

    trained: Figure
    held_out: Figure
    ratio: Figure
    auc: Figure
    twins: int


@dataclass(frozen=True)
class Points:
    """Points that many others are compared with.

    Attributes:
        rows: [m, d] float64.
        squares: [m] their squared lengths.
    """

    rows: Tensor
    squares: Tensor

    @classmethod
    def of(cls, points: Tensor) -> Self:
        """Points [m, ...], flattened."""
        rows = points.flatten(1).double()
        return cls(rows, rows.square().sum(1))

    def squared_distances(self, others: Tensor) -> Tensor:
        """From each of `others` [n, ...] to each point, [n, m] float64."""
        rows = others.flatten(1).double()
        return (rows.square().sum(1)[:, None] + self.squares[None, :] - 2 * rows @ self.rows.T).clamp(min=0)


def nearest(images: Tensor, *, among: Tensor) -> NDArray[np.float64]:
    """Distance [n] from each image [n, size, size] to the nearest of `among` [m, size, size]; NaN if there is none."""
    if not len(among):
        return np.full(len(images), np.nan)
    pixels = images[0].numel() if len(images) else 1
    points = Points.of(among)
    parts = [points.squared_distances(part).min(1).values.div(pixels).sqrt() for part in torch.split(images, _AT_ONCE)]
    found: NDArray[np.float64] = torch.cat(parts).numpy()
    return found


def compare(trained: Tensor, held_out: Tensor, synthetic: Tensor) -> Nearness:
    """Compare training with held-out images [n, size, size]; each image stands for itself in the intervals.

    A figure is NaN where a side has no image, or none that lacks a twin on the other.

    Args:
        trained: Images of patients who trained.
        held_out: Images of held-out patients.
        synthetic: Images that the candidate drew.
    """
    first, second = unique(trained, apart_from=held_out), unique(held_out, apart_from=trained)
    left, right = trained[first], held_out[second]
    a, b = nearest(left, among=synthetic), nearest(right, among=synthetic)
    alike = min(len(left), len(right))  # the nearest of many is nearer, so both sides look among equally many
    across = nearest(left, among=right[:alike]), nearest(right, among=left[:alike])
    count = len(a)

    def split(rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return rows[rows < count], rows[rows >= count] - count

    def ratio(rows: NDArray[np.intp]) -> float:
        i, j = split(rows)
        if not len(i) or not len(j):
            return float("nan")
        return float(np.median(a[i] / across[0][i]) / max(np.median(b[j] / across[1][j]), 1e-12))

    def told_apart(rows: NDArray[np.intp]) -> float:
        i, j = split(rows)
        return membership_area(-a[i], -b[j])

    everyone = np.arange(count + len(b))
    return Nearness(
        trained=bootstrap(lambda rows: _median(a[rows]), np.arange(count)),
        held_out=bootstrap(lambda rows: _median(b[rows]), np.arange(len(b))),
        ratio=bootstrap(ratio, everyone),
        auc=bootstrap(told_apart, everyone),
        twins=len(trained) - count + len(held_out) - len(b),
    )


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def unique(images: Tensor, *, apart_from: Tensor) -> list[int]:
    """Indices of the images that have no exact twin among `apart_from`, each picture once, in order."""
    seen = {row.tobytes() for row in apart_from.numpy()}
    chosen: list[int] = []
    for index, row in enumerate(images.numpy()):
        name = row.tobytes()
        if name not in seen:
            seen.add(name)
            chosen.append(index)
    return chosen


def membership_area(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Chance that a member's score is above another's, ties counted half; NaN where a side is empty."""
    if not len(members) or not len(others):
        return float("nan")
    order = np.sort(others)
    below = np.searchsorted(order, members, "left") + np.searchsorted(order, members, "right")
    return float(below.mean() / (2 * len(others)))
