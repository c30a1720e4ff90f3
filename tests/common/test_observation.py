"""Observation noise is white, of the plan's deviation, repeatable, and changes no byte where a plan asks for none."""

import dataclasses

import pytest
import torch

from common.errors import PlanError
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan

PLAN = StudyPlan.parse('name = "drawn"\n[data]\nimage_size = 28\n[model]\nlatent = 2\nchannels = [4, 8]\nbase = 4\n')


def decoder(observation: float) -> Decoder:
    release = dataclasses.replace(PLAN.release, observation=observation)
    return Decoder.of(dataclasses.replace(PLAN, release=release), initial(PLAN).arrays())


def drawn(observation: float, count: int = 100, seed: int = 1) -> torch.Tensor:
    return torch.stack(list(decoder(observation).draw("any", count, seed=seed)))


def test_each_pixel_varies_around_the_mean_by_the_deviation_on_its_own() -> None:
    added = drawn(0.1, 500) - drawn(0.0, 500)  # an untrained decoder knows one image, far from black and white
    assert float(added.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(added.mean())) < 0.001
    beside = (added[:, :, 1:] * added[:, :, :-1]).mean() / 0.1**2
    assert abs(float(beside)) < 0.02


def test_a_seed_gives_the_same_noise_and_a_longer_draw_begins_with_the_shorter_one() -> None:
    assert torch.equal(drawn(0.1, 130)[:70], drawn(0.1, 70))
    assert not torch.equal(drawn(0.1, 10), drawn(0.1, 10, seed=2))
    assert float(drawn(1.0, 10).abs().max()) <= 1


@pytest.mark.parametrize("value", ["-0.1", "1.5"])
def test_a_deviation_outside_the_grey_scale_is_refused(value: str) -> None:
    with pytest.raises(PlanError, match=r"`release\.observation`"):
        StudyPlan.parse(f'name = "a"\n[release]\nobservation = {value}\n')
