"""What of a patient enters a step: at most K images drawn at random, each with its shifted views, gathered into passes.

Augmentation multiplicity: every view belongs to its image's patient, whose loss is the mean over all of them, before
the clip. So more views change no patient's weight and cost no privacy (De et al., 2204.13650). Views are small shifts;
flips are left out, because a mirrored chest is another diagnosis.

Every pass of a round has the same shape: so many slots, one for a patient, with K places for images and their views.
What is not filled is padding of share 0. A library may round by how many images stand side by side. In passes of one
shape that is the same for every patient, with any others (`client.mechanism.isolation`).

What is drawn for one patient is independent of what is drawn for any other, and of the noise: so the law of the others'
gradients does not depend on whether this patient is there, as the mechanism's proof asks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from client.cohort.cache import Cache
from common.plan.study_plan import TrainingPlan

_PIXELS_AT_ONCE = 1 << 18
_IMAGES_AT_ONCE = 64
"""Most pixels and images of a pass: more is no faster on a CPU, and memory grows with them."""
_SPARE = 2.0
"""Standard deviations of a sample's size that its passes have room for: one that is larger takes a pass more."""
_REACH = 16
"""A view is shifted by at most one part in this many of the image's side."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Some patients' images that go through the model together: a slot for each patient, equal places in each.

    Attributes:
        images: [n, 1, size, size] float32 in [-1, 1], slot by slot; padding is 0.
        labels: [n] int64; padding is 0.
        noise: [n, draws] standard normal draws that the loss takes.
        shares: [n] float32, what each image weighs in its patient's mean, together 1; padding and empty slots are 0.
        slots: How many slots, filled or not; n is a multiple of it.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    shares: Tensor
    slots: int


def passes(
    cache: Cache, patients: list[int], *, training: TrainingPlan, draws: int, generator: torch.Generator, slots: int
) -> Iterator[Pass]:
    """Gather a sample of patients into passes of one shape, in order; the last one's empty slots are padding.

    Args:
        cache: The site's patients.
        patients: The sample, by index.
        training: How many images of a patient, and how many views of an image.
        draws: Standard normal draws that the loss of one image takes (`Generator.noise_size`).
        generator: Source of every draw; none of them need be secret.
        slots: Patients of a pass; see `slots_of`.
    """
    views, size = training.augmentations, cache.image_size
    for first in range(0, len(patients), slots):
        x, y, weights = cache.patients_images(patients[first : first + slots], training.images_per_patient, generator)
        shape = (slots, training.images_per_patient, views)
        x, y, weights = (_whole(value, slots).repeat_interleave(views, 1) for value in (x, y, weights))
        images = x.flatten(0, 1)
        noise = torch.randn((*shape, draws), generator=generator)
        if views > 1:
            reach = size // _REACH
            offsets = torch.randint(-reach, reach + 1, (*shape, 2), generator=generator)
            offsets[:, :, 0] = 0
            images = shifted(images, offsets.view(-1, 2))
        yield Pass(
            images=images,
            labels=y.flatten(),
            noise=noise.view(-1, draws),
            shares=(weights / weights.sum(1, keepdim=True).clamp(min=1.0)).flatten(),
            slots=slots,
        )


def _whole(rows: Tensor, slots: int) -> Tensor:
    """Rows [p, ...] with zeros below, [slots, ...]."""
    return torch.cat([rows, rows.new_zeros(slots - len(rows), *rows.shape[1:])])


def slots_of(training: TrainingPlan, *, size: int, expected: float) -> int:
    """Patients of a pass: a public number, for any draw.

    Args:
        training: How many images of a patient, and how many views of an image.
        size: Pixels on an image's side.
        expected: Patients of a sample, as the plan's public cohort size has it.
    """
    most = most_slots(size, training.images_per_patient * training.augmentations)
    room = max(1.0, expected + _SPARE * math.sqrt(expected))
    return math.ceil(room / math.ceil(room / most))


def most_slots(size: int, each: int) -> int:
    """Most patients of a pass, `each` with so many images of `size` by `size` pixels."""
    return max(1, images_at_once(size) // each)


def images_at_once(size: int) -> int:
    """Most images of `size` by `size` pixels that one pass takes, unless a single patient has more."""
    return max(1, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // size**2))


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Move images [n, 1, size, size] down and right by `offsets` [n, 2] pixels; what is uncovered repeats the edge."""
    size = images.shape[-1]
    places = (torch.arange(size) - offsets.unsqueeze(2)).clamp(0, size - 1)  # [n, 2, size]
    rows = images.gather(2, places[:, 0, None, :, None].expand(images.shape))
    return rows.gather(3, places[:, 1, None, None, :].expand(images.shape))
