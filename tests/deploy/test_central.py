"""The whole product path, DICOM to checkpoint, against the same computation without a federation."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from client.mechanism.patient_sum import release
from client.mechanism.trainer import PatientTrainer
from client.site.site import Site
from common.model.array_table import PREFIX as START
from common.model.study_model import initial
from common.model.vae import Vae
from common.model.weights import Weights, digest
from common.plan.schedule import schedule
from common.simulation import SimulationSetup
from deploy.data.demo_data import write_demo_hospitals
from deploy.data.tables import LABEL_HEADER, write_labels
from deploy.simulation.simulate import SETUP, prepare, start
from server.mechanism.patient_sum import absorb
from server.study.study import Study
from tests.deploy import hospitals

SEED = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_demo_hospitals(tmp_path_factory.mktemp("central") / "hospitals", patients=(16, 14, 12), seed=3)


@pytest.fixture(scope="module")
def pooled(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hospital that holds the three hospitals' patients."""
    whole = tmp_path_factory.mktemp("pooled") / "everybody"
    lines: list[tuple[str, str, str]] = []
    for folder in folders:
        shutil.copytree(folder, whole / folder.name, ignore=shutil.ignore_patterns("labels.csv"))
        with (folder / "labels.csv").open() as file:
            lines += [(line[0], line[1], line[2]) for line in list(csv.reader(file))[1:]]
    assert len(LABEL_HEADER) == 3
    write_labels(whole / "labels.csv", lines)
    return whole


def plan_file(folder: Path, *, privacy: str = "", training: str = "", model: str = "", averaging: str = "") -> Path:
    text = hospitals.PLAN.replace("min_patients = 20", "min_patients = 8").replace("min_sites = 2", "min_sites = 1")
    text = text.replace("images_per_label = 4", "images_per_label = 0")
    path = folder / "plan.toml"
    added = {"privacy": privacy, "training": training, "model": model, "aggregation": averaging}
    for table, lines in added.items():
        text = text.replace(f"[{table}]\n", f"[{table}]\n{lines}")
    path.write_text(text)
    return path


def study_of(sites: list[Path], run: Path, plan: Path) -> Study:
    prepare(plan, sites, run, seed=SEED, workers=1)
    start(run, workers=1)
    return Study.resume(run)


@pytest.mark.parametrize("components", [1, 2])
def test_sites_without_noise_come_to_what_one_site_with_all_their_patients_does(
    folders: list[Path], pooled: Path, tmp_path: Path, components: int
) -> None:
    """The fewer patients a site may speak for, the finer is the exact sum's grain: here as fine as float32's own."""
    plan = plan_file(tmp_path, privacy='enabled = false\nphases = ["moments"]\n',
                     model=f"components = {components}\n", averaging="max_patients = 100\n")  # fmt: skip
    apart = study_of(folders, tmp_path / "apart", plan)
    whole = study_of([pooled], tmp_path / "whole", plan)
    assert len(apart.joined()) == 3
    assert len(whole.joined()) == 1
    assert apart.plan.digest == whole.plan.digest
    for name, value in whole.weights.items():
        scale = max(1e-3, float(np.abs(value).max()))
        assert float(np.abs(apart.weights[name] - value).max()) <= 1e-5 * scale, name
        if name.startswith(START):
            assert np.abs(value).max() > 0, name


@pytest.mark.parametrize("noise", [True, False])
def test_one_site_comes_to_what_one_computer_without_a_server_does(pooled: Path, tmp_path: Path, noise: bool) -> None:
    """Every phase: messages, ledger, egress, quarantine and the exact sum change nothing of the arithmetic."""
    run = tmp_path / "run"
    # Adam turns the last bit of a gradient of nothing into a whole step; only noise keeps it from that.
    plan = (
        plan_file(tmp_path)
        if noise
        else plan_file(tmp_path, privacy="enabled = false\n", training='optimizer = "sgd"\n')
    )
    study = study_of([pooled], run, plan)
    setup = SimulationSetup.load(run / SETUP)
    site = Site.open(setup.homes[0], simulation_seed=SEED)
    weights, sent = initial(study.plan).arrays(), digest(initial(study.plan).arrays())
    for step, record in zip(schedule(study.plan), study.records, strict=True):
        weights = _central(study, site, record.number, weights, sent)
        sent = record.weights
        assert step.phase == record.phase
    for name, value in study.weights.items():
        scale = max(1e-3, float(np.abs(value).max()))
        assert float(np.abs(weights[name] - value).max()) <= 1e-5 * scale, name


def _central(study: Study, site: Site, number: int, weights: Weights, sent: str) -> Weights:
    """One round by the mechanisms alone, with the draws of the site's own round."""
    plan, step = study.plan, schedule(study.plan)[number - 1]
    random = site.random(plan.digest, number, sent)
    if step.phase != "sgd":
        released = release(plan, step, weights, site.cohort(plan), random)["release"]
        return absorb(plan, step, weights, released.astype(np.float64), sites=1)
    model = Vae(plan)
    model.load_arrays(weights)
    torch.set_num_threads(1)
    PatientTrainer(
        model,
        site.cohort(plan),
        plan=plan,
        event=step.event,
        random=random,
        divisor_patients=plan.data.min_patients,
        device=torch.device("cpu"),
    ).run()
    return model.arrays()
