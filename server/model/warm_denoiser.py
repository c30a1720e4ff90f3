"""The warm-up of a denoiser that reads noised closed forms: it is trained above rehearsed studies, before any patient.

The closed form of a real study is one more that it reads (docs/decisions/0012). Classes are not told to it: what a
class looks like is said by the class's closed form, and the layers that hear of a class stay silent for gradients of
patients to use.
"""

import logging
import math

import torch
from torch import Tensor

from common.model.closed_form import closed_form
from common.model.denoiser import LEAST_LEVEL, MOST_LEVEL
from common.model.generator import Generator
from common.model.refined import RefinedVae
from common.plan.study_plan import StudyPlan
from server.model.prior_guard import Guarded, guarded
from server.model.rehearsal import Rehearsal, Stage

log = logging.getLogger(__name__)

GUARDING = 4
"""Rehearsals that nothing was trained on, which tell the guard what is usual."""
_STUDIES_AT_ONCE = 4
_IMAGES_EACH = 16
_RISING = 20
"""Steps over which the step size rises to the plan's."""
_FALLING = 0.6
"""Part of the steps after which it falls to a fiftieth."""
_MEMORY = 0.99
"""Of the moving average of the weights, which is what is kept."""


def read(plan: StudyPlan, model: Generator, images: Tensor, labels: Tensor) -> Guarded:
    """Train the model's denoiser above rehearsed studies, and silence it where the hospitals' moments speak against it.

    Args:
        plan: The study plan; `warm.studies` is above 0.
        model: The model, its start the hospitals' closed form; its denoiser is changed.
        images: [n, 1, size, size] in [-1, 1], public.
        labels: [n], kinds of image.
    """
    assert isinstance(model, RefinedVae)  # the plan says so: `warm.studies` needs `model.denoiser`
    stage = Stage(plan, images, labels, public=closed_form(model.arrays()))
    studies = [stage.rehearse(number) for number in range(plan.warm.studies)]
    log.info("%d studies were rehearsed on %d public images, no budget", len(studies), len(images))
    train(plan, model, studies)
    held_out = [stage.rehearse(number).start for number in range(plan.warm.studies, plan.warm.studies + GUARDING)]
    found = guarded(model, held_out, seed=int(plan.digest[:15], 16))
    if not found.kept:
        model.silence()
    log.info("pictures are %.3f from the moments, %.3f is allowed: the prior is kept: %s", found.distance,
             found.allowed, found.kept)  # fmt: skip
    return found


def train(plan: StudyPlan, model: RefinedVae, studies: list[Rehearsal]) -> None:
    """Train the model's denoiser above the closed forms of rehearsed studies; the start is left as it is.

    Args:
        plan: The study plan.
        model: The model with its denoiser.
        studies: The rehearsed studies.
    """
    generator = torch.Generator().manual_seed(int(plan.digest[:15], 16))
    mine = list(model.refiner.parameters())
    optimizer = torch.optim.Adam(mine, lr=plan.warm.learning_rate, betas=(0.9, 0.99))
    kept = [value.detach().clone() for value in mine]
    for step in range(plan.warm.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.warm.learning_rate * _pace(step / plan.warm.steps, step)
        optimizer.zero_grad(set_to_none=True)
        _loss(model, studies, generator).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        memory = min(_MEMORY, (step + 1) / (step + 10))
        for old, new in zip(kept, mine, strict=True):
            old.lerp_(new.detach(), 1.0 - memory)
    with torch.no_grad():
        for value, average in zip(mine, kept, strict=True):
            value.copy_(average)


def _pace(progress: float, step: int) -> float:
    """Share of the plan's step size at a step."""
    rising = min(1.0, (step + 1) / _RISING)
    return rising * (1.0 if progress < _FALLING else max(0.02, (1.0 - progress) / (1.0 - _FALLING)))


def _loss(model: RefinedVae, studies: list[Rehearsal], generator: torch.Generator) -> Tensor:
    """Mean square error of the noise that is left on a batch, in units of the error that each closed form expects."""
    parts = [_part(studies[int(number)], model, generator)
             for number in torch.randint(len(studies), (_STUDIES_AT_ONCE,), generator=generator)]  # fmt: skip
    clean, noisy, expected, error, level = (torch.cat(column) for column in zip(*parts, strict=True))
    told = torch.zeros((len(clean), model.classes))
    found = model.refiner(noisy, expected, told, level)
    missed: Tensor = (found - (clean - expected) / error[:, None, None]).square().mean()
    return missed


def _part(study: Rehearsal, model: RefinedVae, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Images of one study, the same with noise, what its closed form expects, that one's error, and the noise."""
    labels = torch.randint(len(study.images), (_IMAGES_EACH,), generator=generator)
    clean = torch.stack([study.images[label][int(torch.randint(len(study.images[label]), (), generator=generator))]
                         for label in labels.tolist()])  # fmt: skip
    places = torch.randperm(_IMAGES_EACH, generator=generator) + torch.rand(_IMAGES_EACH, generator=generator)
    level = LEAST_LEVEL * torch.exp(places / _IMAGES_EACH * math.log(MOST_LEVEL / LEAST_LEVEL))
    noisy = clean + level[:, None, None] * torch.randn(clean.shape, generator=generator)
    expected, error = study.start.posterior(noisy, model.one_hot(labels), level)
    return clean, noisy, expected, error, level
