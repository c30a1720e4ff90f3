"""Pictures for docs/quality.md: synthetic images by label, side by side with real ones, and the demo before and after.

    python -m tests.benchmarks.quality_grids --data mnist [--method phased] [--sites 1] [--epsilon 10]
    python -m tests.benchmarks.quality_grids --data mednist --sites 3 --epsilon 8 --real runs/quality
    python -m tests.benchmarks.quality_grids --demo

The first writes docs/images/quality-DATA.png, synthetic images alone, from the release that tests/benchmarks/quality.py
kept of that cell and seed. `--real FOLDER` writes FOLDER/real-DATA.png instead, a row of real test images above each
label's synthetic ones: for looking at, never to be committed. `--demo` runs the demo's study twice on the same phantoms
at the same epsilon, as it is and as a plain DP-VAE, and writes docs/images/quality-demo-after.png and -before.png.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.images.pixels import unit_to_uint8
from common.model.synthesis import Decoder
from deploy.data.demo_data import write_demo_hospitals
from deploy.simulation.simulate import prepare, start
from tests.benchmarks import quality, quality_runs
from tests.benchmarks.quality_data import data_set
from tests.benchmarks.quality_plans import EXAMPLES

IMAGES = quality.ROOT / "docs" / "images"
COLUMNS, GAP, SIDE = 16, 4, 64
DEMO_PLAN = EXAMPLES / "chest-phantoms.toml"
PLAIN = (
    ('phases = ["moments", "sgd"]', 'phases = ["sgd"]'),
    ("learning_rate = 0.0005", "learning_rate = 0.005"),
    ("rounds = 4\nlocal_steps = 5", "rounds = 10\nlocal_steps = 20"),
    ("latent = 12", "latent = 4"),
    ("observation_std = 0.15", "observation_std = 0.7"),
)
"""What makes the demo's plan that of a plain DP-VAE, with what such a net needs (`quality_plans.PLAIN`)."""


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--method", default="phased")
    parser.add_argument("--sites", default="1")
    parser.add_argument("--epsilon", default="10")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--rows", type=int, default=1, help="rows of each label")
    parser.add_argument(
        "--real", type=Path, help="folder, outside the repository or ignored, for real beside synthetic"
    )
    parser.add_argument("--store", type=Path, default=quality.STORE)
    options = parser.parse_args()
    if options.demo:
        demo()
        return
    asked = ["--data", options.data, "--method", options.method, "--sites", options.sites, "--split", "iid",
             "--epsilon", options.epsilon, "--seeds", options.seed, "--store", str(options.store)]  # fmt: skip
    (job,) = quality.jobs(quality.parsed(asked))
    kept = quality_runs.decoder_file(job)
    if not kept.exists():
        again = f"python -m tests.benchmarks.quality {' '.join(asked[:-2])} --again"
        sys.exit(f"no release of this cell is kept. Run `{again}`")
    out = options.real / f"real-{options.data}.png" if options.real else IMAGES / f"quality-{options.data}.png"
    save(grid(Decoder.load(kept), rows=options.rows, real=options.data if options.real else None), out)
    print(out)


def grid(decoder: Decoder, *, rows: int, real: str | None) -> Tensor:
    """The first images of each label, a strip a row; under `real`, that data set's first test images above them."""
    strips = []
    for index, label in enumerate(decoder.labels):
        if real:
            images, labels = data_set(real).test.unit()
            strips.append(torch.cat(list(images[labels == index][:COLUMNS, 0]), dim=1))
        drawn = list(decoder.draw(label, COLUMNS * rows, seed=1))
        strips += [torch.cat(drawn[first : first + COLUMNS], dim=1) for first in range(0, len(drawn), COLUMNS)]
        if real or rows > 1:
            strips.append(torch.ones(GAP, strips[-1].shape[1]))
    return torch.cat(strips)


def save(images: Tensor, out: Path) -> None:
    """Write a grid, enlarged to about the same size for every data set."""
    sheet = Image.fromarray(unit_to_uint8(images))
    scale = max(1, round(SIDE * COLUMNS / sheet.width))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.BICUBIC).save(out, optimize=True)


def demo() -> None:
    """The demo's study as it is and as a plain DP-VAE, same phantoms, same seed, same epsilon."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        hospitals = write_demo_hospitals(folder / "hospitals")
        for name, changes in (("before", PLAIN), ("after", ())):
            text = DEMO_PLAN.read_text()
            for old, new in changes:
                assert old in text, old
                text = text.replace(old, new, 1)
            plan = folder / f"{name}.toml"
            plan.write_text(text)
            run, out = folder / name, IMAGES / f"quality-demo-{name}.png"
            prepare(plan, hospitals, run, seed=1)
            start(run)
            subprocess.run([sys.executable, "scripts/make_grid.py", str(run), str(out)], cwd=quality.ROOT, check=True)
            print(out)


if __name__ == "__main__":
    main()
