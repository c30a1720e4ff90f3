"""A generator that memorised its patients is found by the gate and by the attacks; one trained at epsilon 3 is not."""

import pytest
import torch

from client.cohort.cache import Cache
from client.cohort.held_out import split
from client.cohort.image_blocks import gathered
from client.evaluation import votes
from client.evaluation.judge import candidate_of
from client.evaluation.membership import loss_attack, losses
from client.mechanism.randomness import SecureRandom
from client.mechanism.trainer import PatientTrainer
from common.model.study_model import initial
from common.model.vae import Vae
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from tests.client.cohorts import small_cohort

PLAN = StudyPlan.parse(
    """
name = "small"
[data]
image_size = 28
labels = ["no", "yes"]
min_patients = 40
[model]
latent = 16
channels = [16, 16]
base = 6
observation_std = 0.05
[training]
rounds = 4
local_steps = 10
sample_rate = 0.2
learning_rate = 0.003
[privacy]
epsilon = 3
phases = ["sgd"]
[evaluation]
held_out_share = 0.5
images_per_label = 100
near_rmse = 0.15
"""
)
Cohorts = tuple[Cache, Cache]


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Cohorts:
    home = tmp_path_factory.mktemp("site")
    cache = small_cohort(home, patients=110, images=1, plan=PLAN, seed=4)
    trained, held_out = split(cache, b"the same in every run", 0.5)  # or who is set aside would be chance
    assert min(trained.patients, held_out.patients) >= 35
    return trained, held_out


@pytest.fixture(scope="module")
def memoriser(cohorts: Cohorts) -> Vae:
    """Trained without noise on the same few patients until it knows them by heart."""
    part = gathered(cohorts[0], most=200)
    model = initial(PLAN).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        noise = torch.randn((len(part.labels), model.latent_size), generator=generator)
        loss = model.loss(part.images[:, None], part.labels, noise).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def private(cohorts: Cohorts) -> Vae:
    model = initial(PLAN)
    for step in schedule(PLAN):
        PatientTrainer(
            model, cohorts[0], plan=PLAN, event=step.event, random=SecureRandom.simulated(1, step.number),
            divisor_patients=40, device=torch.device("cpu"),
        ).run()  # fmt: skip
    return model.eval()


def tally(model: Vae, cohorts: Cohorts) -> float:
    candidate = candidate_of(PLAN, model.arrays())
    return float(votes.tally(PLAN, candidate, *cohorts)[2])


def test_a_decoder_that_memorised_its_patients_fails_the_gate(cohorts: Cohorts, memoriser: Vae) -> None:
    spread = PLAN.evaluation.sigma * votes.SENSITIVITY
    assert tally(memoriser, cohorts) < -4 * spread


def test_a_private_decoder_passes_the_same_gate(cohorts: Cohorts, private: Vae) -> None:
    assert tally(private, cohorts) >= 0


def test_the_loss_tells_the_memorisers_patients_and_not_the_private_models(
    cohorts: Cohorts, memoriser: Vae, private: Vae
) -> None:
    found = loss_attack(losses(memoriser, cohorts[0]), losses(memoriser, cohorts[1]))
    assert found.low > 0.8
    kept = loss_attack(losses(private, cohorts[0]), losses(private, cohorts[1]))
    assert kept.low < 0.55
    assert kept.value < found.low
