"""The audit sees what the trainer really does: noise, clip and sampling other than booked leave its stored band."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import scipy.stats
import torch
from click.testing import CliRunner

from client.cli.audit import COMMANDS
from client.mechanism.audit import (
    AuditResult,
    area_under_curve,
    audit,
    epsilon_lower_bound,
    expected_auc,
    p_value,
)
from client.mechanism.randomness import SecureRandom
from common.display.terminal import Commands
from common.errors import PlanError
from common.plan.study_plan import StudyPlan

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = """
name = "audited"
[data]
image_size = 28
[model]
latent = 4
channels = [8, 8]
base = 6
[training]
rounds = 4
local_steps = 10
sample_rate = 0.2
[privacy]
epsilon = 3.0
phases = ["sgd"]
"""
AUC_BAND = (0.62, 0.73)
"""Stored: for seeds 0 to 2 a right trainer gave 0.658 to 0.681, one with a third of the noise 0.872 to 0.895."""


def run(seed: int = 0, *, device: str = "cpu") -> AuditResult:
    return audit(StudyPlan.parse(PLAN), random=SecureRandom.simulated(seed), device=torch.device(device))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_epsilon_3_the_auc_is_in_its_band_and_the_lower_bound_below_the_claim(seed: int) -> None:
    found = run(seed)
    assert (found.canaries, found.steps) == (1000, 40)
    assert found.claimed_epsilon == pytest.approx(3.0, abs=0.02)
    assert AUC_BAND[0] < found.auc < AUC_BAND[1]
    assert 0 < found.lower_bound < 1.5 < found.claimed_epsilon
    assert found.measured_sigma == pytest.approx(found.sigma, rel=0.03)
    assert found.faults == []


def scaled_noise(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Make the trainer's only source of noise draw less than it is asked for."""
    original: Callable[..., np.ndarray] = SecureRandom.normal
    monkeypatch.setattr(SecureRandom, "normal", lambda self, shape, *, std: original(self, shape, std=std * factor))


def test_noise_cut_to_a_third_leaves_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_noise(monkeypatch, 1 / 3)
    found = run()
    assert found.auc > AUC_BAND[1] + 0.1
    assert found.measured_sigma == pytest.approx(found.sigma / 3, rel=0.03)
    assert len(found.faults) >= 2


def test_noise_cut_by_a_tenth_is_seen_in_the_coordinates_without_a_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_noise(monkeypatch, 0.9)
    assert any("noise multiplier" in fault for fault in run().faults)


def test_noise_cut_to_a_tenth_breaks_the_claim_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_noise(monkeypatch, 0.1)
    found = run()
    assert found.lower_bound > found.claimed_epsilon
    assert found.auc > 0.99
    assert len(found.faults) == 3


def test_drawing_every_patient_at_each_step_leaves_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecureRandom, "poisson_sample", lambda _self, population, *, rate: np.arange(population))
    found = run()
    assert found.auc > AUC_BAND[1] + 0.1
    assert any("AUC" in fault for fault in found.faults)


def test_a_plan_with_nothing_to_audit_is_refused() -> None:
    for change in (('phases = ["sgd"]', 'phases = ["moments"]'), ("[privacy]", "[privacy]\nenabled = false")):
        with pytest.raises(PlanError, match="no noised gradient phase"):
            audit(StudyPlan.parse(PLAN.replace(*change)), random=SecureRandom.simulated(0), device=torch.device("cpu"))


def test_more_canaries_than_half_the_model_are_not_used() -> None:
    plan = StudyPlan.parse(PLAN.replace("sample_rate = 0.2", "sample_rate = 0.01"))
    found = audit(plan, random=SecureRandom.simulated(0), device=torch.device("cpu"), canaries=1_000_000)
    assert 1000 < found.canaries < 100_000


def slow_p_value(m: int, r: int, v: int, eps: float, delta: float) -> float:
    """The published code, number by number."""
    q = 1 / (1 + math.exp(-eps))
    alpha = total = 0.0
    for i in range(1, v + 1):
        total += scipy.stats.binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    return min(float(scipy.stats.binom.sf(v - 1, r, q)) + alpha * delta * 2 * m, 1.0)


@pytest.mark.parametrize(
    ("m", "r", "v", "eps", "delta"),
    [(400, 300, 300, 4.0, 1e-5), (1000, 100, 71, 0.8, 1e-5), (200, 200, 120, 0.1, 1e-3), (50, 10, 0, 1.0, 1e-5)],
)
def test_p_value_is_the_published_one(m: int, r: int, v: int, eps: float, delta: float) -> None:
    assert p_value(m, r, v, epsilon=eps, delta=delta) == pytest.approx(slow_p_value(m, r, v, eps, delta), rel=1e-9)


def test_perfect_guesses_prove_a_large_epsilon_and_blind_ones_none() -> None:
    present = np.arange(1000) % 2 == 0
    assert epsilon_lower_bound(present.astype(float), present, delta=1e-5) == pytest.approx(4.9, abs=0.3)
    blind = np.random.default_rng(0).normal(size=1000)
    assert epsilon_lower_bound(blind, present, delta=1e-5) == 0.0


def test_the_bound_is_wrong_in_at_most_one_of_twenty_runs() -> None:
    """Randomised response of epsilon 1 on every canary: the bound may pass 1 rarely, and must come near it."""
    random = np.random.default_rng(5)
    keep = math.e / (1 + math.e)
    bounds = []
    for _ in range(60):
        present = random.random(1000) < 0.5
        scores = np.where(random.random(1000) < keep, present, ~present) + 1e-3 * random.random(1000)
        bounds.append(epsilon_lower_bound(scores, present, delta=1e-9))
    assert sum(bound > 1 for bound in bounds) <= 5
    assert np.mean(bounds) > 0.6


def test_area_under_curve_of_right_wrong_and_blind_scores() -> None:
    present = np.array([True, True, False, False])
    assert area_under_curve(np.array([3.0, 4, 1, 2]), present) == 1.0
    assert area_under_curve(np.array([1.0, 2, 3, 4]), present) == 0.0
    assert area_under_curve(np.zeros(4), present) == area_under_curve(np.zeros(4), ~(present ^ present)) == 0.5


def test_expected_auc_is_what_the_mechanism_itself_shows() -> None:
    random = np.random.default_rng(1)
    inside = random.binomial(20, 0.05, 20_000) + random.normal(0, 0.67 * math.sqrt(20), 20_000)
    outside = random.normal(0, 0.67 * math.sqrt(20), 20_000)
    found = area_under_curve(np.concatenate([inside, outside]), np.arange(40_000) < 20_000)
    assert expected_auc(sigma=0.67, rate=0.05, steps=20) == pytest.approx(found, abs=0.01)
    assert expected_auc(sigma=1e9, rate=0.1, steps=10) == pytest.approx(0.5)


def command(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "site.toml").write_text('name = "north"\n[resources]\ndevice = "cpu"\nthreads = 1\n')
    group = Commands(name="site", commands={c.name: c for c in COMMANDS if isinstance(c, click.Command) and c.name})
    done = CliRunner().invoke(group, ["audit", str(tmp_path / "plan.toml"), "--home", str(tmp_path), *arguments])
    return done.exit_code, done.stdout


def test_the_command_prints_the_bound_beside_the_claim_and_touches_nothing(tmp_path: Path) -> None:
    code, text = command(tmp_path)
    assert code == 0
    assert "claimed 2.99" in text
    assert "by experiment (95 %)" in text
    assert "Nothing here contradicts the claim" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.toml", "site.toml"]


def test_the_command_fails_where_the_claim_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_noise(monkeypatch, 0.1)
    code, text = command(tmp_path, "--json", "--canaries", "500")
    assert code == 5
    assert len(json.loads(text)["faults"]) == 3
