"""The advice follows from public numbers, fits the plan it is given, and knows when gradients only add noise."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from common.display.terminal import Commands
from common.mechanism.registry import sensitivity
from common.plan.schedule import schedule, whole_cost
from common.plan.study_plan import StudyPlan
from deploy.planning import planner_advice
from deploy.planning.planner import signal_to_noise
from deploy.planning.planner_advice import advise
from deploy.planning.planner_cli import COMMANDS
from server.model.shrinkage import falling
from tests.benchmarks.quality_plans import EXAMPLES, PLANS

PLAN = """
name = "tiny"
[data]
image_size = 32
labels = ["normal", "lesion"]
min_patients = 10
[model]
channels = [4, 8]
base = 8
[training]
rounds = 4
local_steps = 3
sample_rate = 1.0
"""
STUDY = StudyPlan.parse(PLAN)
"""Everybody is drawn at every step, which the accountant works out fastest."""


def with_epsilon(epsilon: float, plan: StudyPlan = STUDY) -> StudyPlan:
    return dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, epsilon=epsilon))


def moments_of(plan: StudyPlan) -> StudyPlan:
    """The plan without its gradient rounds, which the accountant then need not work out."""
    return dataclasses.replace(
        plan,
        training=dataclasses.replace(plan.training, rounds=0),
        privacy=dataclasses.replace(plan.privacy, phases=("moments",)),
    )


def merged(plan: str, snippet: str) -> StudyPlan:
    """The plan with the proposed lines in place of its own tables of those names."""
    head = plan.replace("[model]\nchannels = [4, 8]\nbase = 8\n", "")
    return StudyPlan.parse(head + snippet.replace("[model]", "[model]\nchannels = [4, 8]"))


@pytest.mark.parametrize(("patients", "sites"), [(30, 1), (400, 3), (20_000, 10)])
def test_the_proposed_lines_are_a_plan_of_the_same_epsilon(patients: int, sites: int) -> None:
    found = advise(STUDY, patients=patients, sites=sites)
    assert found is not None
    plan = merged(PLAN, found.toml())
    assert whole_cost(plan) == pytest.approx(STUDY.privacy.epsilon, rel=0.01)
    assert whole_cost(plan) <= STUDY.privacy.epsilon
    assert (plan.model.latent, plan.model.base, plan.privacy.phases) == (found.latent, found.base, found.phases)
    assert found.latent < found.base**2


def test_moments_alone_where_a_full_agreement_of_everybody_drowns_in_the_gradients_noise() -> None:
    for patients, phases in ((60, ("moments",)), (20_000, ("moments", "sgd"))):
        found = advise(STUDY, patients=patients, sites=2)
        assert found is not None
        assert found.phases == phases
        assert (found.gradient_ratio >= 4) is ("sgd" in phases)
        plan = merged(PLAN, found.toml() if "sgd" in phases else found.toml().replace('"moments"', '"moments", "sgd"'))
        plan = dataclasses.replace(plan, model=STUDY.model)  # the ratio is that of the plan's own nets
        whole = signal_to_noise(plan, schedule(plan)[-1], patients) * math.sqrt(4 * 2)
        assert (whole >= 4) is ("sgd" in phases)


def test_more_patients_sites_or_epsilon_never_shrink_what_is_proposed() -> None:
    sizes = [
        (found.latent, found.base)
        for plan, patients, sites in (
            (with_epsilon(1), 200, 1),
            (with_epsilon(1), 200, 4),
            (with_epsilon(1), 2000, 4),
            (with_epsilon(8), 2000, 4),
            (with_epsilon(8), 60_000, 4),
        )
        if (found := advise(plan, patients=patients, sites=sites)) is not None
    ]
    assert len(sizes) == 5
    assert [base for _, base in sizes] == sorted(base for _, base in sizes)
    assert [latent for latent, _ in sizes] == sorted(latent for latent, _ in sizes)
    assert sizes[0] < sizes[-1]
    assert sizes[-1] == (64, 32)


@pytest.mark.parametrize(
    ("file", "epsilon", "patients", "sites"),
    [
        (PLANS / "fashion-mnist.toml", 1.0, 60_000, 1),
        (PLANS / "fashion-mnist.toml", 10.0, 60_000, 1),
        (EXAMPLES / "pneumonia.toml", 8.0, 1177, 4),
    ],
)
def test_the_latents_proposed_for_public_images_are_near_those_of_the_plans_that_scored_best(
    file: Path, epsilon: float, patients: int, sites: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_advice, "_OWN", math.inf)  # those plans have one set of directions for all classes
    plan = moments_of(StudyPlan.load(file))
    found = advise(with_epsilon(epsilon, plan), patients=patients, sites=sites)
    assert found is not None
    assert 0.9 <= found.latent / plan.model.latent <= 1.5


@pytest.mark.parametrize(
    ("file", "epsilon", "patients", "sites", "covariance"),
    [
        (EXAMPLES / "mednist.toml", 8.0, 7866, 3, "class"),
        (EXAMPLES / "mednist.toml", 8.0, 1200, 1, "class"),
        (EXAMPLES / "pneumonia.toml", 1.0, 470, 10, "shared"),
    ],
)
def test_a_covariance_of_each_class_is_proposed_where_it_scored_better(
    file: Path, epsilon: float, patients: int, sites: int, covariance: str
) -> None:
    plan = with_epsilon(epsilon, moments_of(StudyPlan.load(file)))
    found = advise(plan, patients=patients, sites=sites)
    assert found is not None
    assert found.covariance == covariance
    assert ('covariance = "class"' in found.toml()) is (covariance == "class")
    assert any("its own mean and covariance" in reason for reason in found.reasons) is (covariance == "class")
    grouped = dataclasses.replace(plan, model=dataclasses.replace(plan.model, components=4))
    assert advise(grouped, patients=patients, sites=sites).covariance == "shared"  # type: ignore[union-attr]


def test_a_variance_of_the_last_latent_proposed_is_kept_and_one_far_behind_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planner_advice, "_OWN", math.inf)
    plan = moments_of(STUDY)
    found = advise(plan, patients=1000, sites=2)
    assert found is not None
    assert 8 <= found.latent < 60
    step = schedule(plan)[-1]
    total = sensitivity(plan, "prior") * step.event.sigma * math.sqrt(2 * 2)  # of two sites and two classes
    variances = 0.5 * np.arange(1, 61) ** -1.5
    noise = np.random.default_rng(0).normal(size=(400, 60)) * total / 2000
    kept = np.mean([falling(variances + one, total / 2000) > 0 for one in noise], axis=0)
    assert kept[found.latent - 1] > 0.5
    assert kept[-1] < 0.5


def test_a_cohort_that_is_too_small_for_a_start_is_told_so() -> None:
    found = advise(with_epsilon(0.5), patients=100, sites=1)
    assert found is not None
    assert any("more patients or sites help most" in reason for reason in found.reasons)


def test_a_warm_phase_stays_and_a_plan_without_noise_needs_no_advice() -> None:
    warm = StudyPlan.parse(PLAN + '[privacy]\nphases = ["warm", "moments", "sgd"]\n')
    found = advise(warm, patients=60, sites=2)
    assert found is not None
    assert found.phases == ("warm", "moments")
    assert advise(StudyPlan.parse(PLAN + "[privacy]\nenabled = false\n"), patients=60, sites=2) is None


def test_the_command_prints_lines_to_copy_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    group = Commands(name="plan", commands={c.name: c for c in COMMANDS if c.name})
    options = ["budget", str(tmp_path / "plan.toml"), "--no-calibrate", "--patients", "60"]
    shown = CliRunner().invoke(group, options)
    assert 'phases = ["moments"]' in shown.stdout
    assert "proposed for 2 sites of 60 patients" in shown.stdout
    assert "add little but noise" in shown.stdout
    one = json.loads(CliRunner().invoke(group, [*options, "--sites", "1", "--json"]).stdout)
    assert one["advice"]["sites"] == 1
    assert one["advice"]["toml"].startswith("[model]\nlatent = ")
