"""Moments along public directions: one patient moves a sum by at most its sensitivity, for any basis that is sent."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from client.mechanism.patient_sum import patient_sum
from common.mechanism.moments import COUNT_WEIGHT, detail_bands, triangle, unpack_matrix
from common.mechanism.registry import release_length, sensitivity
from common.model.study_model import initial
from common.model.weights import Weights
from common.plan.schedule import Phase, Round, schedule
from common.plan.study_plan import StudyPlan
from tests.client.moment_cohorts import Patient, cache_of, random_patients, rounding_basis

DIRECTIONS = 9
PLAN = StudyPlan.parse(f"""
name = "directed"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 2
[model]
covariance = "class"
latent = 3
channels = [4, 8]
base = 4
[warm]
directions = {DIRECTIONS}
[training]
rounds = 0
[privacy]
phases = ["warm", "moments"]
""")
PHASES = ("means", "scatters")
BRIGHT = np.ones((1, 28, 28), np.float32)
CHECKS = (np.indices((28, 28)).sum(0) % 2 * 2.0 - 1.0)[None].astype(np.float32)


def step_of(phase: Phase) -> Round:
    return next(step for step in schedule(PLAN) if step.phase == phase)


def sent(kind: str, plan: StudyPlan = PLAN) -> Weights:
    """What a server may send: honest directions, or some made to blow a contribution up."""
    arrays, random = initial(plan).arrays(), np.random.default_rng(4)
    public, mean = arrays["start.public_basis"], arrays["start.public_mean"]
    basis = np.linalg.qr(random.normal(size=public.shape))[0]
    arrays["start.mean"] = random.normal(0, 0.1, arrays["start.mean"].shape).astype(np.float32)
    if kind == "honest":
        mean[:] = random.normal(0, 0.1, mean.shape)
        public[:] = basis
    elif kind == "huge mean":
        mean[:] = 1e30
        arrays["start.mean"][:] = 1e30
        public[:] = basis
    elif kind == "huge basis":
        public[:] = 3e38
    elif kind == "one direction often":
        public[:] = 1 / 28
    elif kind == "one patient's pixels":
        mean[:] = -1e6
        arrays["start.mean"][:] = -1e6
        public[:] = 1e6
    return arrays


def odd_patients() -> list[Patient]:
    """Patients that a clip has to hold: saturated images, many images, both classes at once."""
    return [
        (BRIGHT, [0]),
        (-BRIGHT, [1]),
        (np.repeat(BRIGHT, 40, axis=0), [1] * 40),
        (np.concatenate([BRIGHT, -BRIGHT]), [0, 1]),
        (CHECKS, [0]),
        *random_patients(3, seed=8),
    ]


def influences(tmp_path: Path, phase: Phase, kind: str) -> list[float]:
    """How far the sum moves when each of the odd patients is taken out of the cohort."""
    patients, weights, step = odd_patients(), sent(kind), step_of(phase)
    whole = patient_sum(PLAN, step, weights, cache_of(tmp_path / "all", PLAN, patients))
    moved = []
    for i in range(len(patients)):
        rest = cache_of(tmp_path / str(i), PLAN, patients[:i] + patients[i + 1 :])
        moved.append(float(np.linalg.norm(whole - patient_sum(PLAN, step, weights, rest))))
    return moved


@pytest.mark.parametrize(
    "kind", ["honest", "huge mean", "huge basis", "one direction often", "one patient's pixels", "no directions"]
)
@pytest.mark.parametrize("phase", PHASES)
def test_removing_a_patient_moves_the_sum_by_at_most_the_sensitivity(tmp_path: Path, phase: Phase, kind: str) -> None:
    moved = influences(tmp_path, phase, kind)
    assert 0 < max(moved) <= sensitivity(PLAN, phase) * (1 + 1e-9)


@pytest.mark.parametrize(("phase", "kind"), [("means", "honest"), ("scatters", "huge basis")])
def test_the_sensitivity_is_reached_so_the_noise_is_not_wasted(tmp_path: Path, phase: Phase, kind: str) -> None:
    assert max(influences(tmp_path, phase, kind)) >= 0.999 * sensitivity(PLAN, phase)


@pytest.mark.parametrize("phase", PHASES)
def test_a_patient_with_many_images_weighs_as_one(tmp_path: Path, phase: Phase) -> None:
    (images, labels), *others = random_patients(4, seed=1, most_images=1)
    once = cache_of(tmp_path / "once", PLAN, [(images, labels), *others])
    often = cache_of(tmp_path / "often", PLAN, [(np.repeat(images, 30, axis=0), list(labels) * 30), *others])
    sums = [patient_sum(PLAN, step_of(phase), sent("honest"), cache) for cache in (once, often)]
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-9, atol=1e-12)


def test_a_scatter_holds_the_coordinates_along_the_directions_and_the_energies_of_what_they_leave(
    tmp_path: Path,
) -> None:
    patients = random_patients(12, seed=4, most_images=1)
    weights = sent("honest")
    found = patient_sum(PLAN, step_of("scatters"), weights, cache_of(tmp_path, PLAN, patients)).reshape(2, -1)
    assert found.size == release_length(PLAN, "scatters")
    basis, clip = weights["start.public_basis"].astype(np.float64), PLAN.privacy.deviation_clip
    for label in (0, 1):
        rows = np.stack([images[0].reshape(-1) for images, labels in patients if labels == [label]])
        offsets = (rows - weights["start.mean"][label]) / 28 / clip
        offsets = offsets / np.maximum(1.0, np.linalg.norm(offsets, axis=1, keepdims=True))
        along = offsets @ basis
        second = unpack_matrix(found[label, : triangle(DIRECTIONS)], DIRECTIONS)
        np.testing.assert_allclose(second, along.T @ along, atol=1e-4)
        energy = found[label, triangle(DIRECTIONS) : -1]
        assert len(energy) == detail_bands(28, 0).shape[1]
        assert energy.sum() == pytest.approx(float((offsets**2).sum() - (along**2).sum()), abs=1e-4)
        assert found[label, -1] == pytest.approx(COUNT_WEIGHT * len(rows))


def test_a_mean_is_taken_off_the_public_mean_before_its_clip(tmp_path: Path) -> None:
    weights = sent("honest")
    weights["start.public_mean"][:] = 1.0
    cache = cache_of(tmp_path, PLAN, [(BRIGHT, [0]), (BRIGHT, [1])])
    rows = patient_sum(PLAN, step_of("means"), weights, cache).reshape(2, -1)
    np.testing.assert_allclose(rows[:, :-1], 0.0, atol=1e-4)
    np.testing.assert_allclose(rows[:, -1], COUNT_WEIGHT * PLAN.privacy.mean_clip)


def rounding_alone(plan: StudyPlan) -> Weights:
    return {
        **initial(plan).arrays(),
        "start.public_basis": rounding_basis(plan.warm.directions, np.random.default_rng(2)),
    }


@pytest.mark.parametrize("patients", [2, 3, 80])
def test_how_a_patients_own_part_is_rounded_depends_on_nobody_else(tmp_path: Path, patients: int) -> None:
    """BLAS sums in another order with more rows at its side; a server can make that order all that counts."""
    framed = np.full((1, 28, 28), 0.25, np.float32)
    framed[:, [0, 1, 2, 25, 26, 27]] = -1.0
    cohort: list[Patient] = [(framed, [0])] * patients
    plan = dataclasses.replace(PLAN, warm=dataclasses.replace(PLAN.warm, directions=16))
    weights, step = rounding_alone(plan), step_of("scatters")
    sums = [
        patient_sum(plan, step, weights, cache_of(tmp_path / str(count), plan, cohort[:count]))
        for count in (patients, patients - 1)
    ]
    assert float(np.linalg.norm(sums[0] - sums[1])) <= sensitivity(PLAN, "scatters") * (1 + 1e-9)


def test_other_directions_of_a_plan_give_another_length_and_the_same_sensitivity() -> None:
    wider = dataclasses.replace(PLAN, warm=dataclasses.replace(PLAN.warm, directions=20))
    assert release_length(wider, "scatters") - release_length(PLAN, "scatters") == 2 * (triangle(20) - triangle(9))
    assert sensitivity(wider, "scatters") == sensitivity(PLAN, "scatters")
