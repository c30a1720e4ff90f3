"""One patient never moves what the others add, not even by rounding, whatever weights a server sends."""

import dataclasses
import logging
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from client.cohort.cache import Cache
from client.mechanism import isolation
from client.mechanism.utility import patient_sum
from common.mechanism.utility import SENSITIVITY
from common.model.linear_start import LinearStart
from common.model.study_model import initial
from common.model.vae import Vae
from common.plan.study_plan import StudyPlan
from tests.client.cohorts import small_cohort, small_plan
from tests.client.test_trainer import clipped_sum, trainer

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CLIP = 0.5


def magnify(model: Vae) -> None:
    """Weights whose latents are rounding and nothing else: sums of large terms that would cancel without it."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        scale = 3.0 if name.startswith("decode.") else 0.1
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    basis = torch.randn(model.start.basis.shape, generator=generator)
    model.start.basis.data.copy_(basis - basis.mean(0))
    model.start.mean.data.fill_(1e7)
    model.start.gain.data.copy_(torch.eye(model.latent_size))
    model.decodeL.weight.data.mul_(100.0)


def sums(cache: Cache, samples: list[list[int]], *, slots: int, plan: StudyPlan | None = None) -> list[Tensor]:
    """The clipped sum of each sample in units of C, in passes of so many slots, under such weights."""
    found = []
    for sample in samples:
        of = trainer(cache, plan or small_plan(clip_norm=CLIP, images_per_patient=1), seed=4)
        magnify(of.model)
        of.slots = slots
        found.append(clipped_sum(of, sample) / CLIP)
    return found


def test_weights_made_to_magnify_rounding_move_the_sum_by_one_clip_norm_at_most(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=6, images=1)
    slots = trainer(cache, small_plan(images_per_patient=1)).slots
    found = sums(cache, [list(range(count)) for count in range(1, 7)], slots=slots)
    assert max(float((more - fewer).norm()) for fewer, more in pairwise(found)) <= 1 + 1e-6


def test_such_weights_of_a_start_by_class_move_the_sum_by_one_clip_norm_at_most(tmp_path: Path) -> None:
    cache, plan = small_cohort(tmp_path, patients=6, images=1), by_class(clip_norm=CLIP, images_per_patient=1)
    found = sums(cache, [list(range(count)) for count in range(1, 7)], slots=trainer(cache, plan).slots, plan=plan)
    moved = [float((more - fewer).norm()) for fewer, more in pairwise(found)]
    assert 0 < max(moved) <= 1 + 1e-6


def by_class(**changes: Any) -> StudyPlan:
    return small_plan(phases=("moments", "sgd"), covariance="class", **changes)


def test_the_same_weights_turn_a_gradient_by_how_many_patients_stand_in_a_pass(tmp_path: Path) -> None:
    """What the fixed shape is for: in passes as large as their samples, one patient would turn another's gradient."""
    cache = small_cohort(tmp_path, patients=2, images=1)
    alone, beside = (sums(cache, [[0]], slots=slots)[0] for slots in (1, 2))
    assert float(alone.norm()) > 0.99
    if float((alone - beside).norm()) < 1e-6:
        pytest.skip("the kernels of this machine round nearly alike in passes of both sizes")
    assert float((alone - beside).norm()) > 0.01  # some 1e-7 with weights that training made


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hidden", [(), (64, 32), "by class"])
@pytest.mark.parametrize(("size", "images", "views"), [(28, 1, 1), (28, 3, 2), (64, 2, 1), (128, 9, 1)])
def test_passes_of_one_shape_keep_patients_apart_to_the_last_bit(
    threads: int, size: int, images: int, views: int, hidden: tuple[int, ...] | str
) -> None:
    """Tried with numbers of the test's own; how many go together is the machine's to say, from 1 on."""
    torch.set_num_threads(threads)
    wanted: dict[str, Any] = {"image_size": size, "images_per_patient": images, "augmentations": views}
    if isinstance(hidden, str):
        plan = by_class(**wanted)
    else:
        plan = small_plan(channels=() if hidden else (8, 16), hidden=hidden, **wanted)
    generator = torch.Generator().manual_seed(123)
    for work, slots, each in (
        (isolation.gradients, isolation.gradient_slots(plan, expected=1e6, device=CPU), images * views),
        (isolation.errors, isolation.error_slots(plan, device=CPU), images),
    ):
        model = initial(plan)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator))
        if slots > 1:
            assert isolation._unmoved(model, partial(work, slots=slots), slots=slots, each=each, generator=generator)


def test_where_a_library_rounds_by_place_every_patient_goes_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """An activation that rounds otherwise in even places, as a kernel for edges might."""
    plan = small_plan(images_per_patient=1, labels=("a", "b", "c"))  # no other test has asked about this plan
    plain = functional.gelu

    def uneven(x: Tensor, **_: str) -> Tensor:
        even = (torch.arange(len(x)) % 2 == 0).view(-1, *[1] * (x.dim() - 1))
        return torch.where(even, plain(x.double()).float(), plain(x))

    monkeypatch.setattr(functional, "gelu", uneven)
    isolation._kept_apart.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert slots_alone(plan) == 1
            assert isolation.error_slots(plan, device=CPU) == 1
        assert "1 go together" in caplog.text
        of = trainer(small_cohort(tmp_path, plan=plan), plan)
        assert of.slots == 1
        assert clipped_sum(of, [0, 1, 2]).any()
    finally:
        isolation._kept_apart.cache_clear()


def slots_alone(plan: StudyPlan) -> int:
    return isolation.gradient_slots(plan, expected=50.0, device=CPU)


def test_a_pass_in_which_patients_meet_is_noticed() -> None:
    def mean(_model: Vae, images: Tensor, *_: Tensor) -> list[Tensor]:
        return [images.flatten(1) - images.flatten(1).mean(0)]

    def apart_but_for_zeros(_model: Vae, images: Tensor, *_: Tensor) -> list[Tensor]:
        rows = images.flatten(1)
        return [rows + (0.0 * rows).sum(0)]  # nothing to finite numbers, everything beside one that is not

    for work in (mean, apart_but_for_zeros):
        assert not isolation.keeps_apart(small_plan(), work, slots=8, each=1, device=CPU)


def test_scores_that_round_by_place_are_noticed_though_they_only_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """What chooses a component leaves a pass as a choice alone, and random scores never tie."""
    small = small_plan(image_size=28, channels=(8, 16), images_per_patient=1)  # as real plans: few shapes mix there
    plan = dataclasses.replace(
        small,
        model=dataclasses.replace(small.model, latent=32, base=16, components=3),
        privacy=dataclasses.replace(small.privacy, phases=("moments", "sgd")),
    )
    plain = LinearStart.scores

    def uneven(self: LinearStart, pixels: Tensor, observation_std: float) -> Tensor:
        found = plain(self, pixels, observation_std)
        even = torch.arange(len(found))[:, None] % 2 == 0
        return torch.where(even, found.nextafter(torch.tensor(torch.inf)), found)

    for work in (isolation.gradients, isolation.errors):
        slots = isolation.most_apart(plan, work, slots=8, each=1, device=CPU)  # 8 where this machine's kernels allow it
        if slots == 1:
            pytest.skip("no two patients of this shape can share a pass on this machine")
        with monkeypatch.context() as patched:
            patched.setattr(LinearStart, "scores", uneven)
            assert not isolation.keeps_apart(plan, partial(work, slots=slots), slots=slots, each=1, device=CPU)


def test_the_measured_fit_is_moved_by_its_sensitivity_at_most_under_such_weights(tmp_path: Path) -> None:
    plan = small_plan(images_per_patient=1)
    sums = []
    for name, patients in (("with", 6), ("without", 5)):
        cache = small_cohort(tmp_path / name, patients=patients, images=1)
        model = trainer(cache, plan).model
        magnify(model)
        sums.append(patient_sum(model, cache, plan=plan, generator=torch.Generator().manual_seed(0), device=CPU))
    assert sums[0][1] - sums[1][1] == 1
    assert float(((sums[0] - sums[1]) ** 2).sum() ** 0.5) <= SENSITIVITY
