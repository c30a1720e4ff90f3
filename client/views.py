"""What of a patient enters a step: at most K images drawn at random, each with its shifted views, gathered into passes.

Augmentation multiplicity: every view belongs to its image's patient, whose loss is the mean over all of them, before
the clip. So more views change no patient's weight and cost no privacy (De et al., 2204.13650). Views are small shifts;
flips are left out, because a mirrored chest is another diagnosis.

What is drawn for one patient is independent of what is drawn for any other, and of the noise: so the law of the others'
gradients does not depend on whether this patient is there, as the mechanism's proof asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from client.cache import Cache
from common.plan import TrainingPlan

_PIXELS_AT_ONCE = 1 << 18
_IMAGES_AT_ONCE = 64
"""Most pixels and images of a pass: more is no faster on a CPU, and memory grows with them."""
_REACH = 16
"""A view is shifted by at most one part in this many of the image's side."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The images of some patients, patient by patient, that go through the model together.

    Attributes:
        images: [n, 1, size, size] float32 in [-1, 1].
        labels: [n] int64.
        noise: [n, latent] standard normal draws of the reparameterisation.
        counts: Images of each patient, at least 1; n in all.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    counts: tuple[int, ...]


def passes(
    cache: Cache, patients: list[int], *, training: TrainingPlan, latent: int, generator: torch.Generator
) -> Iterator[Pass]:
    """Gather a sample of patients into passes, in order; no patient is split.

    Args:
        cache: The site's patients.
        patients: The sample, by index.
        training: How many images of a patient, and how many views of an image.
        latent: Latent size of the model.
        generator: Source of every draw; none of them need be secret.
    """
    most, views = images_at_once(cache.image_size), training.augmentations
    for first in range(0, len(patients), most):
        chosen = patients[first : first + most]
        x, y, weights = cache.patients_images(chosen, training.images_per_patient, generator)
        present = weights > 0
        shape = (most, training.images_per_patient, views)  # always whole: a shorter draw is not a longer one's start
        noise = torch.randn((*shape, latent), generator=generator)[: len(chosen)][present].flatten(0, 1)
        images, labels = x[present], y[present]
        if views > 1:
            reach = cache.image_size // _REACH
            offsets = torch.randint(-reach, reach + 1, (*shape, 2), generator=generator)[: len(chosen)][present]
            offsets[:, 0] = 0
            images = shifted(images.repeat_interleave(views, 0), offsets.flatten(0, 1))
            labels = labels.repeat_interleave(views)
        begin = 0
        for group in _groups((present.sum(1) * views).tolist(), most):
            end = begin + sum(group)
            yield Pass(images=images[begin:end], labels=labels[begin:end], noise=noise[begin:end], counts=tuple(group))
            begin = end


def images_at_once(size: int) -> int:
    """Most images of `size` by `size` pixels that one pass takes, unless a single patient has more."""
    return max(1, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // size**2))


def _groups(counts: list[int], most: int) -> Iterator[list[int]]:
    group: list[int] = []
    for count in counts:
        if group and sum(group) + count > most:
            yield group
            group = []
        group.append(count)
    yield group


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Move images [n, 1, size, size] down and right by `offsets` [n, 2] pixels; what is uncovered repeats the edge."""
    size = images.shape[-1]
    places = (torch.arange(size) - offsets.unsqueeze(2)).clamp(0, size - 1)  # [n, 2, size]
    rows = images.gather(2, places[:, 0, None, :, None].expand(images.shape))
    return rows.gather(3, places[:, 1, None, None, :].expand(images.shape))
