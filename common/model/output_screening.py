"""Dropping broken synthetic images before anybody sees them, by a stated rule that looks at synthetic images alone.

The rule. Of each label, 256 images are drawn under a fixed public seed. Three plain numbers are taken of each image:
mean grey, contrast (standard deviation) and sharpness (mean step between neighbouring pixels). A candidate is dropped

    flat      its contrast is below 0.02, so it shows nothing
    outlier   one of its numbers lies more than 6 robust deviations (1.4826 MAD) from those images' median
    repeat    its 8-bit pixels were already kept in this set

No image of a patient enters, so screening costs no privacy, for any image that it drops.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError
from common.host.ordered import in_order
from common.images.pixels import unit_to_uint8
from common.model.synthesis import BATCH, Chance, Decoder

REFERENCE_IMAGES = 256
REFERENCE_SEED = 20_260
FLAT, LIMIT = 0.02, 6.0
MOST_TRIES = 20
"""A set is given up after this many draws for each image asked for (and 1,000 more)."""
_LEAST_SPREAD = 1e-3
RULE = f"contrast at least {FLAT:g}; mean, contrast and sharpness within {LIMIT:g} robust deviations; no repeat"


@dataclass(frozen=True)
class _Judged:
    """A batch as 8-bit pixels, its images' numbers (`measures`), and a name for each picture."""

    pixels: NDArray[np.uint8]
    numbers: Tensor
    names: list[bytes]


@dataclass
class Screening:
    """Screens the images of one set, label by label.

    Attributes:
        dropped: Number of images dropped, by reason.
    """

    decoder: Decoder
    dropped: Counter[str] = field(default_factory=Counter)

    def draw(self, label: str, count: int, *, seed: int) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
        """Yield (indices within the draw, images [n, size, size] uint8), `count` images in all, in constant memory.

        Args:
            label: Label of the images.
            count: Number of images that pass.
            seed: Seed of the draw.

        Raises:
            PlanError: The study has no such label.
            DataError: Nearly everything is dropped; the decoder is broken.
        """
        index = self.decoder.index(label)

        def judged(chances: Iterator[Chance], batches: int) -> Iterator[_Judged]:
            return in_order(
                lambda chance: _judged(self.decoder.pictures(chance, index)), itertools.islice(chances, batches)
            )

        reference = judged(self.decoder.chances(label, seed=REFERENCE_SEED), -(-REFERENCE_IMAGES // BATCH))
        low, high = _bounds(torch.cat([batch.numbers for batch in reference]))
        chances = self.decoder.chances(label, seed=seed)
        seen: set[bytes] = set()
        number = kept = 0
        while kept < count:
            for batch in judged(chances, -(-(count - kept) // BATCH)):
                chosen = self._choose(batch, low, high, seen)[: count - kept]
                if chosen:
                    yield [number * BATCH + place for place in chosen], batch.pixels[chosen]
                number, kept = number + 1, kept + len(chosen)
            if kept < count and number * BATCH > MOST_TRIES * count + 1000:
                raise DataError(
                    f"{count} images of {label!r} were asked for; after {number * BATCH} draws {kept} pass the "
                    f"screening ({self._reasons()}). The decoder is not fit for use"
                )

    def report(self) -> dict[str, Any]:
        """The rule and what it dropped, plain JSON types."""
        return {"rule": RULE, "dropped": dict(sorted(self.dropped.items()))}

    def _choose(self, batch: _Judged, low: Tensor, high: Tensor, seen: set[bytes]) -> list[int]:
        numbers = batch.numbers
        flat = numbers[:, 1] < FLAT
        odd = ((numbers < low) | (numbers > high)).any(1) | ~torch.isfinite(numbers).all(1)
        chosen: list[int] = []
        for place, (name, is_flat, is_odd) in enumerate(zip(batch.names, flat.tolist(), odd.tolist(), strict=True)):
            reason = "flat" if is_flat else "outlier" if is_odd else "repeat" if name in seen else ""
            if reason:
                self.dropped[reason] += 1
                continue
            seen.add(name)
            chosen.append(place)
        return chosen

    def _reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none dropped"


def measures(images: Tensor) -> Tensor:
    """Mean, contrast and sharpness [n, 3] of images [n, size, size] in [-1, 1]."""
    flat = images.flatten(1)
    steps = images.diff(dim=1).abs_().mean((1, 2)) + images.diff(dim=2).abs_().mean((1, 2))
    return torch.stack([flat.mean(1), flat.std(1), steps / 2], dim=1)


def _bounds(numbers: Tensor) -> tuple[Tensor, Tensor]:
    middle = numbers.median(0).values
    spread = 1.4826 * (numbers - middle).abs().median(0).values + _LEAST_SPREAD
    return middle - LIMIT * spread, middle + LIMIT * spread


def _judged(images: Tensor) -> _Judged:
    pixels = unit_to_uint8(images)
    return _Judged(pixels, measures(images), [hashlib.blake2b(image, digest_size=12).digest() for image in pixels])
