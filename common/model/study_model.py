"""The model of a study: which generator its plan asks for, and what each of its arrays is for.

Everything outside this room that needs an array's name gets it from here or from `common.model.array_table`, which has
the shapes. A generator says by class attributes what its arrays are for (`common.model.generator`); a new one is added
to `model_of` and to that table.

    trained    what gradients train: all but the closed form
    encoder    what stays at the sites where the plan federates the decoder alone
    released   what drawing needs
"""

import functools

import torch

from common.model.array_table import trained_shapes
from common.model.generator import Generator
from common.model.refined import RefinedVae
from common.model.seeded import alone, seeded
from common.model.vae import Vae
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan


def model_of(plan: StudyPlan) -> Generator:
    """Build the plan's model, with weights drawn from PyTorch's global generator."""
    with alone():
        return RefinedVae(plan) if plan.model.denoiser else Vae(plan)


def initial(plan: StudyPlan) -> Generator:
    """Build the model of round 0: random weights that depend on the plan alone and are no secret."""
    with seeded(int(plan.digest[:15], 16)):
        return model_of(plan)


def model_with(plan: StudyPlan, weights: Weights) -> Generator:
    """The plan's model with these weights; the plan's own initial encoder reads where the sites share none."""
    model = initial(plan)
    model.load_arrays({**model.arrays(), **weights})
    return model


def trained(plan: StudyPlan, weights: Weights) -> Weights:
    """Those of the arrays that a gradient round trains."""
    names = trained_shapes(plan)
    return {name: array for name, array in weights.items() if name in names}


def encoder_arrays(plan: StudyPlan, weights: Weights) -> Weights:
    """Those of the arrays that belong to the encoder."""
    prefixes = _kind(plan).encoder
    return {name: array for name, array in weights.items() if name.startswith(prefixes)}


def released(plan: StudyPlan, weights: Weights) -> Weights:
    """Those of the arrays that drawing needs, and so a release holds."""
    prefixes = _kind(plan).decoder
    return {name: array for name, array in weights.items() if name.startswith(prefixes)}


@functools.lru_cache(maxsize=64)
def _on_meta(plan: StudyPlan) -> Generator:
    """The plan's model without memory. To build one is most of a tiny round's time, and a round asks many times."""
    with torch.device("meta"):
        return model_of(plan)


def _kind(plan: StudyPlan) -> type[Generator]:
    return type(_on_meta(plan))
