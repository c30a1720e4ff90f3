"""The options beside plain FedAvg, each through the whole product: hospitals, server, release."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from common.errors import QuorumLost
from common.images.phantoms import public_phantoms
from common.model import denoiser as denoiser_module
from common.model.synthesis import Decoder
from deploy.cli import main
from deploy.release.onnx_export import export
from deploy.simulation.simulate import prepare, start
from server.study.study import Study
from tests.deploy import hospitals
from tests.deploy.test_simulate import fails_in_training, run_with_fault

Tiny = tuple[Path, list[Path]]


def variant(folder: Path, *changes: tuple[str, str]) -> Path:
    """The tiny plan with some of its lines exchanged, in a file."""
    text = hospitals.PLAN.replace("images_per_label = 4", "images_per_label = 0")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def run(tiny: Tiny, folder: Path, *changes: tuple[str, str]) -> Study:
    prepare(variant(folder, *changes), tiny[1], folder / "run", seed=5, workers=1)
    start(folder / "run")
    return Study.resume(folder / "run")


def test_a_study_of_the_decoder_alone_comes_to_a_release_and_no_encoder_ever_leaves(tiny: Tiny, tmp_path: Path) -> None:
    study = run(tiny, tmp_path, ("local_steps = 3", 'local_steps = 3\nfederated = "decoder"'))
    assert not [name for name in study.weights if name.startswith(("encode.", "mu.", "logvar."))]
    decoder = Decoder.load(tmp_path / "run" / "decoder.safetensors")
    assert decoder.digest == Decoder.of(study.plan, study.released).digest
    for home in sorted((tmp_path / "run" / "sites").iterdir()):
        lines = [json.loads(line) for line in (home / "egress.jsonl").read_text().splitlines()]
        sent = {key.split(".")[0] for line in lines if line["kind"] == "train" for key in line["keys"]}
        assert sent == {"release", "decode", "decodeL"}
        assert len(list((home / "encoder" / study.plan.digest).iterdir())) == 2


def test_perceptrons_take_the_place_of_convolutions_from_hospital_to_release(tiny: Tiny, tmp_path: Path) -> None:
    study = run(tiny, tmp_path, ("channels = [4, 8]", "channels = []\nhidden = [32, 16]"))
    assert {record.phase for record in study.records} == {"mean", "subspace", "prior", "sgd"}
    assert study.weights["decode.2.weight"].shape == (28**2, 32)
    assert np.abs(study.weights["decode.2.weight"]).max() > 0  # zero at the start, so that it has learnt
    decoder = Decoder.load(tmp_path / "run" / "decoder.safetensors")
    assert decoder.digest == Decoder.of(study.plan, study.released).digest


CLASSES = ("base = 8", 'base = 8\ncovariance = "class"')


def test_a_covariance_of_each_class_comes_from_hospital_to_release_and_resumes_to_the_same_bytes(
    tiny: Tiny, tmp_path: Path
) -> None:
    own = ("local_steps = 3", 'local_steps = 3\nfederated = "decoder"')
    study = run(tiny, tmp_path, CLASSES, own, ("[release]", "[release]\ntexture = 1.0"))
    assert [record.phase for record in study.records] == ["means", "scatters", "sgd", "sgd"]
    assert study.weights["start.mean"].shape == (2, 28**2)
    decoder = Decoder.load(tmp_path / "run" / "decoder.safetensors")
    assert decoder.digest == Decoder.of(study.plan, study.released).digest
    assert not torch.equal(*(torch.stack(list(decoder.draw(label, 4, seed=1))) for label in decoder.labels))
    assert export(tmp_path / "run", tmp_path / "decoder.onnx")["largest_difference"] < 1e-5
    again = tmp_path / "again"
    prepare(tmp_path / "plan.toml", tiny[1], again, seed=5, workers=1)
    with pytest.raises(QuorumLost):  # two of three sites are lost after the first round
        run_with_fault(again, fails_in_training({0, 1}, after=1))
    start(again)
    assert Decoder.load(again / "decoder.safetensors").digest == decoder.digest


def test_a_denoiser_is_trained_released_and_exported_and_resumes_to_the_same_bytes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser_module, "_STEPS", 3)  # ONNX unrolls the drawing, and takes 3 s for each step
    denoiser = ("channels = [4, 8]", "channels = []\ndenoiser = [4, 8]")
    study = run(tiny, tmp_path, CLASSES, denoiser)
    assert [record.phase for record in study.records] == ["means", "scatters", "sgd", "sgd"]
    assert np.abs(study.weights["refiner.leave.weight"]).max() > 0  # zero at the start, so that it has learnt
    decoder = Decoder.load(tmp_path / "run" / "decoder.safetensors")
    assert decoder.digest == Decoder.of(study.plan, study.released).digest
    assert export(tmp_path / "run", tmp_path / "decoder.onnx")["largest_difference"] < 1e-4
    again = tmp_path / "again"
    prepare(tmp_path / "plan.toml", tiny[1], again, seed=5, workers=1)
    with pytest.raises(QuorumLost):
        run_with_fault(again, fails_in_training({0, 1}, after=1))
    start(again)
    assert Decoder.load(again / "decoder.safetensors").digest == decoder.digest


def test_median_with_momentum_of_nothing_average_and_pull_run_together(tiny: Tiny, tmp_path: Path) -> None:
    training = ("local_steps = 3", "local_steps = 3\nema = 0.5\nproximal = 0.1")
    study = run(tiny, tmp_path, training, ("min_sites = 2", 'min_sites = 3\nstrategy = "median"'))
    assert len(study.records) == 5
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["decoder_digest"] == Decoder.of(study.plan, study.released).digest
    assert card["decoder_digest"] != Decoder.of(study.plan, study.weights).digest
    assert card["warm"] is None


@pytest.mark.flows
def test_public_images_given_on_the_command_line_warm_the_nets(tiny: Tiny, tmp_path: Path) -> None:
    images, labels = public_phantoms(80, size=32)
    np.savez(tmp_path / "public.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    source = hashlib.sha256((tmp_path / "public.npz").read_bytes()).hexdigest()
    warm = f'[warm]\nsource = "{source}"\nsteps = 3\n[privacy]\nphases = ["warm", "moments"]\n'
    plan = variant(tmp_path, ("[privacy]\n", warm))
    options = ["simulate", str(plan), "--out", str(tmp_path / "run"), "--json"]
    options += [word for site in tiny[1] for word in ("--site", str(site))]
    refused = CliRunner().invoke(main, options)
    assert refused.exit_code != 0
    assert "--warm-data" in refused.stderr
    done = CliRunner().invoke(main, [*options, "--warm-data", str(tmp_path / "public.npz")])
    assert done.exit_code == 0, done.stderr
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["warm"]["source"], card["warm"]["epsilon"]) == (source, 0.0)
    rows = list(csv.DictReader((tmp_path / "run" / "rounds.csv").read_text().splitlines()))
    assert [row["phase"] for row in rows] == ["mean", "subspace", "prior"]
