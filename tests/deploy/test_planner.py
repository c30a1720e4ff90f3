"""The planner states the schedule as it is, a signal-to-noise that an experiment confirms, and what changes buy."""

import dataclasses
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from client.mechanism.randomness import SecureRandom
from common.accountant.accounting import GaussianEvent
from common.display.terminal import Commands
from common.mechanism.moments import triangle, unpack_matrix
from common.mechanism.registry import release_length, sensitivity
from common.mechanism.sgd import trained_values
from common.plan.schedule import Phase, Round, schedule
from common.plan.study_plan import StudyPlan
from deploy.planning import planner_plot
from deploy.planning.calibration import Calibration, calibrate
from deploy.planning.planner import forecast, signal_to_noise
from deploy.planning.planner_cli import COMMANDS

PLAN = """
name = "tiny"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 10
[model]
latent = 8
channels = [4, 8]
base = 8
[training]
rounds = 4
local_steps = 3
sample_rate = 1.0
"""
STUDY = StudyPlan.parse(PLAN)
"""Everybody is drawn at every step, which the accountant works out fastest."""
PATIENTS = 500


BY_CLASS = StudyPlan.parse(PLAN.replace("base = 8\n", 'base = 8\ncovariance = "class"\n'))


def planned(phase: Phase) -> StudyPlan:
    return BY_CLASS if phase in ("means", "scatters") else STUDY


def step_of(phase: Phase) -> Round:
    return next(step for step in schedule(planned(phase)) if step.phase == phase)


def noise(step: Round) -> np.ndarray:
    random, plan = SecureRandom.simulated(1, step.number), planned(step.phase)
    deviation = step.event.sigma * sensitivity(plan, step.phase)
    return random.normal((release_length(plan, step.phase),), std=deviation)


def noise_norm(phase: Phase) -> float:
    """Norm of one draw of the real noise, as the phase's estimate sees it."""
    step = step_of(phase)
    if phase == "mean":
        return float(np.linalg.norm(noise(step)[: STUDY.model.base**2]))
    if phase == "means":
        return float(np.linalg.norm(noise(step)[: STUDY.data.image_size**2]))
    size = STUDY.model.latent if phase == "prior" else STUDY.model.base**2
    return float(np.linalg.norm(unpack_matrix(noise(step)[: triangle(size)], size), ord=2))


def test_rounds_are_those_of_the_schedule() -> None:
    found = forecast(STUDY, patients=PATIENTS)
    assert [(r.number, r.phase, r.sigma, r.epsilon_after) for r in found.rounds] == [
        (s.number, s.phase, s.event.sigma, s.epsilon_after) for s in schedule(STUDY)
    ]


@pytest.mark.parametrize(
    ("phase", "agreement"),
    [
        ("mean", PATIENTS * STUDY.privacy.mean_clip),
        ("subspace", PATIENTS),
        ("prior", PATIENTS / 2),
        ("means", PATIENTS / 2 * STUDY.privacy.mean_clip),
        ("scatters", PATIENTS / 2),
    ],
)
def test_signal_to_noise_of_a_moments_round_is_what_an_experiment_shows(phase: Phase, agreement: float) -> None:
    expected = signal_to_noise(planned(phase), step_of(phase), PATIENTS)
    assert agreement / noise_norm(phase) == pytest.approx(expected, rel=0.3)


def test_signal_to_noise_of_a_gradient_round_is_what_an_experiment_shows() -> None:
    event = GaussianEvent(sigma=1.3, sample_rate=0.2, steps=3)
    step, clip = dataclasses.replace(step_of("sgd"), event=event), STUDY.privacy.clip_norm
    noise_sum = sum(
        SecureRandom.simulated(2, i).normal((trained_values(STUDY),), std=step.event.sigma * clip)
        for i in range(step.event.steps)
    )
    agreement = step.event.steps * step.event.sample_rate * PATIENTS * clip
    expected = signal_to_noise(STUDY, step, PATIENTS)
    assert agreement / np.linalg.norm(noise_sum) == pytest.approx(expected, rel=0.02)


def test_relative_error_belongs_to_the_moments_and_is_the_inverse() -> None:
    found = forecast(STUDY, patients=PATIENTS)
    for entry in found.rounds:
        if entry.phase == "sgd":
            assert entry.relative_error is None
        else:
            assert entry.relative_error == pytest.approx(1 / entry.signal_to_noise)


def test_a_larger_cohort_fewer_rounds_and_a_larger_epsilon_are_set_against_the_plan() -> None:
    planned, twice, half, dearer = forecast(STUDY, patients=PATIENTS).alternatives
    assert (twice.patients, half.rounds) == (2 * PATIENTS, 2)
    assert twice.first_ratio == pytest.approx(2 * planned.first_ratio)
    assert twice.whole_ratio == pytest.approx(2 * planned.whole_ratio)
    assert half.sigma < planned.sigma
    assert half.whole_ratio < planned.whole_ratio
    assert dearer.epsilon == pytest.approx(10, abs=0.02)
    assert dearer.whole_ratio > planned.whole_ratio


def test_run_time_follows_the_calibration() -> None:
    seen = Calibration(
        step_seconds=0.5,
        patient_seconds=0.01,
        moment_seconds={"mean": 0.001, "subspace": 0.002, "prior": 0.003},
        memory_bytes=2**30,
        threads=2,
    )
    found = forecast(STUDY, patients=PATIENTS, calibration=seen)
    assert found.seconds == pytest.approx(PATIENTS * 0.006 + 12 * (0.5 + PATIENTS * 0.01))
    assert forecast(STUDY, patients=PATIENTS).seconds is None


def test_a_calibration_runs_the_real_code_and_reports_what_it_saw() -> None:
    seen = calibrate(STUDY)
    assert seen.step_seconds > 0
    assert seen.patient_seconds >= 0
    assert set(seen.moment_seconds) == {"mean", "subspace", "prior"}
    assert all(seconds > 0 for seconds in seen.moment_seconds.values())
    assert seen.memory_bytes > 50 * 2**20


def test_a_plan_without_noise_has_no_ratio_and_no_alternative_epsilon() -> None:
    plan = StudyPlan.parse(PLAN + "[privacy]\nenabled = false\n")
    found = forecast(plan, patients=PATIENTS)
    assert all(entry.signal_to_noise == math.inf for entry in found.rounds)
    plain = json.dumps(found.to_dict(), allow_nan=False)
    assert '"signal_to_noise": null' in plain
    assert not any(alternative.change.startswith("epsilon") for alternative in found.alternatives)


def command(tmp_path: Path, *arguments: str) -> Result:
    (tmp_path / "plan.toml").write_text(PLAN)
    group = Commands(name="plan", commands={c.name: c for c in COMMANDS if c.name})
    return CliRunner().invoke(group, ["budget", str(tmp_path / "plan.toml"), "--no-calibrate", *arguments])


def test_the_command_prints_rounds_alternatives_and_what_was_not_measured(tmp_path: Path) -> None:
    done = command(tmp_path, "--patients", "500")
    assert done.exit_code == 0
    for words in ("tiny: one hospital of 500 patients", "subspace", "twice the patients", "not measured"):
        assert words in done.stdout


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    done = command(tmp_path, "--patients", "500", "--json")
    result = json.loads(done.stdout)
    own = forecast(STUDY, patients=500).to_dict()
    assert result == own | {"rounds": result["rounds"], "advice": result["advice"], "sharing": None}
    assert len(result["rounds"]) == 7


def test_the_plot_is_an_svg_that_is_the_same_each_time(tmp_path: Path) -> None:
    done = command(tmp_path, "--patients", "500", "--plot", str(tmp_path / "one.svg"))
    assert "one.svg" in done.stdout
    planner_plot.draw(forecast(STUDY, patients=500), tmp_path / "two.svg")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert ElementTree.fromstring(one).tag.endswith("svg")
    assert b"Signal to noise, 500 patients" in one


def test_an_epsilon_too_small_for_the_plan_ends_with_the_plans_exit_code(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN + "[privacy]\nepsilon = 0.000001\n")
    group = Commands(name="plan", commands={c.name: c for c in COMMANDS if c.name})
    done = CliRunner().invoke(group, ["budget", str(tmp_path / "plan.toml"), "--patients", "9", "--no-calibrate"])
    assert done.exit_code == 3
    assert "too small" in done.stderr
