"""With the noise off the federation computes what one computer with all patients would; with too much it stops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.mechanism import moments
from client.mechanism.patient_sum import patient_sum, release
from client.mechanism.randomness import SecureRandom
from common.errors import StudyStopped
from common.mechanism.moments import coefficients, cosine_basis, pack_matrix
from common.mechanism.registry import release_length, sensitivity
from common.model.output_screening import Screening
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from server.mechanism.patient_sum import absorb
from server.model.shrinkage import falling, spectrum, towards
from tests.client.moment_cohorts import Patient, cache_of, moments_plan, random_patients

PLAN = moments_plan(private=False)
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


def by_patient(patients: Sequence[Patient]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every patient's one image as a row [n, base * base] of cosine coefficients, and its label."""
    images = np.concatenate([images for images, _ in patients])
    return coefficients(images, base=BASE), np.array([labels[0] for _, labels in patients])


def test_sites_together_equal_one_site_that_holds_all_their_patients(tmp_path: Path) -> None:
    patients = random_patients(60, seed=5)
    apart = start(federate(PLAN, [patients[:9], patients[9:33], patients[33:]], tmp_path / "apart"))
    pooled = start(federate(PLAN, [patients], tmp_path / "pooled"))
    assert apart.keys() == pooled.keys()
    for name, value in pooled.items():
        np.testing.assert_allclose(apart[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_one_site_equals_the_textbook_computation_on_its_images(tmp_path: Path) -> None:
    patients = random_patients(50, seed=6, most_images=1)
    found = start(federate(PLAN, [patients], tmp_path))
    rows, labels = by_patient(patients)
    mean = rows.mean(axis=0)
    basis = cosine_basis(SIZE, BASE)
    np.testing.assert_allclose(found["mean"], basis @ mean * SIZE, atol=1e-6)
    np.testing.assert_allclose(found["frequency"], np.bincount(labels) / len(labels), atol=1e-6)
    leading = np.linalg.svd(rows - mean)[2][:LATENT].T
    np.testing.assert_allclose(np.abs((basis @ leading).T @ found["basis"]), np.eye(LATENT), atol=1e-4)
    np.testing.assert_allclose(found["basis"].T @ found["basis"], np.eye(LATENT), atol=1e-5)
    pixels = np.concatenate([images for images, _ in patients]).reshape(len(labels), -1)
    latents = (pixels - found["mean"]) @ found["basis"]
    for label in (0, 1):
        np.testing.assert_allclose(found["centre"][label], latents[labels == label].mean(axis=0), atol=1e-4)
    _check_spread_of_the_classes(found, latents, labels)


def _check_spread_of_the_classes(
    found: dict[str, NDArray[np.float64]], latents: NDArray[np.float64], labels: NDArray[np.int64]
) -> None:
    """Each covariance is drawn to the pooled one of its own trace, and that to its diagonal, as chance explains."""
    unit = (PLAN.privacy.deviation_clip * SIZE) ** 2
    own = [np.cov(latents[labels == label].T, bias=True) / unit for label in (0, 1)]
    counts = np.bincount(labels)
    pooled = sum(count * covariance for count, covariance in zip(counts, own, strict=True)) / counts.sum()
    pooled, _ = towards(pooled, np.diag(falling(np.diag(pooled), 0.0)), 0.0, len(labels))
    for label in (0, 1):
        alike = pooled * np.trace(own[label]) / np.trace(pooled)
        expected, _ = towards(own[label], alike, 0.0, counts[label])
        factor = found["factor"][label]
        np.testing.assert_allclose(factor @ factor.T, expected * unit, rtol=1e-3, atol=1e-4)


def planted(count: int, *, seed: int) -> tuple[list[Patient], dict[str, NDArray[np.float64]]]:
    """Images drawn from a linear model within the band of the base: mean + V (m_c + L_c u)."""
    random = np.random.default_rng(seed)
    basis = cosine_basis(SIZE, BASE)
    truth = {
        "mean": basis @ random.normal(0, 1.0, BASE**2),
        "basis": basis @ np.linalg.qr(random.normal(size=(BASE**2, LATENT)))[0],
        "centre": np.array([[0.9, 0.0, 0.3], [-0.9, 0.3, -0.3]]),
        "factor": np.stack([np.diag([1.2, 0.8, 0.5]), np.diag([0.9, 1.0, 0.4])]),
    }
    labels = random.integers(0, 2, count)
    latents = truth["centre"][labels] + np.einsum("nij,nj->ni", truth["factor"][labels], random.normal(size=(count, 3)))
    images = (truth["mean"] + latents @ truth["basis"].T).reshape(count, 1, SIZE, SIZE).astype(np.float32)
    assert np.abs(images).max() < 1
    return [(image, [int(label)]) for image, label in zip(images, labels, strict=True)], truth


def test_a_planted_linear_model_is_recovered(tmp_path: Path) -> None:
    patients, truth = planted(3000, seed=9)
    found = start(federate(PLAN, [patients[:1000], patients[1000:]], tmp_path))
    cosines = np.linalg.svd(truth["basis"].T @ found["basis"])[1]
    assert cosines.min() > 0.999
    for label in (0, 1):
        middle = truth["mean"] + truth["basis"] @ truth["centre"][label]
        np.testing.assert_allclose(found["mean"] + found["basis"] @ found["centre"][label], middle, atol=0.02)
        spread, planted_spread = (
            model["basis"] @ model["factor"][label] @ model["factor"][label].T @ model["basis"].T
            for model in (found, truth)
        )
        assert np.linalg.norm(spread - planted_spread) < 0.1 * np.linalg.norm(planted_spread)


def test_the_encoder_is_the_exact_posterior_of_the_found_model(tmp_path: Path) -> None:
    found = start(federate(PLAN, [random_patients(40, seed=7)], tmp_path))
    variance = PLAN.model.observation_std**2
    for label in (0, 1):
        factor = found["factor"][label]
        posterior = np.linalg.inv(np.eye(LATENT) + factor.T @ factor / variance)
        np.testing.assert_allclose(found["gain"][label], posterior @ factor.T / variance, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(np.exp(found["spread"][label]), np.diag(posterior), rtol=1e-3)


@pytest.mark.parametrize("phase", ["mean", "subspace", "prior"])
def test_a_cohort_that_the_noise_drowns_stops_the_study(tmp_path: Path, phase: str) -> None:
    plan = StudyPlan.parse(
        'name = "drowned"\n[model]\nlatent = 3\nbase = 4\n[privacy]\nepsilon = 0.2\nphases = ["moments"]\n'
    )
    step = next(step for step in schedule(plan) if step.phase == phase)
    cache = cache_of(tmp_path, plan, random_patients(4, seed=1, size=64))
    weights = initial(plan).arrays()
    with pytest.raises(StudyStopped, match=r"noised patient count.*Add sites or raise epsilon"):
        absorb(plan, step, weights, patient_sum(plan, step, weights, cache), sites=1)


@pytest.mark.parametrize("phase", ["mean", "prior"])
def test_noise_in_many_classes_makes_no_patients(phase: str) -> None:
    """Clipped at zero, the noised counts of ten empty classes would add up to four deviations of patients."""
    labels = ", ".join(f'"{number}"' for number in range(10))
    plan = StudyPlan.parse(
        f'name = "drowned"\n[data]\nlabels = [{labels}]\n[model]\nlatent = 3\nbase = 4\n'
        '[privacy]\nphases = ["moments"]\n'
    )
    step = next(step for step in schedule(plan) if step.phase == phase)
    weights, stopped = initial(plan).arrays(), 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(size=release_length(plan, step.phase))
        try:
            absorb(plan, step, weights, noise * step.event.sigma * sensitivity(plan, step.phase), sites=1)
        except StudyStopped:
            stopped += 1
    assert stopped > 90  # a count of nobody passes two deviations in 2.3 of 100 draws


def test_noise_alone_leaves_no_spread_that_was_not_there(tmp_path: Path) -> None:
    """What Wigner's law says the noise made is taken out, so a cohort of one image has no latent spread."""
    image = np.full((1, SIZE, SIZE), 0.3, np.float32)
    plan = moments_plan()
    steps = {step.phase: step for step in schedule(plan)}
    cache = cache_of(tmp_path, plan, [(image, [i % 2]) for i in range(400)])
    weights = initial(plan).arrays()
    random = np.random.default_rng(3)
    for phase in ("mean", "subspace", "prior"):
        total = patient_sum(plan, steps[phase], weights, cache)  # type: ignore[index]
        deviation = 0.0 if phase == "mean" else 1.0
        release = total + deviation * random.normal(0, steps[phase].event.sigma, total.shape)  # type: ignore[index]
        weights = absorb(plan, steps[phase], weights, release, sites=1)  # type: ignore[index]
    assert np.abs(start(weights)["factor"]).max() < 0.05


def test_a_class_that_no_site_has_takes_the_spread_of_all_and_can_be_drawn(tmp_path: Path) -> None:
    """Hospitals do not tell which labels they have, so a class may be noise and nothing else; and nobody stops for it.

    By its own noise alone its spread is none in about half of all studies, and every image of it the same one.
    """
    plan = moments_plan()
    spread = []
    for seed in range(8):
        patients = [(images, [0] * len(labels)) for images, labels in random_patients(300, seed=seed)]
        cache = cache_of(tmp_path / str(seed), plan, patients)
        weights = initial(plan).arrays()
        for step in schedule(plan):
            sent = release(plan, step, weights, cache, SecureRandom.simulated(seed, step.number))
            weights = absorb(plan, step, weights, sent["release"].astype(np.float64), sites=1)
        found = start(weights)
        assert found["frequency"][1] < 0.2
        own, of_nobody = (np.trace(factor @ factor.T) for factor in found["factor"])
        spread.append(of_nobody / own)
    assert min(spread) > 0.5
    screening = Screening(Decoder.of(plan, weights))
    assert sum(len(indices) for indices, _ in screening.draw("lesion", 20, seed=1)) == 20


def test_what_the_basis_leaves_out_is_the_texture(tmp_path: Path) -> None:
    patients = random_patients(80, seed=12, most_images=1)
    found = start(federate(PLAN, [patients[:30], patients[30:]], tmp_path))
    rows, _ = by_patient(patients)
    cosines = cosine_basis(SIZE, BASE).T @ found["basis"]
    deviations = (rows - rows.mean(axis=0)) * SIZE
    left = deviations - deviations @ cosines @ cosines.T
    np.testing.assert_allclose(found["texture"], left.std(axis=0), rtol=1e-3, atol=1e-4)


def test_noise_in_the_spectrum_is_taken_out_on_average_and_no_variance_is_negative() -> None:
    random = np.random.default_rng(2)
    frequencies = np.hypot(*np.divmod(np.arange(256), 16))
    truth = 1.0 / (1.0 + frequencies) ** 2
    for deviation in (0.0, 0.01, 0.05):
        found = np.mean([spectrum(truth + random.normal(0, deviation, 256), deviation) for _ in range(50)], axis=0)
        assert found.min() >= 0
        assert found.sum() == pytest.approx(truth.sum(), rel=0.01 + 2 * deviation)
    np.testing.assert_allclose(spectrum(truth, 0.0), truth)


def test_directions_that_the_noise_drowned_give_way_to_the_lowest_frequencies() -> None:
    plan = moments_plan()
    steps = {step.phase: step for step in schedule(plan)}
    variances = np.array([0.5 ** (u + v) for u in range(BASE) for v in range(BASE)])
    scatter = np.diag(100.0 * variances / variances.sum())
    scatter[5, 5] += 300.0  # one direction that no noise explains: (1, 1)
    noise = np.random.default_rng(5).normal(0, steps["subspace"].event.sigma, BASE**2 * (BASE**2 + 1) // 2)
    release = np.append(pack_matrix(scatter) + noise, 0.25 * 400)
    found = start(absorb(plan, steps["subspace"], initial(plan).arrays(), release, sites=1))
    cosines = np.abs(cosine_basis(SIZE, BASE).T @ found["basis"])
    assert cosines[5, 0] > 0.95
    np.testing.assert_allclose(found["basis"].T @ found["basis"], np.eye(LATENT), atol=1e-5)
    assert cosines[[0, 1, BASE], 2].max() > 0.5


def test_a_cohort_of_one_image_leaves_directions_without_variance_empty(tmp_path: Path) -> None:
    found = start(federate(PLAN, [[(np.full((1, SIZE, SIZE), 0.3, np.float32), [0])] * 20], tmp_path))
    assert (np.linalg.norm(found["basis"], axis=0) > 0.5).sum() <= 2
    assert np.abs(found["factor"]).max() < 1e-3


def test_a_class_that_hardly_varies_is_not_given_the_spread_of_the_others(tmp_path: Path) -> None:
    plan = moments_plan()
    steps = {step.phase: step for step in schedule(plan)}
    random = np.random.default_rng(6)
    release = []
    for spread in (1.0, 0.01):  # of 400 patients each, the second a hundredth of the first
        release += [pack_matrix(400 * spread * 0.2 * np.eye(LATENT)), np.zeros(LATENT), np.array([0.25 * 400])]
    total = np.concatenate(release)
    total += random.normal(0, 0.5 * steps["prior"].event.sigma, total.shape)
    weights = initial(plan).arrays()
    found = start(absorb(plan, steps["prior"], weights, total, sites=1))
    wide, narrow = (np.trace(factor @ factor.T) for factor in found["factor"])
    assert narrow < 0.1 * wide


def grouped(count: int, *, seed: int) -> tuple[list[Patient], NDArray[np.float64]]:
    """Two groups in each of two classes, 3 to 1, far apart; and the groups' middles in pixels."""
    random = np.random.default_rng(seed)
    basis = cosine_basis(SIZE, BASE) @ np.linalg.qr(random.normal(size=(BASE**2, LATENT)))[0]
    middles = np.array([[3.0, 0, 0], [-3.0, 0, 0], [0, 3.0, 0], [0, -3.0, 0]])
    groups = random.choice(4, count, p=[0.375, 0.125, 0.375, 0.125])
    latents = middles[groups] + random.normal(0, [0.5, 0.3, 0.7], (count, LATENT))
    images = (latents @ basis.T).reshape(count, 1, SIZE, SIZE).astype(np.float32)
    return [(image, [int(group) // 2]) for image, group in zip(images, groups, strict=True)], middles @ basis.T


def test_a_mixture_finds_the_groups_within_each_class(tmp_path: Path) -> None:
    plan = moments_plan(private=False, components=2)
    patients, middles = grouped(1200, seed=3)
    found = start(federate(plan, [patients[:500], patients[500:]], tmp_path))
    drawn = found["mean"] + found["centre"] @ found["basis"].T
    for label in (0, 1):
        mine, truth = drawn[2 * label : 2 * label + 2], middles[2 * label : 2 * label + 2]
        order = np.argsort(-found["weight"][2 * label : 2 * label + 2])
        np.testing.assert_allclose(mine[order], truth, atol=0.05)
        np.testing.assert_allclose(found["weight"][2 * label : 2 * label + 2][order], [0.75, 0.25], atol=0.05)


def test_the_model_and_the_hospital_agree_on_which_component_explains_an_image(tmp_path: Path) -> None:
    plan = moments_plan(private=False, components=2)
    patients, _ = grouped(300, seed=4)
    weights = federate(plan, [patients], tmp_path)
    images = np.concatenate([image for image, _ in patients])
    labels = np.array([label[0] for _, label in patients])
    held = moments._held(plan, weights, moments._latents(plan, weights, images), labels)
    model = initial(plan)
    model.load_arrays(weights)
    chosen = model.one_hot(torch.from_numpy(labels))
    best = model.start.explain(torch.from_numpy(images).flatten(1), chosen, plan.model.observation_std)
    np.testing.assert_array_equal(best.argmax(dim=1), held.argmax(axis=1))
    np.testing.assert_allclose(held.sum(axis=1), 1.0, atol=1e-6)


def test_a_decoder_draws_its_components_by_their_weights(tmp_path: Path) -> None:
    plan = moments_plan(private=False, components=2)
    patients, middles = grouped(900, seed=5)
    decoder = Decoder.of(plan, federate(plan, [patients], tmp_path))
    for index, label in enumerate(decoder.labels):
        images = torch.stack(list(decoder.draw(label, 600, seed=1))).flatten(1).numpy()
        near = ((images[:, None] - middles[2 * index : 2 * index + 2]) ** 2).sum(axis=2).argmin(axis=1)
        assert (near == 0).mean() == pytest.approx(0.75, abs=0.08)
    model = decoder.model
    images = torch.from_numpy(np.stack([image for image, _ in patients[:40]]))
    labels = torch.tensor([label[0] for _, label in patients[:40]])
    assert float((model.reconstruct(images, labels) - images).square().mean().sqrt()) < 0.1
