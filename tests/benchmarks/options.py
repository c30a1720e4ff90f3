"""What each option beside plain averaging does to PneumoniaMNIST over several sites at epsilon 8. Run by hand.

    python -m tests.benchmarks.options [--sites 4] [--seeds 3] [--only WORD ...]

Prints one row for each option on the plan of deploy/examples/pneumonia.toml: the AUC, on the real test images, of a
classifier trained on synthetic ones, mean and range over the seeds; the error of redrawing public phantoms, which cost
no budget; the largest epsilon that a site's ledger shows. The train part of the PneumoniaMNIST used
here is a rebuilt file: its images are the official ones, their order is not.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.model.synthesis import Decoder
from deploy.data.importers import import_source
from deploy.simulation.simulate import prepare, start
from tests.benchmarks.classifier import judge, spread

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "data" / "medmnist28" / "pneumoniamnist.npz"
PLAN = ROOT / "deploy" / "examples" / "pneumonia.toml"
LABELS = ("normal", "pneumonia")
DRAWN = 2500
_AVERAGING = "[aggregation]\n"
_WARM = '[warm]\nsteps = 300\n[privacy]\nphases = ["warm", "moments", "sgd"]\n'
OPTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "as the example": (),
    "moments alone": (("[privacy]\n", '[privacy]\nphases = ["moments"]\n'),),
    "ema 0.5": (("[training]\n", "[training]\nema = 0.5\n"),),
    "fedavgm 0.9": ((_AVERAGING, f'{_AVERAGING}strategy = "fedavgm"\nserver_learning_rate = 0.3\n'),),
    "fedadam": ((_AVERAGING, f'{_AVERAGING}strategy = "fedadam"\nserver_learning_rate = 0.001\n'),),
    "median": ((_AVERAGING, f'{_AVERAGING}strategy = "median"\n'),),
    "proximal 0.1": (("[training]\n", "[training]\nproximal = 0.1\n"),),
    "decoder alone": (("[training]\n", '[training]\nfederated = "decoder"\n'),),
    "warm phantoms": (("[privacy]\n", _WARM),),
    "warm phantoms, moments alone": (("[privacy]\n", _WARM.replace(', "sgd"', "")),),
    "observation 0.1": (("[data]\n", "[release]\nobservation = 0.1\n[data]\n"),),
}


def main() -> None:
    """Run every option and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="Options whose name holds one of these words.")
    chosen = parser.parse_args()
    if not SOURCE.exists():
        sys.exit(f"{SOURCE.name} is not there; see README, real data")
    real = np.load(SOURCE)
    test = unit(real["test_images"]), torch.from_numpy(real["test_labels"].reshape(-1).astype(np.int64))
    print(f"PneumoniaMNIST, {chosen.sites} sites, {chosen.seeds} seeds, AUC on {len(test[1])} real test images")
    print(f"{'option':30} {'AUC mean (range)':22} {'phantoms':>9} {'epsilon':>8}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "sites"
        import_source(SOURCE, data, sites=chosen.sites, modality="CR", body_part="CHEST", label_names=LABELS)
        for name, changes in OPTIONS.items():
            if chosen.only and not any(word in name for word in chosen.only):
                continue
            aucs, errors, spent = [], [], []
            for seed in range(chosen.seeds):
                run = Path(folder) / f"{name.replace(' ', '-')}-{seed}"
                spent.append(simulate(data, run, changes, seed))
                aucs.append(judge(*synthetic(run, seed), *test, seed=seed))
                errors.append(json.loads((run / "card.json").read_text())["utility_rmse"])
            print(f"{name:30} {spread(aucs):22} {np.mean(errors):9.4f} {max(spent):8.3f}", flush=True)


def simulate(data: Path, run: Path, changes: tuple[tuple[str, str], ...], seed: int) -> float:
    """Run one study in-process and return the largest epsilon that a site's ledger shows (infinity without noise)."""
    text = PLAN.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    plan = run.with_suffix(".toml")
    plan.write_text(text)
    prepare(plan, sorted(data.iterdir()), run, seed=seed)
    start(run)
    spent = json.loads((run / "card.json").read_text())["privacy"]["epsilon_by_site"].values()
    return max(float("inf") if value is None else value for value in spent)


def synthetic(run: Path, seed: int) -> tuple[Tensor, Tensor]:
    """Balanced synthetic images [n, 1, 28, 28] and labels [n] from the run's released decoder."""
    decoder = Decoder.load(run / "decoder.safetensors")
    drawn = [torch.stack(list(decoder.draw(label, DRAWN, seed=seed))) for label in decoder.labels]
    return torch.cat(drawn)[:, None], torch.arange(len(drawn)).repeat_interleave(DRAWN)


def unit(images: np.ndarray) -> Tensor:
    """uint8 [n, 28, 28] to [-1, 1], [n, 1, 28, 28]."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)[:, None]


if __name__ == "__main__":
    main()
