"""How many patients may go through the model side by side: as many as this machine keeps apart to the last bit.

A library is free to round an image's numbers by the number of images in its batch and by its place there. With
weights that training made this is a matter of 1e-7. A server that sends weights of its own making can have rounding be
all that is left, and then one patient, by being there, turns what all others add.

So all passes of a round have one shape (`client.mechanism.patient_views`), and before the first of them it is tried,
with random weights and images of just that shape, whether every patient's numbers stay the same, bit for bit, when the
patient before it goes, all others move up, and one whose numbers are not finite comes in behind them. Compared is all
that a pass keeps, and the scores by which a component is chosen, as a choice shows rounding only where scores tie.
(What is made of it, norms and clipped sums, is float64, whose rounding `client.mechanism.gradients` bounds.) Where a
number differs, fewer patients go side by side, in the end each alone. That is slower, and keeps the bound.

In which order a library sums is decided by shapes and places. Kernels that look at values would be another matter, and
none is known among those that are used here. A trial is evidence and no proof.
"""

import functools
import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from client.mechanism.gradients import Layout, book_keep_pass
from client.mechanism.patient_views import most_slots, slots_of
from common.model.generator import Generator
from common.model.study_model import initial
from common.plan.study_plan import StudyPlan

log = logging.getLogger(__name__)

_Rows = Callable[[Generator, Tensor, Tensor, Tensor, Tensor], list[Tensor]]
"""What a pass says of each patient, each part [patients, m]: of model, images, labels, noise and shares."""
_DRAWS = 2
"""Trials of a shape, each with numbers of its own."""


def gradient_slots(plan: StudyPlan, *, expected: float, device: torch.device) -> int:
    """Patients of each pass of a gradient round, where a sample is expected to have so many.

    Args:
        plan: The approved plan.
        expected: Expected number of patients in a sample.
        device: Device that the round runs on.
    """
    slots = slots_of(plan.training, size=plan.data.image_size, expected=expected)
    each = plan.training.images_per_patient * plan.training.augmentations
    return _kept_apart(plan, gradients, slots, each, torch.get_num_threads(), device)


def error_slots(plan: StudyPlan, *, device: torch.device) -> int:
    """Patients of each pass that measures how well the model fits."""
    each = plan.training.images_per_patient
    slots = most_slots(plan.data.image_size, each)
    return _kept_apart(plan, errors, slots, each, torch.get_num_threads(), device)


def gradients(
    model: Generator, images: Tensor, labels: Tensor, noise: Tensor, shares: Tensor, *, slots: int
) -> list[Tensor]:
    """What a gradient round keeps of each patient.

    Args:
        model: The model.
        images: Images of a pass, [n, 1, size, size].
        labels: Their labels, [n].
        noise: The model's own draws for each image.
        shares: Share of each image in its patient.
        slots: Patients of a pass.
    """
    found = book_keep_pass(Layout(model), model.loss, images, labels, noise, shares, slots=slots)
    return [*found.by_patient(), _scores(model, images, slots)]


def errors(
    model: Generator, images: Tensor, labels: Tensor, _noise: Tensor, _shares: Tensor, *, slots: int
) -> list[Tensor]:
    """What a measured fit is made of, patient by patient.

    Args:
        model: The model.
        images: Images of a pass, [n, 1, size, size].
        labels: Their labels, [n].
        _noise: Not used.
        _shares: Not used.
        slots: Patients of a pass.
    """
    with torch.no_grad():
        return [model.reconstruct(images, labels).view(slots, -1), _scores(model, images, slots)]


def _scores(model: Generator, images: Tensor, slots: int) -> Tensor:
    """What the model chooses by for each patient's images, [slots, m]; see `Generator.choices`."""
    scores = model.choices(images)
    return scores.view(slots, scores.numel() // slots)


@functools.lru_cache(maxsize=64)
def _kept_apart(
    plan: StudyPlan, work: Callable[..., list[Tensor]], slots: int, each: int, _threads: int, device: torch.device
) -> int:
    return most_apart(plan, work, slots=slots, each=each, device=device)


def most_apart(
    plan: StudyPlan, work: Callable[..., list[Tensor]], *, slots: int, each: int, device: torch.device
) -> int:
    """`slots`, or the first of the numbers a quarter smaller each that a pass keeps apart here; 1 always does.

    Args:
        plan: The approved plan.
        work: What a pass computes.
        slots: Patients of a pass that are wanted.
        each: Images of each patient.
        device: Device that the round runs on.
    """
    tried = slots
    while tried > 1 and not keeps_apart(plan, partial(work, slots=tried), slots=tried, each=each, device=device):
        tried = tried * 3 // 4
    if tried < slots:
        log.warning("passes of %d patients do not keep them apart bit for bit here; %d go together", slots, tried)
    return tried


def keeps_apart(plan: StudyPlan, work: _Rows, *, slots: int, each: int, device: torch.device) -> bool:
    """Try whether removing a patient leaves every other's numbers as they were, bit for bit.

    Args:
        plan: Says which model.
        work: What is computed.
        slots: Patients of a pass.
        each: Images of a patient.
        device: Where to compute.
    """
    generator = torch.Generator().manual_seed(0)
    model = initial(plan)
    for parameter in model.parameters():  # an untrained model has layers of zeros, which round nothing
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    model = model.to(device).train()
    return all(_unmoved(model, work, slots=slots, each=each, generator=generator) for _ in range(_DRAWS))


def _unmoved(model: Generator, work: _Rows, *, slots: int, each: int, generator: torch.Generator) -> bool:
    n, device = slots * each, next(model.parameters()).device
    images = torch.rand((n, 1, model.size, model.size), generator=generator) * 2 - 1
    labels = torch.randint(model.classes, (n,), generator=generator)
    noise = torch.randn((n, model.noise_size), generator=generator)
    there = torch.rand((slots, each), generator=generator) < 0.75
    there[:, 0] = True
    shares = (there / there.sum(1, keepdim=True)).flatten()
    poison = torch.tensor([float("nan"), float("inf"), 3e38]).repeat(-(-each * model.size**2 // 3))
    spoilt = poison[: each * model.size**2].view(each, 1, model.size, model.size)
    before = work(model, *(part.to(device) for part in (images, labels, noise, shares)))
    moved = (torch.cat([images[each:], spoilt]), *(part.roll(-each, 0) for part in (labels, noise, shares)))
    after = work(model, *(part.to(device) for part in moved))
    return all(torch.equal(one[1:], other[:-1]) for one, other in zip(before, after, strict=True))
