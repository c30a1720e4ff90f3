"""Dropping broken synthetic images before anybody sees them, by a stated rule that looks at synthetic images alone.

The rule. Of each label, 256 images are drawn under a fixed public seed. Three plain numbers are taken of each image:
mean grey, contrast (standard deviation) and sharpness (mean step between neighbouring pixels). A candidate is dropped

    flat      its contrast is below 0.02, so it shows nothing
    outlier   one of its numbers lies more than 6 robust deviations (1.4826 MAD) from those images' median
    repeat    its 8-bit pixels were already kept in this set

No image of a patient enters, so screening costs no privacy, whatever it drops.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError
from common.images import unit_to_uint8
from common.synthesis import BATCH, Decoder

REFERENCE_IMAGES = 256
REFERENCE_SEED = 20_260
FLAT, LIMIT = 0.02, 6.0
MOST_TRIES = 20
"""A set is given up after this many draws for each image asked for (and 1,000 more)."""
_LEAST_SPREAD = 1e-3
RULE = f"contrast at least {FLAT:g}; mean, contrast and sharpness within {LIMIT:g} robust deviations; no repeat"


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

        Raises:
            PlanError: The study has no such label.
            DataError: Nearly everything is dropped; the decoder is broken.
        """
        low, high = _bounds(self.decoder, label)
        seen: set[bytes] = set()
        kept = 0
        for number, images in enumerate(self.decoder.batches(label, seed=seed)):
            if number * BATCH > MOST_TRIES * count + 1000:
                raise DataError(
                    f"{count} images of {label!r} were asked for; after {number * BATCH} draws {kept} pass the "
                    f"screening ({self._reasons()}). The decoder is not fit for use"
                )
            pixels = unit_to_uint8(images)
            chosen = self._choose(images, pixels, low, high, seen)[: count - kept]
            if chosen:
                yield [number * BATCH + place for place in chosen], pixels[chosen]
                kept += len(chosen)
            if kept >= count:
                return

    def report(self) -> dict[str, Any]:
        """The rule and what it dropped, plain JSON types."""
        return {"rule": RULE, "dropped": dict(sorted(self.dropped.items()))}

    def _choose(
        self, images: Tensor, pixels: NDArray[np.uint8], low: Tensor, high: Tensor, seen: set[bytes]
    ) -> list[int]:
        numbers = measures(images)
        flat = numbers[:, 1] < FLAT
        odd = ((numbers < low) | (numbers > high)).any(1) | ~torch.isfinite(numbers).all(1)
        chosen: list[int] = []
        for place, (is_flat, is_odd) in enumerate(zip(flat.tolist(), odd.tolist(), strict=True)):
            name = hashlib.blake2b(pixels[place], digest_size=12).digest()
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
    steps = images.diff(dim=1).abs().mean((1, 2)) + images.diff(dim=2).abs().mean((1, 2))
    return torch.stack([flat.mean(1), flat.std(1), steps / 2], dim=1)


def _bounds(decoder: Decoder, label: str) -> tuple[Tensor, Tensor]:
    parts = []
    for images in decoder.batches(label, seed=REFERENCE_SEED):
        parts.append(measures(images))
        if len(parts) * BATCH >= REFERENCE_IMAGES:
            break
    numbers = torch.cat(parts)
    middle = numbers.median(0).values
    spread = 1.4826 * (numbers - middle).abs().median(0).values + _LEAST_SPREAD
    return middle - LIMIT * spread, middle + LIMIT * spread
