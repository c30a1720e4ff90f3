"""What do gradient rounds add to the closed form, below its base grid and above it? MedNIST at 64 pixels, run by hand.

    python -m tests.benchmarks.detail [--epsilon none 8] [--seeds 0] [--store runs/detail]

The moments know an image's low cosine frequencies, `model.base` in each direction, and nothing above; only the residual
nets can draw what is finer. Each row is one study at one site with the plan of deploy/examples/mednist.toml, changed as
it says. Its model encodes and decodes real test images that no site had. Printed is the share of their squared pixels
that comes back right, 1 - |x - model(x)|^2 / |x|^2, of the low frequencies (less the mean image's error, so that the
mean alone has 0) and of all above them (where a blank has 0, as the moments have), and the ledger's epsilon.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.mechanism.moments import coefficients, cosine_images
from common.model.vae import Vae
from common.plan.study_plan import StudyPlan
from deploy.simulation.simulate import start
from server.study.study import Study
from tests.benchmarks import quality, quality_data
from tests.benchmarks.quality_plans import IID, Cell, changed, plan_of
from tests.benchmarks.quality_runs import epsilon_of_ledgers, prepare

_AS_IT_IS: dict[str, dict[str, Any]] = {}
_LONG = {"rounds": 10, "local_steps": 50, "learning_rate": 0.002, "sample_rate": 0.02}
SETTINGS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "moments": ("moments", _AS_IT_IS),
    "phased, as the example": ("phased", _AS_IT_IS),
    "phased, 500 steps at rate 0.002": ("phased", {"training": _LONG}),
    "the same, half the budget for them": ("phased", {"training": _LONG, "privacy": {"moments_share": 0.5}}),
}
"""Method and changes of its plan."""
IMAGES = 2000
"""Test images that are encoded and decoded."""


def main() -> None:
    """Run what is asked for and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", nargs="+", default=["none", "8"])
    parser.add_argument("--only", nargs="*", default=[], help="settings whose name holds one of these words")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--store", type=Path, default=quality.ROOT / "runs" / "detail", help="keeps the site's cache")
    options = parser.parse_args()
    if not quality_data.present("mednist"):
        sys.exit("MedNIST is not there; see README, real data")
    options.store.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(f"{'setting':36} {'asked':>5} {'seed':>4} {'low frequencies':>15} {'above them':>10} {'epsilon':>8} {'s':>5}")
    for name in (name for name in SETTINGS if not options.only or any(word in name for word in options.only)):
        for asked in options.epsilon:
            for seed in options.seeds:
                low, high, spent, seconds = measured(name, asked, seed=seed, store=options.store)
                shown = "-" if spent is None else f"{spent:.3f}"
                print(f"{name:36} {asked:>5} {seed:4} {low:15.4f} {high:10.4f} {shown:>8} {seconds:5.0f}", flush=True)


def measured(name: str, asked: str, *, seed: int, store: Path) -> tuple[float, float, float | None, float]:
    """Shares of low and of high frequencies that come back right, epsilon, and seconds of the study."""
    method, changes = SETTINGS[name]
    cell = Cell(data="mednist", method=method, sites=1, split=IID, epsilon=None if asked == "none" else float(asked))  # type: ignore[arg-type]
    plan = changed(plan_of(cell), changes)
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        run = Path(scratch) / "run"
        prepare(plan, quality_data.caches(cell, plan, store), run, seed=seed)
        began = time.monotonic()
        start(run, workers=1)
        seconds = time.monotonic() - began
        model = Vae(plan)
        model.load_arrays(Study.resume(run).released)
        return *shares(model, plan), epsilon_of_ledgers(run, plan), seconds


def shares(model: Vae, plan: StudyPlan) -> tuple[float, float]:
    """What the model brings back of test images: of their low frequencies beyond the mean image, and of the rest."""
    images, labels = (part[:IMAGES] for part in _shuffled(*quality_data.data_set("mednist").test.unit()))
    drawn = torch.cat([model.reconstruct(*part) for part in zip(images.split(100), labels.split(100), strict=True)])
    low, low_drawn = (_low(some, plan.model.base) for some in (images, drawn))
    spread = (low - low.mean(0)).square().sum()
    missed = (low - low_drawn).square().sum()
    high, high_drawn = images - low, drawn - low_drawn
    return float(1 - missed / spread), float(1 - (high - high_drawn).square().sum() / high.square().sum())


def _low(images: Tensor, base: int) -> Tensor:
    """The low cosine frequencies of images [n, 1, size, size], as images."""
    size = images.shape[-1]
    kept = coefficients(images[:, 0].numpy(), base=base) * size
    return torch.from_numpy(cosine_images(kept, size=size)).to(images.dtype)[:, None]


def _shuffled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


if __name__ == "__main__":
    main()
