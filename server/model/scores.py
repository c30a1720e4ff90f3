"""How well the global model does on public phantoms: a curve by round that costs no patient anything."""

import math

import torch

from common.images.phantoms import public_phantoms
from common.model.study_model import model_with
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan

PHANTOMS = 64


def utility(plan: StudyPlan, weights: Weights) -> float:
    """Root mean square error of reconstructing public phantoms, image units in [-1, 1]; lower is better.

    The phantoms are the same for every study and round; no site's image enters. Where the encoder stays at the sites,
    the plan's initial one reads the phantoms, so that the curve says little in a study without moments.
    """
    model = model_with(plan, weights)
    images, labels = public_phantoms(PHANTOMS, size=plan.data.image_size, labels=plan.data.classes)
    with torch.no_grad():
        return math.sqrt(float((model.eval().reconstruct(images, labels) - images).square().mean()))
