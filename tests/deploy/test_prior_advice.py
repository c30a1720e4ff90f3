"""Where public images are given, the planner proposes the prior that reads moments along their directions."""

import dataclasses

import pytest

from common.plan.schedule import whole_cost
from common.plan.study_plan import StudyPlan
from deploy.planning.planner_advice import advise
from deploy.planning.prior_advice import Prior

SOURCE = "ab" * 32
PLAN = """
name = "tiny"
[data]
image_size = 32
labels = ["normal", "lesion"]
min_patients = 10
[training]
rounds = 2
local_steps = 1
sample_rate = 1.0
"""
NAMED = PLAN + f'[warm]\nsource = "{SOURCE}"\n[privacy]\nphases = ["warm", "moments"]\n'


def proposed(text: str, *, patients: int = 711, sites: int = 4, epsilon: float = 8.0) -> Prior | None:
    plan = StudyPlan.parse(text)
    plan = dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, epsilon=epsilon))
    found = advise(plan, patients=patients, sites=sites)
    assert found is not None
    return found.prior


def test_the_proposed_lines_are_a_plan_with_a_prior_of_the_same_epsilon() -> None:
    found = advise(StudyPlan.parse(NAMED), patients=711, sites=4)
    assert found is not None
    plan = StudyPlan.parse(PLAN + found.toml())
    assert plan.warm.studies > 0
    assert plan.warm.source == SOURCE
    assert (plan.warm.directions, plan.model.latent, plan.warm.patients) == (64, 64, 4 * 711)
    assert plan.privacy.phases == found.phases == ("warm", "moments")
    assert whole_cost(plan) <= StudyPlan.parse(NAMED).privacy.epsilon


def test_more_noise_leaves_fewer_directions() -> None:
    found = [proposed(NAMED, patients=patients, epsilon=epsilon) for patients, epsilon in
             ((150, 2.0), (711, 2.0), (711, 8.0), (20_000, 8.0))]  # fmt: skip
    directions = [prior.directions for prior in found if prior is not None]
    assert len(directions) == 4
    assert directions == sorted(directions)
    assert directions[0] < directions[2] < directions[3]


@pytest.mark.parametrize(
    "text",
    [
        PLAN,
        NAMED.replace(f'source = "{SOURCE}"', 'source = "phantoms"'),
        NAMED.replace('labels = ["normal", "lesion"]\n', ""),
        NAMED.replace("[training]", "[model]\ncomponents = 2\n[training]"),
    ],
)
def test_no_prior_is_proposed_where_there_are_no_public_images_or_it_could_not_be(text: str) -> None:
    assert proposed(text) is None


def test_a_plan_without_public_images_is_told_what_they_would_buy() -> None:
    found = advise(StudyPlan.parse(PLAN), patients=711, sites=4)
    assert found is not None
    assert any("would buy a prior" in reason for reason in found.reasons)
    named = advise(StudyPlan.parse(NAMED), patients=711, sites=4)
    assert named is not None
    assert not any("would buy" in reason for reason in named.reasons)
    assert any("no image of them may be of a patient" in reason for reason in named.reasons)
