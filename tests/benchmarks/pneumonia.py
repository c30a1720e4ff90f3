"""PneumoniaMNIST over several sites at epsilon 8: train on synthetic, test on real. Run by hand.

    python -m tests.benchmarks.pneumonia [--sites 4] [--seeds 3]

Prints one row for each way of training the generator: the plan of deploy/examples/pneumonia.toml (closed form, then
DP-SGD), the same plan without noise, the plain DP-VAE (DP-SGD from random weights) at the same epsilon, and a
classifier trained on the real images. Each row is the AUC on the real test images, mean and range over the seeds.
The train part of the PneumoniaMNIST used here is a rebuilt file: its images are the official ones, their order is not.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.synthesis import Decoder
from deploy.importers import import_source
from deploy.simulate import prepare, start
from tests.benchmarks.classifier import judge, spread

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "data" / "medmnist28" / "pneumoniamnist.npz"
PLAN = ROOT / "deploy" / "examples" / "pneumonia.toml"
LABELS = ("normal", "pneumonia")
VARIANTS = {
    "phased, epsilon 8": (),
    "phased, no DP": (("[privacy]", "[privacy]\nenabled = false"),),
    "plain DP-VAE, epsilon 8": (("[privacy]", '[privacy]\nphases = ["sgd"]'), ("0.0005", "0.005")),
}
DRAWN = 2500


def main() -> None:
    """Run every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not SOURCE.exists():
        sys.exit(f"{SOURCE.name} is not there; see README, real data")
    real = np.load(SOURCE)
    test = unit(real["test_images"]), torch.from_numpy(real["test_labels"].reshape(-1).astype(np.int64))
    print(f"PneumoniaMNIST, {options.sites} sites, {options.seeds} seeds, AUC on {len(test[1])} real test images")
    print(f"{'trained on':28} {'AUC mean (range)':22} {'epsilon':>8} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "sites"
        import_source(SOURCE, data, sites=options.sites, modality="CR", body_part="CHEST", label_names=LABELS)
        for name, changes in VARIANTS.items():
            aucs, spent, began = [], [], time.monotonic()
            for seed in range(options.seeds):
                run = Path(folder) / f"{name.replace(' ', '-')}-{seed}"
                spent.append(simulate(data, run, changes, seed))
                aucs.append(judge(*synthetic(run, seed), *test, seed=seed))
            print(f"{name:28} {spread(aucs):22} {max(spent):8.3f} {time.monotonic() - began:8.0f}", flush=True)
    train = unit(real["train_images"]), torch.from_numpy(real["train_labels"].reshape(-1).astype(np.int64))
    aucs = [judge(*train, *test, seed=seed) for seed in range(options.seeds)]
    print(f"{'real images':28} {spread(aucs):22}")


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
