"""Moments of each class: the textbook's without noise; with noise a class takes from the others what agrees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.mechanism.patient_sum import patient_sum
from common.errors import StudyStopped
from common.mechanism.moments import COUNT_WEIGHT, coefficients, cosine_basis, detail_bands, half_octaves, pack_matrix
from common.mechanism.registry import release_length, sensitivity
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from server.mechanism.patient_sum import absorb
from server.model.shrinkage import clear, edge, towards_zero
from tests.client.moment_cohorts import Patient, cache_of, moments_plan, random_patients

PLAN = moments_plan(private=False, covariance="class")
SIZE, BASE, LATENT = 28, 4, 3


def federate(plan: StudyPlan, sites: Sequence[Sequence[Patient]], folder: Path) -> Weights:
    """The weights after the moments rounds, without noise."""
    caches = [cache_of(folder / str(i), plan, patients) for i, patients in enumerate(sites)]
    weights = initial(plan).arrays()
    for step in schedule(plan):
        releases = [patient_sum(plan, step, weights, cache).astype(np.float32) for cache in caches]
        weights = absorb(plan, step, weights, np.sum(releases, axis=0, dtype=np.float64), sites=len(releases))
    return weights


def start(weights: Weights) -> dict[str, NDArray[np.float64]]:
    return {n.removeprefix("start."): a.astype(np.float64) for n, a in weights.items() if n.startswith("start.")}


def spread_of(found: dict[str, NDArray[np.float64]], label: int) -> NDArray[np.float64]:
    """A class's covariance of its cosine coefficients within the base, as its directions have it."""
    k = found["factor"].shape[1]
    basis = cosine_basis(SIZE, BASE).T @ found["basis"][:, label * k : (label + 1) * k] @ found["factor"][label]
    spread: NDArray[np.float64] = basis @ basis.T
    return spread


def test_sites_together_equal_one_site_that_holds_all_their_patients(tmp_path: Path) -> None:
    patients = random_patients(60, seed=5)
    apart = start(federate(PLAN, [patients[:9], patients[9:33], patients[33:]], tmp_path / "apart"))
    pooled = start(federate(PLAN, [patients], tmp_path / "pooled"))
    assert apart.keys() == pooled.keys()
    for name, value in pooled.items():
        np.testing.assert_allclose(apart[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_each_class_has_the_mean_the_directions_and_the_rest_of_its_own_images(tmp_path: Path) -> None:
    patients = random_patients(80, seed=6, most_images=1)
    found = start(federate(PLAN, [patients], tmp_path))
    images = np.concatenate([images for images, _ in patients])
    labels = np.array([labels[0] for _, labels in patients])
    np.testing.assert_allclose(found["frequency"], np.bincount(labels) / len(labels), atol=1e-6)
    for label in (0, 1):
        mine = images[labels == label]
        np.testing.assert_allclose(found["mean"][label], mine.mean(axis=0).reshape(-1), atol=1e-5)
        rows = (coefficients(mine, base=BASE) - coefficients(mine, base=BASE).mean(axis=0)) * SIZE
        values, vectors = np.linalg.eigh(rows.T @ rows / len(mine))
        leading = (vectors[:, -LATENT:] * values[-LATENT:]) @ vectors[:, -LATENT:].T
        np.testing.assert_allclose(spread_of(found, label), leading, rtol=1e-3, atol=1e-3)
        rest = np.diag(rows.T @ rows / len(mine) - leading)
        texture = found["texture"][label].reshape(SIZE, SIZE) ** 2
        np.testing.assert_allclose(texture[:BASE, :BASE].reshape(-1), rest, rtol=1e-2, atol=1e-3)
        whole = ((coefficients(mine, base=SIZE) - coefficients(mine, base=SIZE).mean(axis=0)) * SIZE) ** 2
        assert texture.sum() + np.trace(leading) == pytest.approx(whole.sum() / len(mine), rel=1e-3)


def test_the_encoder_is_the_exact_posterior_of_each_class(tmp_path: Path) -> None:
    patients = random_patients(60, seed=7, most_images=1)
    weights = federate(PLAN, [patients], tmp_path)
    found, model = start(weights), initial(PLAN)
    model.load_arrays(weights)
    images = torch.from_numpy(np.stack([images for images, _ in patients]))
    labels = torch.tensor([labels[0] for _, labels in patients])
    said, log_variance = (
        part.detach().numpy()
        for part in model._posterior(images, model.one_hot(labels), model._components(images, labels))
    )
    variance = PLAN.model.observation_std**2
    for label in (0, 1):
        directions = found["basis"][:, label * LATENT : (label + 1) * LATENT] @ found["factor"][label]
        posterior = np.linalg.inv(np.eye(LATENT) + directions.T @ directions / variance)
        mine = (labels == label).numpy()
        pixels = images[mine].flatten(1).numpy() - found["mean"][label]
        np.testing.assert_allclose(said[mine], pixels @ directions @ posterior / variance, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.exp(log_variance[mine][0]), np.diag(posterior), rtol=1e-3)


def test_a_decoder_draws_each_class_by_its_own_mean_spread_and_texture(tmp_path: Path) -> None:
    text = PLAN.to_dict() | {"release": {**PLAN.to_dict()["release"], "texture": 1.0}}
    plan = decoded(text)
    slopes, waves = np.linspace(-0.6, 0.6, SIZE), np.cos(np.pi * 20 * (np.arange(SIZE) + 0.5) / SIZE)
    random = np.random.default_rng(2)
    patients: list[Patient] = []
    for i in range(800):
        size = random.normal(0, 0.15, 2)
        image = slopes[:, None] * (1 + size[0]) + 0 * waves if i % 2 else slopes * size[0] + waves * size[1]
        patients.append((np.clip(np.broadcast_to(image, (1, SIZE, SIZE)), -1, 1).astype(np.float32), [i % 2]))
    decoder = Decoder.of(plan, federate(plan, [patients], tmp_path))
    for index, label in enumerate(decoder.labels):
        drawn = coefficients(torch.stack(list(decoder.draw(label, 2000, seed=1))).numpy(), base=SIZE)
        real = coefficients(np.concatenate([image for image, of in patients if of == [index]]), base=SIZE)
        np.testing.assert_allclose(drawn.mean(axis=0), real.mean(axis=0), atol=0.01)
        assert drawn[:, :].var(axis=0).sum() == pytest.approx(real.var(axis=0).sum(), rel=0.1)
        fine = detail_bands(SIZE, BASE)
        np.testing.assert_allclose(drawn.var(axis=0) @ fine, real.var(axis=0) @ fine, rtol=0.15, atol=1e-5)


def decoded(plan: dict[str, object]) -> StudyPlan:
    from common.errors import PlanError
    from common.plan.reader import build

    return build(StudyPlan, plan, what="plan", error=PlanError)


def noised(plan: StudyPlan, scatters: Sequence[NDArray[np.float64]], patients: float, *, seed: int) -> Weights:
    """What the server makes of noised scatters [base * base, base * base] a class, each the mean over `patients`."""
    step = schedule(plan)[1]
    bands = detail_bands(plan.data.image_size, plan.model.base).shape[1]
    rows = [
        np.concatenate([pack_matrix(patients * scatter), np.zeros(bands), [COUNT_WEIGHT * patients]])
        for scatter in scatters
    ]
    total = np.concatenate(rows)
    noise = np.random.default_rng(seed).normal(0, step.event.sigma * sensitivity(plan, "scatters"), total.shape)
    return absorb(plan, step, initial(plan).arrays(), total + noise, sites=1)


def along(direction: int, other: int, variance: float) -> NDArray[np.float64]:
    """A covariance of one direction, between two cosine frequencies."""
    vector = np.zeros(BASE**2)
    vector[[direction, other]] = np.sqrt(0.5)
    return variance * np.outer(vector, vector)


def test_many_patients_keep_the_directions_of_their_own_class() -> None:
    plan, one, other = moments_plan(covariance="class"), along(5, 10, 0.5), along(6, 9, 0.5)
    found = start(noised(plan, [one, other], 4000, seed=1))
    unit = (plan.privacy.deviation_clip * SIZE) ** 2
    for label, mine, theirs in ((0, one, other), (1, other, one)):
        spread = spread_of(found, label) / unit
        assert (spread * mine).sum() == pytest.approx(0.25, rel=0.1)
        assert abs((spread * theirs).sum()) < 0.01


def test_few_patients_take_what_agrees_from_the_classes_together_and_nothing_where_nothing_does() -> None:
    """A direction that no class shows clearly by itself shows in their sum; a class without it is not given it."""
    text = 'labels = ["normal", "lesion"]'
    plan = moments_plan(covariance="class")
    nine = StudyPlan.parse(to_text(plan).replace(text, f"labels = {[f'c{i}' for i in range(9)]}".replace("'", '"')))
    step, shared = schedule(nine)[1], along(5, 10, 1.0)
    noise = step.event.sigma * sensitivity(nine, "scatters")
    patients = 60.0
    weak = 0.9 * edge(noise / patients, BASE**2)  # below what stands out of one class, far above that of nine
    assert weak > 2 * edge(noise * 3 / (9 * patients), BASE**2)
    agreeing, without = [], []
    for seed in range(20):
        found = start(noised(nine, [*[weak * shared] * 8, np.zeros_like(shared)], patients, seed=seed))
        unit = (nine.privacy.deviation_clip * SIZE) ** 2
        parts = [(spread_of(found, label) / unit * shared).sum() / weak for label in range(9)]
        agreeing.append(np.mean(parts[:8]))
        without.append(parts[8])
    assert np.mean(agreeing) > 0.5
    assert np.mean(without) < 0.5 * np.mean(agreeing)


def to_text(plan: StudyPlan) -> str:
    from tests.benchmarks.quality_plans import to_toml

    return to_toml(plan)


def test_what_stands_out_has_the_variance_of_the_true_matrix_along_it() -> None:
    random, size, truth = np.random.default_rng(3), 60, 1.0
    vector = np.ones(size) / np.sqrt(size)
    for deviation in (0.0, 0.05, 0.1):
        said, real = [], []
        for _ in range(60):
            noise = random.normal(0, deviation / np.sqrt(2), (size, size))
            values, vectors = clear(
                truth * np.outer(vector, vector) + (noise + noise.T) / np.sqrt(2), deviation, most=3
            )
            if len(values):
                said.append(values[0])
                real.append(truth * (vectors[:, 0] @ vector) ** 2)
        assert len(said) > 50
        assert np.mean(said) == pytest.approx(np.mean(real), rel=0.1)


def test_noise_alone_has_no_clear_direction() -> None:
    random, found = np.random.default_rng(4), 0
    for _ in range(100):
        noise = random.normal(0, 1 / np.sqrt(2), (64, 64))
        found += len(clear((noise + noise.T) / np.sqrt(2), 1.0, most=5)[0])
    assert found <= 5


def test_a_mean_of_noise_is_drawn_to_nothing_and_one_of_an_image_is_kept() -> None:
    random = np.random.default_rng(5)
    truth = 1.0 / (1.0 + half_octaves(32).astype(float)) ** 4
    for deviation in (1e-4, 0.01, 0.1):
        noised_by = random.normal(0, deviation, (40, 32 * 32))
        raw = np.mean((noised_by**2).sum(axis=1))
        assert np.mean([(towards_zero(row, np.full(1024, deviation)) ** 2).sum() for row in noised_by]) < 0.1 * raw
        better = np.mean(
            [((towards_zero(truth + row, np.full(1024, deviation)) - truth) ** 2).sum() for row in noised_by]
        )
        assert better < 1.01 * raw
    np.testing.assert_allclose(towards_zero(truth, np.zeros(1024)), truth)


def test_a_class_of_nobody_gets_the_mean_of_all() -> None:
    plan = moments_plan(covariance="class")
    patients, step = 2000.0, schedule(plan)[0]
    mean = np.zeros(SIZE**2)
    mean[:3] = (0.4, -0.2, 0.2)
    row = np.append(patients * mean, COUNT_WEIGHT * plan.privacy.mean_clip * patients)
    total, away = np.concatenate([row, np.zeros_like(row)]), []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, step.event.sigma * sensitivity(plan, "means"), total.shape)
        found = start(absorb(plan, step, initial(plan).arrays(), total + noise, sites=1))
        spectra = coefficients(found["mean"].reshape(2, SIZE, SIZE).astype(np.float32), base=SIZE)
        away.append(np.linalg.norm(spectra - mean, axis=1))
    assert np.mean(away, axis=0)[0] < 0.05
    assert np.mean(away, axis=0)[1] < 0.6 * np.linalg.norm(mean)  # nothing would be at 1


@pytest.mark.parametrize("phase", ["means", "scatters"])
def test_a_cohort_that_the_noise_drowns_stops_the_study(tmp_path: Path, phase: str) -> None:
    plan = moments_plan(covariance="class")
    step = next(step for step in schedule(plan) if step.phase == phase)
    stopped = 0
    for seed in range(50):
        noise = np.random.default_rng(seed).normal(size=release_length(plan, step.phase))
        try:
            absorb(
                plan, step, initial(plan).arrays(), noise * step.event.sigma * sensitivity(plan, step.phase), sites=1
            )
        except StudyStopped:
            stopped += 1
    assert stopped > 45
