"""A round's reconstruction error leaves only where the plan pays for it: as a noised sum, booked on its own."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import hospital
from client.approval.proposal import Proposal
from client.cohort.cache import Cache
from client.cohort.consent import releases_with
from client.egress import egress
from client.ledger.ledger import Ledger
from client.mechanism import utility
from client.mechanism.randomness import SecureRandom
from client.site.site import Site
from common.accountant.accounting import GaussianEvent, epsilon
from common.errors import EgressRefused, PlanError
from common.mechanism.utility import NAME, SENSITIVITY, WORST, read
from common.model.vae import Vae
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from tests.client.cohorts import small_cohort, small_plan
from tests.client.hospitals import build_home, request, tiny_plan
from tests.client.moment_cohorts import cache_of, random_patients

PAID = tiny_plan("[privacy]\nutility_share = 0.1\nspare_rounds = 1")
FREE = tiny_plan()
FIRST_GRADIENT = next(step for step in schedule(PAID) if step.phase == "sgd")
CPU = torch.device("cpu")


def model_of(plan: StudyPlan, *, scale: float = 1.0) -> Vae:
    torch.manual_seed(0)
    model = Vae(plan)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_removing_a_patient_moves_error_and_count_by_at_most_the_sensitivity(tmp_path: Path, scale: float) -> None:
    plan, patients = small_plan(), random_patients(5, seed=1)
    patients.append((np.ones((9, 28, 28), np.float32), [0] * 9))
    sums = []
    for out in (None, *range(len(patients))):
        kept = [patient for i, patient in enumerate(patients) if i != out]
        cache = cache_of(tmp_path / str(out), plan, kept)
        generator = torch.Generator().manual_seed(3)
        sums.append(utility.patient_sum(model_of(plan, scale=scale), cache, plan=plan, generator=generator, device=CPU))
    moved = [float(np.linalg.norm(sums[0] - other)) for other in sums[1:]]
    assert max(moved) <= SENSITIVITY * (1 + 1e-9)
    assert min(moved) >= 1.0  # the count
    assert 0 < sums[0][0] <= WORST * len(patients)
    if scale > 1:
        assert max(moved) > 0.99 * SENSITIVITY  # a hostile model drives every error to its bound, and no further


def test_noise_is_gaussian_of_sigma_times_the_sensitivity_on_both_values(tmp_path: Path) -> None:
    cache, plan = small_cohort(tmp_path, patients=8, images=1), small_plan()
    model, event = model_of(plan), GaussianEvent(sigma=4.0, sample_rate=1.0, steps=1)
    exact = utility.patient_sum(model, cache, plan=plan, generator=torch.Generator(), device=CPU)
    noise = np.array([
        utility.release(model, cache, plan=plan, event=event, random=SecureRandom.simulated(seed), device=CPU)[NAME]
        - exact
        for seed in range(300)
    ])  # fmt: skip
    assert noise.std(0) == pytest.approx([4 * SENSITIVITY] * 2, rel=0.15)
    assert abs(float(np.corrcoef(noise.T)[0, 1])) < 0.2


def test_a_paid_round_books_two_events_at_once_and_stays_inside_the_plan(tmp_path: Path) -> None:
    home = build_home(tmp_path / "north", PAID)
    for step in schedule(PAID):
        reply = hospital.train(Site.open(home), request(PAID, step.number))
        assert (NAME in reply.arrays) == (step.phase == "sgd")
        assert reply.epsilon == pytest.approx(step.epsilon_after)
    rows = [row for row in Ledger(home / "ledger.sqlite").rows() if row.kind == "reserve"]
    assert [row.phase for row in rows] == ["mean", "subspace", "prior", NAME, "sgd", NAME, "sgd"]
    paid = [GaussianEvent(sigma=row.sigma, sample_rate=row.rate, steps=row.steps) for row in rows]
    assert paid == [event for step in schedule(PAID) for event in step.events]
    assert reply.epsilon <= PAID.privacy.epsilon
    hospital.train(Site.open(home), request(PAID, 4, shift=0.5))  # the spare round, utility release included
    assert Ledger(home / "ledger.sqlite").epsilon(delta=PAID.privacy.delta) <= PAID.privacy.epsilon


def test_the_error_is_of_the_patients_that_are_booked_and_of_nobody_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan("[privacy]\nutility_share = 0.1\n[evaluation]\nheld_out_share = 0.3")
    home = tmp_path / "north"
    home.mkdir()
    (home / "secret.key").write_bytes(bytes(range(32)))  # who is set aside follows from it
    build_home(home, plan, patients=24)
    measured = []
    original = utility.release

    def watched(model: Vae, cache: Cache, **settings: Any) -> Weights:
        measured.append(cache.patient_keys)
        return original(model, cache, **settings)

    monkeypatch.setattr(utility, "release", watched)
    site = Site.open(home)
    hospital.train(site, request(plan, FIRST_GRADIENT.number))
    assert 0 < len(measured[0]) < site.cache.patients
    assert set(measured[0]) == set(site.cohort(plan).patient_keys)
    for key in site.cache.patient_keys:
        assert bool(releases_with(site.ledger, [key])) == (key in measured[0])


def test_utility_releases_alone_cost_their_share_and_hardly_less() -> None:
    paid = [ride.event for step in schedule(PAID) for ride in step.rides]
    share = PAID.privacy.utility_share * PAID.privacy.epsilon
    assert len(paid) == PAID.training.rounds
    assert 0.98 * share < epsilon(paid, delta=PAID.privacy.delta) <= share


def test_a_plan_that_does_not_pay_releases_no_error_and_egress_refuses_one(tmp_path: Path) -> None:
    home = build_home(tmp_path / "north", FREE)
    number = next(step.number for step in schedule(FREE) if step.phase == "sgd")
    site = Site.open(home)
    reply = hospital.train(site, request(FREE, number))
    assert NAME not in reply.arrays
    with_error = dataclasses.replace(reply, arrays={**reply.arrays, NAME: np.zeros(2, np.float32)})
    step = schedule(FREE)[number - 1]
    with pytest.raises(EgressRefused):
        egress.release(home, plan=FREE, step=step, reply=with_error, entry=1)


def test_the_error_is_of_the_model_as_it_came_and_a_patients_release_is_listed_once(tmp_path: Path) -> None:
    home = build_home(tmp_path / "north", PAID)
    site = Site.open(home)
    hospital.train(site, request(PAID, FIRST_GRADIENT.number))
    listed = releases_with(site.ledger, [site.cache.patient_keys[0]])
    assert [(release.phase, release.finished) for release in listed] == [("sgd", True)]


def test_the_steward_reads_that_an_error_leaves(tmp_path: Path) -> None:
    site = Site.open(build_home(tmp_path / "north", PAID))
    said = [Proposal.weigh(plan, site.policy, site.ledger, over_budget=True).text() for plan in (PAID, FREE)]
    assert ["redraws the patients' images" in text for text in said] == [True, False]


def test_the_server_reads_the_mean_error_and_its_own_doubt() -> None:
    exact = read(np.array([40.0, 200.0]), 0.0)
    assert exact is not None
    assert (exact.value, exact.std) == (pytest.approx(0.2), 0.0)
    noised = read(np.array([20.0, 100.0]), 2 * SENSITIVITY)  # of four sites
    assert noised is not None
    assert noised.std == pytest.approx(2 * SENSITIVITY * np.hypot(1, 0.2) / 100)
    assert read(np.array([1.0, 5.0]), 2 * SENSITIVITY) is None


def test_a_plan_cannot_pay_for_errors_that_no_round_has() -> None:
    with pytest.raises(PlanError, match="utility_share"):
        tiny_plan('[privacy]\nphases = ["moments"]\nutility_share = 0.1')
