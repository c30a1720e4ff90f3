"""What a simulation's release shows beyond the sites' figures: attacks that find what is there, and reasons by type."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from client.cohort.identity import site_secret
from common.errors import PlanError
from common.model.study_model import encoder_arrays, initial
from common.plan.study_plan import StudyPlan
from common.simulation import SimulationSetup
from common.wire.not_run import NotRun, not_run
from deploy.simulation import shadows
from deploy.simulation.evidence import canary_audit, membership
from deploy.simulation.shadows import Pool, attack
from server.report.evaluation import not_run_text
from tests.client import hospitals
from tests.client.cohorts import small_cohort

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = """
name = "shadowed"
[data]
image_size = 28
labels = ["no", "yes"]
min_patients = 10
[model]
latent = 12
channels = [8, 8]
base = 8
observation_std = 0.05
[training]
rounds = 2
local_steps = 5
sample_rate = 0.2
[evaluation]
held_out_share = 0.5
[privacy]
"""


def plan(privacy: str) -> StudyPlan:
    return StudyPlan.parse(PLAN + privacy)


def pools(folder: Path, study: StudyPlan, *, patients: int) -> list[Pool]:
    """Two sites; every other patient trained the model that is attacked."""
    found = []
    for seed, name in enumerate(("north", "south")):
        cache = small_cohort(folder / name, patients=patients, images=1, plan=study, seed=seed)
        members = np.arange(patients) % 2 == 0
        found.append(Pool(name, cache, members, site_secret(folder / name)))
    return found


def attacked(folder: Path, study: StudyPlan, *, patients: int) -> dict[str, dict[str, dict[str, float]]]:
    sites = pools(folder, study, patients=patients)
    members = np.concatenate([pool.members for pool in sites])
    target = shadows._train(study, initial(study).arrays(), sites, members, seed=99)
    return attack(study, target, sites, shadows=8, seed=1)


def test_lira_finds_who_trained_a_closed_form_without_noise_and_not_one_at_epsilon_3(tmp_path: Path) -> None:
    bare = attacked(tmp_path / "bare", plan('phases = ["moments"]\nenabled = false\n'), patients=40)
    assert set(bare) == {"all", "north", "south"}
    assert bare["all"]["lira_auc"]["low"] > 0.65
    assert bare["all"]["loss_auc"]["low"] > 0.65
    assert bare["all"]["patients"] == {"trained": 40, "held_out": 40}
    private = attacked(tmp_path / "private", plan('phases = ["moments"]\nepsilon = 3\n'), patients=300)
    assert private["all"]["lira_auc"]["low"] < 0.55
    assert private["all"]["lira_auc"]["value"] < 0.6


def test_every_patient_is_in_half_of_the_shadows(tmp_path: Path) -> None:
    halves = np.stack(list(shadows._halves(pools(tmp_path, plan('phases = ["moments"]\n'), patients=21), 6, seed=3)))
    assert halves.shape == (6, 42)
    assert (halves.sum(0) == 3).all()
    assert set(halves[:, :21].sum(1)) == {10, 11}


def test_an_odd_number_of_shadows_is_refused(tmp_path: Path) -> None:
    study = plan('phases = ["moments"]\n')
    with pytest.raises(PlanError, match="even number"):
        attack(study, initial(study).arrays(), pools(tmp_path, study, patients=12), shadows=3, seed=0)


def test_the_audit_is_of_the_plans_own_mechanism_and_the_same_for_the_same_seed() -> None:
    study = plan("epsilon = 8\n")
    first = canary_audit(study, seed=5, canaries=300)
    assert first["ran"]
    assert first["canaries"] == 300
    assert first["steps"] == study.training.rounds * study.training.local_steps
    assert 0 <= first["lower_bound"] < first["claimed_epsilon"] < study.privacy.epsilon
    assert first["confidence"] == 0.95
    assert first["faults"] == []
    assert math.isclose(first["measured_sigma"], first["sigma"], rel_tol=0.05)
    assert canary_audit(study, seed=5, canaries=300) == first


@pytest.mark.parametrize(
    ("privacy", "canaries", "reason"),
    [
        ("", 0, NotRun.SWITCHED_OFF),
        ("enabled = false\n", 100, NotRun.NO_NOISE),
        ('phases = ["moments"]\n', 100, NotRun.NO_GRADIENT_PHASE),
    ],
)
def test_an_audit_that_was_not_run_says_why_by_type(privacy: str, canaries: int, reason: NotRun) -> None:
    assert canary_audit(plan(privacy), seed=0, canaries=canaries) == {"ran": False, "reason": reason.value}


@pytest.mark.parametrize(
    ("change", "count", "reason"),
    [
        ("", 0, NotRun.SWITCHED_OFF),
        ("held_out_share = 0.5", 2, NotRun.NOBODY_SET_ASIDE),
        ('phases = ["sgd"]\n', 2, NotRun.NO_CLOSED_FORM),
    ],
)
def test_an_attack_that_was_not_run_says_why_by_type(change: str, count: int, reason: NotRun) -> None:
    text = PLAN.replace(change, "") if change in PLAN else PLAN + change
    study, setup = StudyPlan.parse(text), SimulationSetup(seed=0, homes=())
    assert membership(study, initial(study).arrays(), setup, shadows=count) == not_run(reason)


def test_an_attack_on_a_simulations_sites_names_each_and_all_with_intervals(tmp_path: Path) -> None:
    study = hospitals.tiny_plan("[evaluation]\nheld_out_share = 0.4\n", "[privacy]\nenabled = false\n")
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        hospitals.set_policy(tmp_path / name)
        rules = tmp_path / name / "site.toml"
        rules.write_text(rules.read_text().replace('"north"', f'"{name}"'))
        hospitals.fill_cache(tmp_path / name, study, [f"P{i}" for i in range(30)])
    setup = SimulationSetup(seed=1, homes=(tmp_path / "north", tmp_path / "south"))
    found = membership(study, initial(study).arrays(), setup, shadows=4)
    assert (found["ran"], found["shadows"], found["kind"]) == (True, 4, shadows.KIND)
    assert set(found["sites"]) == {"all", "north", "south"}
    for figures in found["sites"].values():
        assert all(0 <= figures[a]["low"] <= figures[a]["high"] <= 1 for a in ("lira_auc", "loss_auc"))
    parts = [found["sites"][name]["patients"] for name in ("north", "south", "all")]
    assert parts[0]["trained"] + parts[1]["trained"] == parts[2]["trained"] == 60 - parts[2]["held_out"]
    assert json.loads(json.dumps(found)) == found


def test_a_model_whose_encoder_stays_at_the_sites_is_attacked_with_the_plans_own(tmp_path: Path) -> None:
    study = StudyPlan.parse(PLAN.replace("[training]", '[training]\nfederated = "decoder"') + "enabled = false\n")
    sites, whole = pools(tmp_path, study, patients=60), initial(study).arrays()
    shared = {name: array for name, array in whole.items() if name not in encoder_arrays(study, whole)}
    assert attack(study, shared, sites, shadows=2, seed=0) == attack(study, whole, sites, shadows=2, seed=0)


def test_every_reason_has_words_and_what_is_none_is_not_repeated() -> None:
    assert len({reason.meaning for reason in NotRun}) == len(NotRun)
    assert not_run_text("<script>") == "No reason is given."
