"""FedProx draws each step back to where the round started, after the clip and the noise, from public values alone."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.cohort.cache import Cache
from client.mechanism.randomness import SecureRandom
from client.mechanism.trainer import PatientTrainer
from common.accountant.accounting import GaussianEvent
from common.model.study_model import initial
from tests.client.cohorts import small_cohort, small_plan

pytestmark = pytest.mark.usefixtures("one_thread")

MU, RATE = 4.0, 0.05


def trainer(cache: Cache, proximal: float, *, sample_rate: float = 0.5) -> PatientTrainer:
    plan = small_plan(optimizer="sgd", learning_rate=RATE)
    model = initial(plan)
    changed = dataclasses.replace(plan, training=dataclasses.replace(plan.training, proximal=proximal))
    event = GaussianEvent(sigma=3.0, sample_rate=sample_rate, steps=4)
    random, device = SecureRandom.simulated(11), torch.device("cpu")
    return PatientTrainer(model, cache, plan=changed, event=event, random=random, divisor_patients=8, device=device)


def weights(of: PatientTrainer) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in of.model.parameters() if p.requires_grad])


def path(of: PatientTrainer) -> list[Tensor]:
    """The weights before the first step and after each one."""
    points = [weights(of)]
    for _ in range(4):
        of.step()
        points.append(weights(of))
    return points


def test_each_step_is_drawn_back_by_mu_times_its_distance_from_the_start(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path)
    free, drawn = (path(trainer(cache, mu, sample_rate=1e-9)) for mu in (0.0, MU))  # nobody: steps on noise alone
    assert torch.equal(free[1], drawn[1])
    point = drawn[0]
    for step in range(4):
        point = point + (free[step + 1] - free[step]) - RATE * MU * (point - drawn[0])
        assert float((drawn[step + 1] - point).norm() / (point - drawn[0]).norm()) < 1e-5
    assert float((drawn[4] - drawn[0]).norm()) < float((free[4] - free[0]).norm())


def test_the_pull_enters_neither_the_clip_nor_the_sum_that_is_noised(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path)
    sums = []
    for mu in (0.0, 100.0 * RATE):
        of = trainer(cache, mu)
        with torch.no_grad():
            for parameter in of.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)  # far from where the round started
        of.accumulate(list(range(8)))
        sums.append(torch.cat([p.summed_grad.flatten() for p in of.model.parameters() if p.requires_grad]))
    assert torch.equal(sums[0], sums[1])
    assert float(sums[0].norm()) <= 8.0 * (1 + 1e-6)
