"""A denoiser is trained patient by patient: its gradients are each patient's own, clipped, whatever a server sends."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.mechanism import isolation
from common.model.refined import RefinedVae
from common.model.study_model import initial
from common.plan.study_plan import ModelPlan, StudyPlan
from tests.client.cohorts import small_cohort, small_plan
from tests.client.test_gradients import COUNTS, agree, images_of
from tests.client.test_trainer import clipped_sum, trainer

pytestmark = pytest.mark.usefixtures("one_thread")

CLIP = 0.05


def denoiser_plan(*, image_size: int = 28, **training: object) -> StudyPlan:
    plan = small_plan(image_size=image_size, phases=("moments", "sgd"), covariance="class", clip_norm=CLIP, **training)
    model = ModelPlan(latent=4, base=6, covariance="class", channels=(), denoiser=(4, 8))
    return dataclasses.replace(plan, model=model)


def spoken(model: RefinedVae, *, scale: float = 0.1) -> RefinedVae:
    """Give every weight a value: a fresh denoiser's last layer is zero, and so would most gradients be."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("size", [28, 64])
def test_every_patient_gets_its_own_gradient_of_the_denoiser(counts: tuple[int, int], size: int) -> None:
    model = initial(denoiser_plan(image_size=size))
    assert isinstance(model, RefinedVae)
    spoken(model)
    n, generator = images_of(counts), torch.Generator().manual_seed(2)
    x = torch.rand((n, 1, size, size), generator=generator) * 2 - 1
    y, noise = torch.arange(n) % 2, torch.randn((n, model.noise_size), generator=generator)
    agree(model, lambda s: model.loss(x[s], y[s], noise[s]), counts)


def sums(tmp_path: Path, plan: StudyPlan, samples: list[list[int]], *, scale: float) -> list[Tensor]:
    """The clipped sum of each sample, under weights of this scale, in units of C."""
    cache, found = small_cohort(tmp_path, patients=6, images=[1, 2, 2, 1, 2, 2]), []
    for sample in samples:
        of = trainer(cache, plan, seed=4)
        spoken(of.model, scale=scale)  # type: ignore[arg-type]
        found.append(clipped_sum(of, sample) / CLIP)
    return found


@pytest.mark.parametrize("scale", [0.1, 1e3, 1e18])
def test_one_patient_moves_the_sum_by_one_clip_norm_at_most_whatever_weights_were_sent(
    tmp_path: Path, scale: float
) -> None:
    """Several images and several noise draws of a patient included; weights that overflow count for nothing."""
    plan = denoiser_plan(images_per_patient=2, augmentations=3)
    found = sums(tmp_path, plan, [list(range(count)) for count in range(7)], scale=scale)
    assert all(bool(torch.isfinite(one).all()) for one in found)
    assert max(float((more - fewer).norm()) for fewer, more in pairwise(found)) <= 1 + 1e-6
    if scale == 0.1:
        assert float(found[1].norm()) == pytest.approx(1.0, rel=1e-4)  # the clip is at work


def test_passes_keep_patients_apart_to_the_last_bit() -> None:
    cpu, plan = torch.device("cpu"), denoiser_plan(images_per_patient=2, augmentations=2)
    for work, slots, each in (
        (isolation.gradients, isolation.gradient_slots(plan, expected=1e6, device=cpu), 4),
        (isolation.errors, isolation.error_slots(plan, device=cpu), 2),
    ):
        assert slots == 1 or isolation.keeps_apart(
            plan, lambda *parts, w=work, s=slots: w(*parts, slots=s), slots=slots, each=each, device=cpu
        )
