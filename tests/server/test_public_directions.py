"""Directions of public images: found once, fixed by the digest of the images, and worth less noise in the moments."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch.nn import functional

from client.mechanism.patient_sum import patient_sum
from common.errors import CheckpointCorrupt, PlanError
from common.mechanism.mechanism import Array
from common.mechanism.moments import coefficients
from common.mechanism.registry import sensitivity
from common.model.linear_start import ClassStart
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.model.weights import Weights, read, write
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, TrainRequest
from server.mechanism.patient_sum import absorb
from server.model import public_directions, rehearsal, shrinkage, warm_data
from server.model.frame import PublicFrame
from server.model.rehearsal import Stage
from server.protocol import rounds
from server.study.study import Study
from tests.client.moment_cohorts import Patient, cache_of
from tests.server.sites import ScriptedExchange

SIZE, DIRECTIONS = 28, 12
TEXT = """
name = "directed"
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
steps = 2
directions = {directions}
[training]
rounds = 0
[privacy]
phases = ["warm", "moments"]
epsilon = 8.0
[aggregation]
min_sites = 2
deadline_s = 5
[release]
images_per_label = 0
"""
PUBLIC = ("public_basis", "public_mean", "public_rest", "public_variance")


def plan_with(directions: int = DIRECTIONS) -> StudyPlan:
    return StudyPlan.parse(TEXT.format(directions=directions))


def directed(plan: StudyPlan, folder: Path) -> Weights:
    return public_directions.with_directions(plan, folder, initial(plan).arrays())


def public(weights: Weights) -> dict[str, Array]:
    return {name: weights[f"start.{name}"].astype(np.float64) for name in PUBLIC}


def test_directions_are_orthonormal_and_hold_most_of_how_public_images_differ(tmp_path: Path) -> None:
    plan = plan_with()
    found = public(directed(plan, tmp_path))
    np.testing.assert_allclose(found["public_basis"].T @ found["public_basis"], np.eye(DIRECTIONS), atol=1e-5)
    assert (np.diff(found["public_variance"]) <= 0).all()
    images, labels = warm_data.load(plan, tmp_path)
    seen = Stage(plan, images, labels).seen(99, most=200).flatten(1).double().numpy()
    offsets = seen - seen.mean(axis=0)
    held = ((offsets @ found["public_basis"]) ** 2).sum() / (offsets**2).sum()
    assert held > 0.6
    expected = found["public_variance"].sum() + found["public_rest"].sum()
    assert 0.3 < expected / ((offsets / SIZE) ** 2).sum(axis=1).mean() < 3


def test_they_are_found_once_and_a_study_that_goes_on_elsewhere_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_with()
    once = directed(plan, tmp_path)
    monkeypatch.setattr(public_directions, "of_images", lambda *_: pytest.fail("they are found again"))
    again = directed(plan, tmp_path)
    assert all(np.array_equal(once[f"start.{name}"], again[f"start.{name}"]) for name in PUBLIC)


def test_the_images_that_the_plan_names_by_digest_fix_them(tmp_path: Path) -> None:
    plan = plan_with()
    one, two = directed(plan, tmp_path / "one"), directed(plan, tmp_path / "two")
    assert all(np.array_equal(one[f"start.{name}"], two[f"start.{name}"]) for name in PUBLIC)
    named = dataclasses.replace(plan, warm=dataclasses.replace(plan.warm, source="a" * 64))
    with pytest.raises(PlanError, match="not there, or not the one of the plan"):
        directed(named, tmp_path / "three")


def test_stored_directions_of_another_plan_or_shape_are_refused(tmp_path: Path) -> None:
    plan = plan_with()
    directed(plan, tmp_path)
    path = tmp_path / public_directions.FILE
    stored, _ = read(path)
    write(stored, path, metadata={"plan": "b" * 64})
    with pytest.raises(CheckpointCorrupt, match="of another plan"):
        directed(plan, tmp_path)
    write({**stored, "public_mean": stored["public_mean"][:-1]}, path, metadata={"plan": plan.digest})
    with pytest.raises(Exception, match="public_mean"):
        directed(plan, tmp_path)


def test_sites_are_sent_the_directions_in_the_first_round_and_a_release_holds_none(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TEXT.format(directions=DIRECTIONS))
    study = Study.begin(tmp_path)
    asked: list[Weights] = []

    def heard(question: Hello | TrainRequest, record: RecordDict) -> RecordDict:
        if isinstance(question, TrainRequest):
            asked.append(question.arrays)
        return record

    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north"), {"hill": heard}))
    stored, _ = read(tmp_path / public_directions.FILE)
    assert len(asked) == 2
    for weights in asked:
        assert all(np.array_equal(weights[f"start.{name}"], stored[name]) for name in PUBLIC)
    decoder = Decoder.of(study.plan, study.released)
    decoder.save(tmp_path / "decoder.safetensors")
    assert not any("public" in name for name in read(tmp_path / "decoder.safetensors")[0])


def patients_of(images: list[torch.Tensor], count: int) -> list[Patient]:
    return [(images[label].numpy()[None, row], [label]) for label in (0, 1) for row in range(count)]


def closed_form_of(plan: StudyPlan, patients: list[Patient], folder: Path, *, seed: int | None) -> ClassStart:
    """What two sites' worth of noise, or none, leaves of the patients' moments."""
    cache, weights = cache_of(folder, plan, patients), directed(plan, folder)
    for step in schedule(plan):
        event = step.event if seed is not None else dataclasses.replace(step.event, sigma=0.0)
        total = patient_sum(plan, step, weights, cache)
        noise = event.sigma * sensitivity(plan, step.phase)
        total = total + noise * np.random.default_rng(seed or 0).normal(size=total.shape)
        weights = absorb(plan, dataclasses.replace(step, event=event), weights, total, sites=1)
    model = initial(plan)
    model.load_arrays(weights)
    assert isinstance(model.start, ClassStart)
    return model.start


def missed(start: ClassStart, images: torch.Tensor) -> float:
    """Mean square error of the closed form's own denoising of images of class 0."""
    noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    chosen = functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 2).float()
    found, _ = start.posterior(noisy, chosen, torch.full((len(images),), 0.3))
    return float((found - images).square().mean())


def test_without_noise_a_rehearsal_is_what_hospitals_with_these_images_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "KEPT", 10_000)
    plan = plan_with()
    start = {name.removeprefix("start."): array for name, array in directed(plan, tmp_path / "0").items()}
    study = Stage(plan, *warm_data.load(plan, tmp_path), public=start).rehearse(0)
    count = min(map(len, study.images))
    hospital = closed_form_of(plan, patients_of(study.images, count), tmp_path / "0", seed=None)
    made = rehearsal.closed_form(plan, [images[:count] for images in study.images], 2.0 * count, {},
                                 np.random.default_rng(0), public=start)  # fmt: skip
    for name, tolerance in (("mean", 1e-3), ("texture", 1e-2), ("factor", 2e-2)):
        one, two = getattr(made, name).numpy(), getattr(hospital, name).numpy()
        np.testing.assert_allclose(one, two, atol=tolerance, err_msg=name)


def test_moments_along_public_directions_bear_the_noise_of_a_small_cohort_better(tmp_path: Path) -> None:
    errors = {}
    for directions in (0, DIRECTIONS):
        plan = plan_with(directions)
        plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, base=16, latent=12))
        images, labels = warm_data.load(plan, tmp_path)
        stage = Stage(plan, images, labels)
        study = [stage.seen(number, most=140) for number in (70, 71)]
        patients = 4 * patients_of(study, 50)
        errors[directions] = np.mean([
            missed(closed_form_of(plan, patients, tmp_path / f"{directions} {seed}", seed=seed), study[0][50:])
            for seed in (1, 2)
        ])  # fmt: skip
    assert errors[DIRECTIONS] < 0.75 * errors[0]


def test_a_mean_is_drawn_to_the_public_one_where_noise_is_all_there_is(tmp_path: Path) -> None:
    plan = plan_with()
    weights = directed(plan, tmp_path)
    frame = PublicFrame(plan, {name.removeprefix("start."): array for name, array in weights.items()})
    np.testing.assert_allclose(
        frame.centre, coefficients(weights["start.public_mean"].reshape(1, SIZE, SIZE), base=SIZE)[0]
    )
    noise = np.random.default_rng(3).normal(size=SIZE**2)
    assert np.linalg.norm(frame.towards_zero(noise, np.ones(SIZE**2))) < 0.35 * np.linalg.norm(noise)
    clear = 100 * noise
    np.testing.assert_allclose(frame.towards_zero(clear, np.ones(SIZE**2)), clear, rtol=0.01, atol=1.0)


def test_noised_variances_are_drawn_towards_what_public_images_say() -> None:
    likely = np.array([4.0, 2.0, 1.0, 1.0])
    groups = np.zeros(4, np.int64)
    noisy = 10 * likely + np.array([3.0, -3.0, 2.0, -2.0])
    drawn = shrinkage.scaled_spectrum(noisy, 50.0, groups=groups, likely=likely)
    np.testing.assert_allclose(drawn, 10 * likely)
    np.testing.assert_allclose(shrinkage.scaled_spectrum(noisy, 0.0, groups=groups, likely=likely), noisy)
    assert not shrinkage.scaled_spectrum(-noisy, 1.0, groups=groups, likely=likely).any()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"warm", "moments"', '"moments"', "warm.directions"),
        ("directions = 12", "directions = 5", "warm.directions"),
        ("directions = 12", "directions = 300", "warm.directions"),
        ("latent = 6", "latent = 13", "model.latent"),
        (
            'covariance = "class"\nlatent = 6\nbase = 8\nchannels = []\ndenoiser = [8, 8]',
            "latent = 6",
            "warm.directions",
        ),
    ],
)
def test_a_plan_whose_directions_cannot_be_is_refused(old: str, new: str, named: str) -> None:
    text = TEXT.format(directions=DIRECTIONS).replace("studies = 8\n", "")
    assert old in text
    with pytest.raises(PlanError, match=named.replace(".", r"\.")):
        StudyPlan.parse(text.replace(old, new))


def test_a_view_of_larger_images_keeps_the_edges_that_a_view_of_small_ones_loses(tmp_path: Path) -> None:
    plan, random = plan_with(), np.random.default_rng(5)
    images = random.integers(0, 256, (80, 2 * SIZE, 2 * SIZE), np.uint8)
    folder = tmp_path / "study"
    folder.mkdir()
    np.savez(folder / warm_data.FILE, images=images)
    source = hashlib.sha256((folder / warm_data.FILE).read_bytes()).hexdigest()
    named = dataclasses.replace(plan, warm=dataclasses.replace(plan.warm, source=source))
    fine, labels = warm_data.load(named, folder, fine=True)
    assert fine.shape[2:] == (2 * SIZE, 2 * SIZE)
    small, _ = warm_data.load(named, folder)
    assert small.shape[2:] == (SIZE, SIZE)
    seen = [Stage(named, kept, labels).seen(3, most=60) for kept in (fine, small)]
    assert all(view.shape[1:] == (SIZE, SIZE) for view in seen)
    assert float(seen[0].std()) > 1.1 * float(seen[1].std())
