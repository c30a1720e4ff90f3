"""One patient moves a moments release by at most its sensitivity, whatever the server sent and the patient holds."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.cohort.cache import Cache
from client.mechanism import patient_sum as sums_of_patients
from client.mechanism.patient_sum import patient_sum, release
from client.mechanism.randomness import SecureRandom
from common.mechanism.moments import COUNT_WEIGHT, clip, coefficients, triangle
from common.mechanism.registry import release_length, sensitivity
from common.model.study_model import initial
from common.model.weights import Weights
from common.plan.privacy import LEAST_CLIP
from common.plan.schedule import Phase, Round, schedule
from common.plan.study_plan import StudyPlan
from tests.client.moment_cohorts import Patient, cache_of, moments_plan, random_patients, rounding_basis

PLAN, BY_CLASS = moments_plan(components=2), moments_plan(covariance="class")
PLANS: dict[Phase, StudyPlan] = {
    **dict.fromkeys(("mean", "subspace", "prior", "centres", "mixture"), PLAN),  # type: ignore[dict-item]
    "means": BY_CLASS,
    "scatters": BY_CLASS,
}
PHASES = tuple(PLANS)
BRIGHT = np.ones((1, 28, 28), np.float32)


def step_of(plan: StudyPlan, phase: Phase) -> Round:
    return next(step for step in schedule(plan) if step.phase == phase)


def weights(kind: str, plan: StudyPlan = PLAN) -> Weights:
    """What a server may send: an honest start, or one made to blow a contribution up."""
    arrays = initial(plan).arrays()
    mean, basis = (arrays[f"start.{name}"] for name in ("mean", "basis"))
    random = np.random.default_rng(4)
    if kind == "honest":
        arrays["start.mean"] = random.normal(0, 0.1, mean.shape).astype(np.float32)
        arrays["start.basis"] = np.linalg.qr(random.normal(size=basis.shape))[0].astype(np.float32)
        arrays["start.centre"] = random.normal(0, 3, arrays["start.centre"].shape).astype(np.float32)
    elif kind == "one of two components":
        arrays["start.basis"] = np.linalg.qr(random.normal(size=(784, 3)))[0].astype(np.float32) * 1e6
        arrays["start.centre"][1::2] = 1e6
    elif kind == "huge components":
        arrays["start.basis"] = np.linalg.qr(random.normal(size=(784, 3)))[0].astype(np.float32)
        for name in ("centre", "factor", "gain", "evidence"):
            shape = arrays[f"start.{name}"].shape
            arrays[f"start.{name}"] = (random.choice([-3e38, 0.0, 3e38], shape)).astype(np.float32)
    elif kind == "components that are no numbers":
        arrays["start.basis"] = np.linalg.qr(random.normal(size=(784, 3)))[0].astype(np.float32)
        arrays["start.evidence"][:] = [np.nan, np.inf, np.inf, 0.0]
    elif kind == "huge mean":
        arrays["start.mean"] = np.full_like(mean, 1e30)
        arrays["start.basis"] = np.ones_like(basis)
    elif kind == "huge basis":
        arrays["start.basis"] = np.full_like(basis, 3e38)
    elif kind == "one patient's pixels":
        arrays["start.mean"] = np.broadcast_to(-1e6 * BRIGHT.reshape(784), mean.shape)
        arrays["start.basis"] = np.broadcast_to(1e6 * BRIGHT.reshape(784, 1), basis.shape)
    return arrays


def odd_patients() -> list[Patient]:
    """Patients that a clip has to hold: saturated images, many images, both classes at once."""
    checks = np.indices((28, 28)).sum(0) % 2 * 2.0 - 1.0
    return [
        (BRIGHT, [0]),
        (-BRIGHT, [1]),
        (np.repeat(BRIGHT, 40, axis=0), [1] * 40),
        (np.concatenate([BRIGHT, -BRIGHT]), [0, 1]),
        (checks[None].astype(np.float32), [0]),
        *random_patients(3, seed=8),
    ]


def influences(tmp_path: Path, phase: Phase, kind: str) -> list[float]:
    """How far the sum moves when each of the odd patients is taken out of the cohort."""
    plan = PLANS[phase]
    patients, sent, step = odd_patients(), weights(kind, plan), step_of(plan, phase)
    whole = patient_sum(plan, step, sent, cache_of(tmp_path / "all", plan, patients))
    moved = []
    for i in range(len(patients)):
        rest = cache_of(tmp_path / str(i), plan, patients[:i] + patients[i + 1 :])
        moved.append(float(np.linalg.norm(whole - patient_sum(plan, step, sent, rest))))
    return moved


@pytest.mark.parametrize("kind", ["honest", "huge mean", "huge basis", "one patient's pixels"])
@pytest.mark.parametrize("phase", PHASES)
def test_removing_a_patient_moves_the_sum_by_at_most_the_sensitivity(tmp_path: Path, phase: Phase, kind: str) -> None:
    moved = influences(tmp_path, phase, kind)
    assert 0 < max(moved) <= sensitivity(PLANS[phase], phase) * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["one of two components", "huge components", "components that are no numbers"])
@pytest.mark.parametrize("phase", ["centres", "mixture"])
def test_components_that_a_server_made_up_move_the_sum_no_further(tmp_path: Path, phase: Phase, kind: str) -> None:
    assert max(influences(tmp_path, phase, kind)) <= sensitivity(PLAN, phase) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ("mean", "honest"),
        ("subspace", "huge mean"),
        ("prior", "huge mean"),
        ("centres", "one of two components"),
        ("mixture", "one of two components"),
        ("means", "honest"),
        ("scatters", "huge mean"),
    ],
)
def test_the_sensitivity_is_reached_so_the_noise_is_not_wasted(tmp_path: Path, phase: Phase, kind: str) -> None:
    assert max(influences(tmp_path, phase, kind)) >= 0.999 * sensitivity(PLANS[phase], phase)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_counts_as_zero(value: float) -> None:
    rows = np.array([[3.0, 4.0], [value, 0.0], [0.3, 0.4]])
    np.testing.assert_allclose(clip(rows, 1.0), [[0.6, 0.8], [0.0, 0.0], [0.3, 0.4]], rtol=1e-9)


@pytest.mark.parametrize("phase", PHASES)
def test_a_patient_with_many_images_weighs_as_one(tmp_path: Path, phase: Phase) -> None:
    (images, labels), *others = random_patients(4, seed=1, most_images=1)
    plan = PLANS[phase]
    once = cache_of(tmp_path / "once", plan, [(images, labels), *others])
    often = cache_of(tmp_path / "often", plan, [(np.repeat(images, 30, axis=0), list(labels) * 30), *others])
    sums = [patient_sum(plan, step_of(plan, phase), weights("honest", plan), cache) for cache in (once, often)]
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-9, atol=1e-12)


def test_class_counts_are_of_patients_and_a_patient_of_both_classes_is_half_of_each(tmp_path: Path) -> None:
    patients = [(BRIGHT, [0]), (BRIGHT, [0]), (BRIGHT, [1]), (np.repeat(BRIGHT, 4, axis=0), [0, 1, 1, 1])]
    cache = cache_of(tmp_path, PLAN, patients)
    expected = np.array([2.25, 1.75])
    mean = patient_sum(PLAN, step_of(PLAN, "mean"), weights("honest"), cache)
    np.testing.assert_allclose(mean[-2:] / PLAN.privacy.mean_clip, expected)
    subspace = patient_sum(PLAN, step_of(PLAN, "subspace"), weights("honest"), cache)
    assert subspace[-1] / COUNT_WEIGHT == pytest.approx(4)
    prior = patient_sum(PLAN, step_of(PLAN, "prior"), weights("honest"), cache).reshape(2, -1)
    np.testing.assert_allclose(prior[:, -1] / COUNT_WEIGHT, expected)
    for phase, unit in (("means", PLAN.privacy.mean_clip), ("scatters", 1.0)):
        rows = patient_sum(BY_CLASS, step_of(BY_CLASS, phase), weights("honest", BY_CLASS), cache).reshape(2, -1)  # type: ignore[arg-type]
        np.testing.assert_allclose(rows[:, -1] / (COUNT_WEIGHT * unit), expected)


def test_a_patient_of_two_classes_has_no_more_in_both_together_than_one_of_one_class(tmp_path: Path) -> None:
    both = (np.concatenate([BRIGHT, -BRIGHT]), [0, 1])
    cache, sent = cache_of(tmp_path, BY_CLASS, [both]), weights("huge mean", BY_CLASS)
    for phase in ("means", "scatters"):
        rows = patient_sum(BY_CLASS, step_of(BY_CLASS, phase), sent, cache).reshape(2, -1)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), sensitivity(BY_CLASS, phase) / 2, rtol=1e-9)  # type: ignore[arg-type]


def test_no_class_is_in_the_coordinates_of_another_and_an_image_without_a_class_is_in_none(tmp_path: Path) -> None:
    patients = random_patients(6, seed=3)
    ones = [(images, [1] * len(labels)) for images, labels in patients]
    cache, sent = cache_of(tmp_path, BY_CLASS, ones), weights("honest", BY_CLASS)
    for phase in ("means", "scatters"):
        rows = patient_sum(BY_CLASS, step_of(BY_CLASS, phase), sent, cache).reshape(2, -1)  # type: ignore[arg-type]
        assert not rows[0].any()
        assert rows[1].all()


def test_the_energies_of_a_scatter_are_those_of_the_frequencies_beyond_the_base(tmp_path: Path) -> None:
    patients = random_patients(30, seed=4, most_images=1)
    sent = {**weights("honest", BY_CLASS), "start.mean": np.zeros((2, 784), np.float32)}
    rows = patient_sum(BY_CLASS, step_of(BY_CLASS, "scatters"), sent, cache_of(tmp_path, BY_CLASS, patients))
    found = rows.reshape(2, -1)[:, triangle(16) : -1].sum(axis=0)
    spectra = clip(coefficients(np.concatenate([i for i, _ in patients]), base=28) / 0.4, 1.0).reshape(-1, 28, 28) ** 2
    spectra[:, :4, :4] = 0
    bands = np.round(2 * np.log2(1 + np.hypot(*np.indices((28, 28)))))
    expected = [spectra[:, bands == band].sum() for band in np.unique(bands) if spectra[:, bands == band].any()]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("phase", PHASES)
def test_noise_is_gaussian_of_sigma_times_the_sensitivity_on_every_value(tmp_path: Path, phase: Phase) -> None:
    plan = PLANS[phase]
    cache, step, sent = (
        cache_of(tmp_path, plan, random_patients(5, seed=2)),
        step_of(plan, phase),
        weights("honest", plan),
    )
    exact = patient_sum(plan, step, sent, cache)
    draws = np.stack(
        [release(plan, step, sent, cache, SecureRandom.simulated(7, i))["release"] - exact for i in range(400)]
    )
    assert draws.shape == (400, release_length(plan, phase))
    expected = step.event.sigma * sensitivity(plan, phase)
    assert draws.std() == pytest.approx(expected, rel=0.05)
    assert draws.std(axis=0).min() > 0.8 * expected
    assert abs(draws.mean()) < 5 * expected / math.sqrt(draws.size)
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 0.35


def test_two_releases_of_a_hospital_never_carry_the_same_noise(tmp_path: Path) -> None:
    cache, step, sent = cache_of(tmp_path, PLAN, random_patients(3, seed=2)), step_of(PLAN, "mean"), weights("honest")
    one, two = (release(PLAN, step, sent, cache, SecureRandom.from_os())["release"] for _ in range(2))
    assert (one != two).all()


def test_a_cohort_larger_than_one_batch_is_summed_whole(tmp_path: Path) -> None:
    patients = random_patients(300, seed=3, most_images=1)
    cache = cache_of(tmp_path / "all", PLAN, patients)
    parts = [cache_of(tmp_path / str(i), PLAN, patients[i::2]) for i in range(2)]
    for phase, plan in PLANS.items():
        step, sent = step_of(plan, phase), weights("honest", plan)
        halves = [patient_sum(plan, step, sent, part) for part in parts]
        np.testing.assert_allclose(patient_sum(plan, step, sent, cache), halves[0] + halves[1], rtol=1e-9, atol=1e-9)


def rounding_alone(plan: StudyPlan) -> Weights:
    arrays, random = initial(plan).arrays(), np.random.default_rng(2)
    arrays["start.basis"] = rounding_basis(plan.model.latent, random)
    for name in ("factor", "gain"):
        arrays[f"start.{name}"] = (random.normal(size=arrays[f"start.{name}"].shape) * 1e6).astype(np.float32)
    return arrays


@pytest.mark.parametrize("patients", [2, 3, 80])
@pytest.mark.parametrize("phase", ["prior", "centres", "mixture"])
def test_how_a_patients_own_part_is_rounded_depends_on_nobody_else(tmp_path: Path, phase: Phase, patients: int) -> None:
    """BLAS sums in another order with more rows beside; a server can make that order all that counts."""
    plan = dataclasses.replace(PLAN, model=dataclasses.replace(PLAN.model, base=16, latent=16))
    framed = np.full((1, 28, 28), 0.25, np.float32)
    framed[:, [0, 1, 2, 25, 26, 27]] = -1.0
    cohort: list[Patient] = [(framed, [0])] * patients
    sent, step = rounding_alone(plan), step_of(plan, phase)
    sums = [
        patient_sum(plan, step, sent, cache_of(tmp_path / str(count), plan, cohort[:count]))
        for count in (patients, patients - 1)
    ]
    assert float(np.linalg.norm(sums[0] - sums[1])) <= sensitivity(plan, phase) * (1 + 1e-9)


@pytest.mark.parametrize("phase", ["mean", "subspace", "means", "scatters"])
def test_neighbours_round_coefficients_by_next_to_nothing_whatever_mean_was_sent(tmp_path: Path, phase: Phase) -> None:
    """The mean sent is a patient's own image and the clip as small as a plan's can be: what is left is rounding."""
    plan = dataclasses.replace(
        PLANS[phase],
        model=dataclasses.replace(PLANS[phase].model, base=16),
        privacy=dataclasses.replace(PLAN.privacy, deviation_clip=LEAST_CLIP),
    )
    image = np.random.default_rng(4).uniform(-1, 1, (1, 28, 28)).astype(np.float32)
    cohort: list[Patient] = [(image, [0])] * 7 + random_patients(4, seed=5, most_images=1)
    caches = [cache_of(tmp_path / str(count), plan, cohort[:count]) for count in (7, 8, 11)]
    sent, step = initial(plan).arrays(), step_of(plan, phase)
    own = caches[0].patient(0)[0].numpy().reshape(-1)
    sent["start.mean"] = np.broadcast_to(own, sent["start.mean"].shape).copy()
    whole = [patient_sum(plan, step, sent, cache) for cache in caches]
    others = [cache_of(tmp_path / f"only {i}", plan, [patient]) for i, patient in enumerate(cohort[7:])]
    alone = [patient_sum(plan, step, sent, cache) for cache in others]
    np.testing.assert_allclose(whole[1] - whole[0], alone[0], atol=1e-11)
    np.testing.assert_allclose(whole[2] - whole[0], sum(alone), atol=1e-11)


def test_a_patient_of_many_images_goes_in_blocks_and_weighs_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = random_patients(9, seed=6, most_images=7)
    cache = cache_of(tmp_path, PLAN, cohort)
    whole = [patient_sum(plan, step_of(plan, phase), weights("honest", plan), cache) for phase, plan in PLANS.items()]
    seen: list[int] = []

    def at(rows: NDArray[np.int64]) -> object:
        seen.append(len(rows))
        return Cache.at(cache, rows)

    monkeypatch.setattr(sums_of_patients, "_IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(cache, "at", at)
    for phase, expected in zip(PHASES, whole, strict=True):
        plan = PLANS[phase]
        found = patient_sum(plan, step_of(plan, phase), weights("honest", plan), cache)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert max(seen) == 4
    assert sum(seen) == cache.images * len(PHASES)
