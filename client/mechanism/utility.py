"""The utility release at a hospital: how well the round's global model redraws its patients, noised.

Formal guarantee
    Neighbouring relation: add or remove all images of one patient. The release is the sum over patients of
    (e, 1), with e the root mean square error per pixel of redrawing at most K of the patient's images, clipped to
    [0, WORST]. An error that is not a number counts as WORST. So one patient moves it by at most sqrt(WORST^2 + 1) in
    L2 norm, for any images and weights. Gaussian noise of sigma times that is added to both values in
    float64, and the release is an event of its own in the ledger. The model is the one the server sent: nothing that
    was learnt here in this round enters.
"""

import dataclasses

import numpy as np
import torch

from client.cohort.cache import Cache
from client.mechanism.half import Work, sum_half
from client.mechanism.isolation import error_slots
from client.mechanism.patient_views import passes
from client.mechanism.randomness import SecureRandom
from common.accountant.accounting import GaussianEvent
from common.mechanism.utility import NAME, SENSITIVITY, WORST
from common.model.generator import Generator
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan


def release(
    model: Generator, cache: Cache, *, plan: StudyPlan, event: GaussianEvent, random: SecureRandom, device: torch.device
) -> Weights:
    """Measure and noise; see the module's guarantee.

    Args:
        model: The round's global model, as the server sent it.
        cache: The site's patients.
        plan: The site's own approved copy.
        event: What the ledger has booked for this release.
        random: Source of the noise, and of the draw of K images.
        device: Where to compute.
    """
    total = patient_sum(model, cache, plan=plan, generator=random.torch_generator(), device=device)
    return {NAME: sum_half(plan).noised(total, deviation=event.sigma * SENSITIVITY, random=random)}


def patient_sum(
    model: Generator, cache: Cache, *, plan: StudyPlan, generator: torch.Generator, device: torch.device
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The sum before noise, [2] float64. Never leaves the site."""
    model = model.to(device).eval()
    training = dataclasses.replace(plan.training, augmentations=1)
    slots = error_slots(plan, device=device)
    total = 0.0
    for part in passes(cache, list(range(cache.patients)), training=training, draws=model.noise_size,
                       generator=generator, slots=slots):  # fmt: skip
        x, y = part.images.to(device), part.labels.to(device)
        with torch.no_grad():
            squared = (model.reconstruct(x, y) - x).double().square().flatten(1).mean(1).cpu()
        held = part.shares > 0
        errors = torch.where(held, squared * part.shares, 0.0).view(slots, -1).sum(1).sqrt()
        errors = errors.nan_to_num(nan=WORST, posinf=WORST).clamp(0.0, WORST)
        total += float(errors[held.view(slots, -1).any(1)].sum())
    return np.array([total, float(cache.patients)])


def _ride(work: Work, event: GaussianEvent) -> Weights:
    return release(work.model(), work.cohort, plan=work.plan, event=event, random=work.random, device=work.device)


HALVES = {NAME: _ride}
