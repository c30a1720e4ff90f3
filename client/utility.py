"""The utility release at a hospital: how well the round's global model redraws its patients, noised.

Formal guarantee
    Neighbouring relation: add or remove all images of one patient. The release is the sum over patients of
    (e, 1), with e the root mean square error per pixel of redrawing at most K of the patient's images, clipped to
    [0, WORST]; an error that is not a number counts as WORST. So one patient moves it by at most sqrt(WORST^2 + 1) in
    L2 norm, whatever the images and the weights are. Gaussian noise of sigma times that is added to both values in
    float64, and the release is an event of its own in the ledger. The model is the one the server sent: nothing that
    was learnt here in this round enters.
"""

import numpy as np
import torch

from client.cache import Cache
from client.randomness import SecureRandom
from common.plan import StudyPlan
from common.privacy import GaussianEvent
from common.utility import NAME, SENSITIVITY, WORST
from common.vae import Vae
from common.weights import Weights

_PATIENTS_AT_ONCE = 64


def release(
    model: Vae, cache: Cache, *, plan: StudyPlan, event: GaussianEvent, random: SecureRandom, device: torch.device
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
    noised = total + random.normal((2,), std=event.sigma * SENSITIVITY)
    return {NAME: noised.astype(np.float32)}


def patient_sum(
    model: Vae, cache: Cache, *, plan: StudyPlan, generator: torch.Generator, device: torch.device
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The sum before noise, [2] float64. Never leaves the site."""
    model = model.to(device).eval()
    total = 0.0
    for first in range(0, cache.patients, _PATIENTS_AT_ONCE):
        chosen = list(range(first, min(first + _PATIENTS_AT_ONCE, cache.patients)))
        images, labels, weights = cache.patients_images(chosen, plan.training.images_per_patient, generator)
        present = weights > 0
        with torch.no_grad():
            x, y = images[present].to(device), labels[present].to(device)
            squared = (model.reconstruct(x, y) - x).double().square().flatten(1).mean(1).cpu()
        by_patient = torch.zeros(weights.shape, dtype=torch.float64)
        by_patient[present] = squared
        errors = (by_patient.sum(1) / present.sum(1)).sqrt()
        total += float(errors.nan_to_num(nan=WORST, posinf=WORST).clamp(0.0, WORST).sum())
    return np.array([total, float(cache.patients)])
