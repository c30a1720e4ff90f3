"""How many patients may go through the model side by side: as many as this machine keeps apart to the last bit.

A library is free to round an image's numbers by how many images stand beside it and by its place among them. With
weights that training made this is a matter of 1e-7. A server that sends weights of its own making can have rounding be
all that is left, and then one patient, by being there, turns what all others add.

So all passes of a round have one shape (`client.views`), and before the first of them it is tried, with random
weights and images of just that shape, whether every patient's numbers stay the same, bit for bit, when the patient
before it goes and all others move up. In which order a sum is taken is decided by shapes and places, not by values: an
order that differed anywhere would round random numbers differently somewhere. Where it does differ, every patient goes
through the model alone. That is slower, and keeps the bound.
"""

import functools
import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from client.gradients import Layout, book_keep
from client.gradients_layers import Owners
from client.views import images_at_once, slots_of
from common.plan import StudyPlan
from common.vae import Vae, initial

log = logging.getLogger(__name__)

_Rows = Callable[[Vae, Tensor, Tensor, Tensor, Tensor], Tensor]
"""What a pass says of each patient, bit for bit, [patients, m]: of model, images, labels, noise and shares."""


def gradient_slots(plan: StudyPlan, *, expected: float, device: torch.device) -> int:
    """Patients of each pass of a gradient round, where a sample is expected to have so many."""
    slots = slots_of(plan.training, size=plan.data.image_size, expected=expected)
    each = plan.training.images_per_patient * plan.training.augmentations
    return _kept_apart(plan, gradients, slots, each, torch.get_num_threads(), device)


def error_slots(plan: StudyPlan, *, device: torch.device) -> int:
    """Patients of each pass that measures how well the model fits."""
    each = plan.training.images_per_patient
    slots = max(1, images_at_once(plan.data.image_size) // each)
    return _kept_apart(plan, errors, slots, each, torch.get_num_threads(), device)


def gradients(model: Vae, images: Tensor, labels: Tensor, noise: Tensor, shares: Tensor, *, slots: int) -> Tensor:
    """What a gradient round keeps of each patient."""
    owners = Owners(patients=slots, each=len(images) // slots)
    losses = partial(model.loss, images, labels, noise)
    return book_keep(Layout(model), losses, owners=owners, shares=shares).by_patient()


def errors(model: Vae, images: Tensor, labels: Tensor, _noise: Tensor, _shares: Tensor, *, slots: int) -> Tensor:
    """What a measured fit is made of, patient by patient."""
    with torch.no_grad():
        return model.reconstruct(images, labels).view(slots, -1)


@functools.lru_cache(maxsize=64)
def _kept_apart(
    plan: StudyPlan, work: Callable[..., Tensor], slots: int, each: int, _threads: int, device: torch.device
) -> int:
    """`slots` where a pass of that shape keeps patients apart here, and 1 where it does not."""
    if slots > 1 and not keeps_apart(plan, partial(work, slots=slots), slots=slots, each=each, device=device):
        log.warning("passes of %d patients do not keep them apart bit for bit here; each goes alone", slots)
        return 1
    return slots


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
    model, n = model.to(device).train(), slots * each
    images = torch.rand((n, 1, model.size, model.size), generator=generator) * 2 - 1
    labels = torch.randint(model.classes, (n,), generator=generator)
    noise = torch.randn((n, model.latent_size), generator=generator)
    there = torch.rand((slots, each), generator=generator) < 0.75
    there[:, 0] = True
    shares = (there / there.sum(1, keepdim=True)).flatten()
    before, after = (
        work(model, *(part.to(device) for part in parts))
        for parts in (
            (images, labels, noise, shares),
            [_without_first(p, each) for p in (images, labels, noise, shares)],
        )
    )
    return torch.equal(before[1:], after[:-1])


def _without_first(rows: Tensor, each: int) -> Tensor:
    """The pass as it is without its first patient: everybody moves up, and the last slot is padding."""
    return torch.cat([rows[each:], torch.zeros_like(rows[:each])])
