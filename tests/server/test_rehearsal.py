"""Rehearsed studies have the moments that hospitals would release, and a denoiser learns to read them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.mechanism.patient_sum import patient_sum
from common.errors import PlanError
from common.mechanism.registry import sensitivity
from common.model.linear_start import ClassStart
from common.model.refined import RefinedVae
from common.model.study_model import initial
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from server.mechanism.patient_sum import absorb
from server.model import prior_guard, rehearsal, warm, warm_data, warm_denoiser
from server.model.rehearsal import Rehearsal, Stage
from server.protocol import rounds
from server.study import release
from server.study.study import Study
from tests.client.moment_cohorts import Patient, cache_of
from tests.server.sites import ScriptedExchange

TEXT = """
name = "rehearsed"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 400
[model]
covariance = "class"
latent = 6
base = 8
channels = []
denoiser = [8, 8]
[warm]
images = 300
studies = 8
steps = {steps}
learning_rate = 0.004
named = ["phantoms of this project, no licence needed"]
[training]
rounds = 1
local_steps = 1
[privacy]
phases = {phases}
epsilon = {epsilon}
[aggregation]
min_sites = 2
deadline_s = 5
[release]
images_per_label = 0
"""


def plan_with(*, phases: str = '["warm", "moments"]', steps: int = 2, epsilon: float = 8.0) -> StudyPlan:
    return StudyPlan.parse(TEXT.format(phases=phases, steps=steps, epsilon=epsilon))


def images_of_nobody(plan: StudyPlan) -> tuple[Tensor, Tensor]:
    return warm_data.load(plan, Path())


def stage_of(plan: StudyPlan) -> Stage:
    return Stage(plan, *images_of_nobody(plan))


def apart(one: ClassStart, two: ClassStart) -> float:
    return float((one.mean - two.mean).norm() + (one.texture - two.texture).norm())


def told(study: Rehearsal, model: RefinedVae) -> RefinedVae:
    model.start.load_state_dict(study.start.state_dict())
    return model


def test_the_same_number_gives_the_same_study_and_another_gives_another() -> None:
    stage = stage_of(plan_with())
    one, again, other = stage.rehearse(3), stage.rehearse(3), stage.rehearse(4)
    assert apart(one.start, again.start) == 0
    assert all(torch.equal(mine, yours) for mine, yours in zip(one.images, again.images, strict=True))
    assert apart(one.start, other.start) > 0


def test_without_noise_a_rehearsal_is_what_hospitals_with_these_images_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "KEPT", 10_000)
    plan = plan_with()
    study = stage_of(plan).rehearse(0)
    assert study.exact
    count = min(map(len, study.images))
    patients: list[Patient] = [(images.numpy()[None, row], [label]) for label, images in enumerate(study.images)
                               for row in range(count)]  # fmt: skip
    cache = cache_of(tmp_path, plan, patients)
    weights: Weights = initial(plan).arrays()
    for step in schedule(plan):
        quiet = dataclasses.replace(step, event=dataclasses.replace(step.event, sigma=0.0))
        weights = absorb(plan, quiet, weights, patient_sum(plan, step, weights, cache), sites=1)
    made = rehearsal.closed_form(plan, [images[:count] for images in study.images], 2.0 * count, {},
                                 np.random.default_rng(0))  # fmt: skip
    for name, tolerance in (("mean", 1e-3), ("texture", 1e-2), ("factor", 2e-2)):
        np.testing.assert_allclose(getattr(made, name).numpy(), weights[f"start.{name}"], atol=tolerance, err_msg=name)


def test_the_noise_of_a_rehearsal_is_that_of_the_plan_for_all_of_its_sites() -> None:
    plan = plan_with()
    images = [torch.zeros((80, 28, 28)), torch.zeros((80, 28, 28))]
    noises = stage_of(plan).noises
    for step in schedule(plan):
        assert noises[step.phase] == step.event.sigma * sensitivity(plan, step.phase)
    few, many = (rehearsal.closed_form(plan, images, patients, noises, np.random.default_rng(1)) for patients in
                 (400.0, 40_000.0))  # fmt: skip
    assert float(few.factor.norm()) > 3 * float(many.factor.norm()) > 0
    sites = dataclasses.replace(plan, aggregation=dataclasses.replace(plan.aggregation, min_sites=8))
    more = rehearsal.closed_form(sites, images, 800.0, noises, np.random.default_rng(1))
    np.testing.assert_allclose(more.factor.numpy(), few.factor.numpy(), rtol=1e-4, atol=1e-6)
    exact = rehearsal.closed_form(plan, images, 400.0, {}, np.random.default_rng(1))
    assert float(exact.mean.abs().max()) < 1e-6


def test_what_was_learnt_from_rehearsals_takes_noise_off_a_study_that_was_not_among_them() -> None:
    plan = plan_with(steps=120)
    model = initial(plan)
    assert isinstance(model, RefinedVae)
    stage = stage_of(plan)
    held_out = stage.rehearse(50)
    clean = held_out.images[0][:64]
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    level, chosen = torch.full((len(clean),), 0.2), model.one_hot(torch.zeros(len(clean), dtype=torch.int64))

    def missed() -> float:
        with torch.no_grad():
            return float((told(held_out, model).denoise(noisy, chosen, level) - clean).square().mean())

    before = missed()
    warm_denoiser.train(plan, model, [stage.rehearse(number) for number in range(plan.warm.studies)])
    assert missed() < 0.9 * before


def test_gradients_of_patients_begin_at_the_denoiser_that_was_warmed(tmp_path: Path) -> None:
    plan = plan_with(phases='["warm", "moments", "sgd"]')
    weights = warm.up(plan, tmp_path, with_start(plan))
    assert json.loads((tmp_path / warm.GUARD).read_text())["kept"]
    assert np.abs(weights["refiner.leave.weight"]).max() > 0
    for name in ("refiner.before.film.weight", "refiner.told.weight"):
        assert not weights[name][:, -2:].any(), "a class was told"


def with_start(plan: StudyPlan) -> Weights:
    """Weights whose start is a rehearsal's, in place of hospitals'."""
    model = initial(plan)
    model.start.load_state_dict(stage_of(plan).rehearse(60).start.state_dict())
    return model.arrays()


class Contrary(nn.Module):
    """A denoiser that is silent on dark pictures and turns bright ones dark."""

    def forward(self, noisy: Tensor, expected: Tensor, chosen: Tensor, level: Tensor) -> Tensor:
        bright = (expected.mean((1, 2), keepdim=True) > 0).float()
        return -20.0 * bright * torch.ones_like(noisy)


def test_a_prior_that_is_right_for_public_images_and_wrong_for_the_hospitals_is_noticed() -> None:
    plan = plan_with()
    stage, model = stage_of(plan), initial(plan)
    assert isinstance(model, RefinedVae)
    dark, bright = (stage.rehearse(number).start for number in (60, 61))
    dark.mean.data.sub_(dark.mean.mean() + 0.3)
    bright.mean.data.sub_(bright.mean.mean() - 0.3)
    model.refiner = Contrary()  # type: ignore[assignment]
    model.start.load_state_dict(bright.state_dict())
    found = prior_guard.guarded(model, [dark], seed=0)
    assert not found.kept
    assert torch.equal(model.start.mean, bright.mean), "the start is the hospitals' again"
    model.start.load_state_dict(dark.state_dict())
    assert prior_guard.guarded(model, [dark], seed=0).kept


def test_a_prior_that_is_not_kept_leaves_the_closed_form_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior_guard, "ALLOWED", 0.0)
    monkeypatch.setattr(prior_guard, "LEAST_ALLOWED", 0.0)
    plan = plan_with()
    weights = warm.up(plan, tmp_path, with_start(plan))
    assert not json.loads((tmp_path / warm.GUARD).read_text())["kept"]
    assert not weights["refiner.leave.weight"].any()
    assert not weights["refiner.leave.bias"].any()
    assert "It was left out" in warm.in_words(plan, tmp_path)[1]


def test_pictures_of_a_class_are_near_its_moments_and_those_of_another_kind_are_not() -> None:
    plan = plan_with()
    study = stage_of(plan).rehearse(0)
    near = prior_guard.distance(study.start, 0, study.images[0])
    far = prior_guard.distance(study.start, 0, study.images[0].flip(1))
    assert near < 0.2 < 0.5 < far


@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")])
def test_a_prior_that_draws_no_numbers_is_left_out(spoiled: float) -> None:
    assert not prior_guard.Guarded(distance=spoiled, allowed=1.0).kept


def test_card_and_report_name_the_public_images_and_what_the_guard_found(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TEXT.format(phases='["warm", "moments"]', steps=2, epsilon=8.0))
    study = Study.begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north"), {}))
    release.publish(study, simulated=True)
    said = json.loads((tmp_path / "card.json").read_text())["warm"]
    assert said["named"] == ["phantoms of this project, no licence needed"]
    assert said["studies"] == 8
    assert set(said["prior"]) == {"distance", "allowed", "kept"}
    assert "noised moments" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("denoiser = [8, 8]", "", "warm.studies"),
        ('"warm", "moments"', '"moments"', "warm.studies"),
        ("studies = 8", "studies = 3", "warm.studies"),
        ("images = 300", "patients = -1", "warm.patients"),
        ("no licence needed", "\\u0007", "warm.named"),
    ],
)
def test_a_plan_that_has_nothing_to_rehearse_is_refused(old: str, new: str, named: str) -> None:
    text = TEXT.format(phases='["warm", "moments"]', steps=2, epsilon=8.0)
    changed = text.replace(old, new)
    if "denoiser" in old:
        changed = changed.replace("channels = []", "channels = [4, 8]")
    assert changed != text
    with pytest.raises(PlanError, match=named.replace(".", r"\.")):
        StudyPlan.parse(changed)


def test_a_plan_without_rehearsals_keeps_its_digest() -> None:
    text = TEXT.format(phases='["warm", "moments"]', steps=2, epsilon=8.0)
    bare = text.replace("studies = 8\n", "").replace('named = ["phantoms of this project, no licence needed"]\n', "")
    assert not {"studies", "patients", "named"} & set(StudyPlan.parse(bare).to_dict()["warm"])
