"""The generator's kinds beside one another, by judges that see what a person sees; each a whole study with its ledgers.

    python -m tests.benchmarks.quality_generator [--place kermany-4-8] [--setting class prior] [--seeds 0]
    python -m tests.benchmarks.quality_generator --print                       # the page's table, measuring nothing
    python -m tests.benchmarks.quality_generator --grid docs/images/quality-generator.png [--place kermany-4-8]

A place is a data set, sites, an epsilon and pixels; a setting is a change of its plan. A finished study is a line of
docs/quality-generator.jsonl at once, and one that is there already from the same plan is not run again.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from client.evaluation.fidelity import frechet
from common.images.encoder import features
from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan
from deploy.data.public_images import write_public_images
from deploy.simulation.simulate import start
from server.model import warm_data
from tests.benchmarks import classifier, quality, quality_data, quality_kermany, quality_sight
from tests.benchmarks.quality_grids import save
from tests.benchmarks.quality_judges import eight_bit
from tests.benchmarks.quality_plans import IID, Cell, changed, code_digest
from tests.benchmarks.quality_results import append, lines
from tests.benchmarks.quality_runs import epsilon_of_ledgers, prepare

RESULTS = quality.ROOT / "docs" / "quality-generator.jsonl"
PAGE = quality.ROOT / "docs" / "quality-generator.md"
PLANS = Path(__file__).parent / "plans"
_BEGIN, _END = "<!-- printed: generator -->\n", "\n<!-- end -->"
DRAWN = 400
"""Images of each label that the judges see."""
REAL = 1000
COLUMNS = 14
_BY_CLASS: dict[str, Any] = {"covariance": "class"}
_DENOISER = {**_BY_CLASS, "channels": (), "denoiser": (32, 48)}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "shared": {"privacy": {"phases": ("moments",)}},
    "class": {"model": _BY_CLASS, "privacy": {"phases": ("moments",)}, "release": {"texture": 1.0}},
    "prior": {"model": _DENOISER, "privacy": {"phases": ("warm", "moments")}, "warm": {"studies": 24, "steps": 600}},
    "directed": {
        "model": {**_DENOISER, "latent": 64},
        "privacy": {"phases": ("warm", "moments"), "mean_clip": 0.4},
        "warm": {"studies": 24, "steps": 600, "directions": 64},
    },
    "denoiser": {
        "model": _DENOISER,
        "privacy": {"phases": ("moments", "sgd"), "moments_share": 0.6, "clip_norm": 0.05},
        "training": {"rounds": 400, "local_steps": 1, "sample_rate": 0.02, "optimizer": "sgd", "learning_rate": 1.0,
                     "strategy": "fedadam", "server_learning_rate": 0.003},
    },
}  # fmt: skip
"""What each changes in the place's plan; `PRIORS` get public images of the same kind (`PUBLIC`)."""
PRIORS = {"prior": 1, "directed": 2}
"""Settings with a prior, and pixels of the side of their public images for one of the place's."""
REAL_IMAGES = "real"
"""A setting that is none: the judges see training images beyond those that they compare with, as a perfect generator
would draw. The test images of Kermany are no such thing, they are of another kind."""
DEFAULT = ("shared", "class", "prior", "directed")
PUBLIC = {"kermany": ("MedNIST CXR (NIH Chest X-ray set), CC BY-SA 4.0", "CXR.zip")}
"""Name, licence and file of the public images of each data set; the product's own phantoms elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A data set, the sites that it is dealt to, what a study may cost, and its pixels."""

    data: str
    sites: int
    epsilon: float
    size: int

    @property
    def name(self) -> str:
        """The place as the command line takes it."""
        return f"{self.data}-{self.sites}-{self.epsilon:g}"


PLACES = (
    Place(data="kermany", sites=4, epsilon=8.0, size=32),
    Place(data="kermany", sites=4, epsilon=2.0, size=32),
    Place(data="mednist", sites=3, epsilon=8.0, size=64),
)


def plan_of(place: Place, setting: str, store: Path) -> StudyPlan:
    """The place's plan with the setting's changes."""
    plan = StudyPlan.load(PLANS / f"generator-{place.data}.toml")
    plan = changed(plan, {"privacy": {"epsilon": place.epsilon}})
    plan = changed(plan, SETTINGS[setting])
    if setting in PRIORS and place.data in PUBLIC:
        name, _ = PUBLIC[place.data]
        plan = changed(plan, {"warm": {"source": public_file(place, setting, store)[1], "named": (name,)}})
    return plan


def public_file(place: Place, setting: str, store: Path) -> tuple[Path, str]:
    """The packed public images of a setting at a place, and their digest."""
    size = PRIORS[setting] * place.size
    out = store / f"public-{place.data}-{size}.npz"
    if not out.exists():
        write_public_images([quality_data.FOLDERS["mednist"] / PUBLIC[place.data][1]], out, size=size)
    return out, hashlib.sha256(out.read_bytes()).hexdigest()


def run(place: Place, setting: str, store: Path, *, seed: int) -> dict[str, Any]:
    """Run one study and judge it; a line of the results file."""
    torch.set_num_threads(1)
    if setting == REAL_IMAGES:
        real, labels = real_of(place, "train")
        drawn = {index: real[labels == index][REAL : REAL + DRAWN] for index in sorted(set(labels.tolist()))}
        return {**identity(place, setting, None, seed), **judged(place, drawn, seed=seed), "epsilon": None,
                "cpu_seconds": 0.0, "code": code_digest()}  # fmt: skip
    plan = plan_of(place, setting, store)
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        folder = Path(scratch) / "run"
        prepare(plan, _caches(place, plan, store), folder, seed=seed)
        if plan.warm.by_file:
            warm_data.keep(plan, public_file(place, setting, store)[0], folder)
        began = time.process_time()
        start(folder, workers=1)
        spent = time.process_time() - began
        decoder = Decoder.load(folder / "decoder.safetensors")
        cost = epsilon_of_ledgers(folder, plan)
        warmed = json.loads((folder / "card.json").read_text())["warm"]
    kept = decoder_file(place, setting, store, seed=seed)
    kept.parent.mkdir(exist_ok=True)
    decoder.save(kept)
    figures = judged(place, drawn_from(decoder, seed=seed), seed=seed)
    return {**identity(place, setting, plan, seed), **figures, "epsilon": cost, "cpu_seconds": round(spent, 1),
            "guard": warmed and warmed.get("prior"), "code": code_digest()}  # fmt: skip


def identity(place: Place, setting: str, plan: StudyPlan | None, seed: int) -> dict[str, Any]:
    """What makes two results the same measurement."""
    judge = {"name": "sight", "drawn": DRAWN, "real": REAL}
    return {"data": place.name, "cell": setting, "seed": seed, "plan": plan and plan.digest, "judge": judge}


def _caches(place: Place, plan: StudyPlan, store: Path) -> list[Path]:
    if place.data == "kermany":
        return quality_kermany.caches(plan, store, sites=place.sites)
    cell = Cell(data=place.data, method="moments", sites=place.sites, split=IID, epsilon=place.epsilon)
    return quality_data.caches(cell, plan, store)


def real_of(place: Place, which: str) -> tuple[Tensor, Tensor]:
    """Real images [n, size, size] in [-1, 1] of a part, in a fixed random order, and their labels."""
    if place.data == "kermany":
        scans = quality_kermany.part(which, place.size)
        pixels, labels = scans.pixels, scans.labels
    else:
        whole = getattr(quality_data.data_set(place.data), which)
        pixels, labels = whole.pixels, whole.labels
    order = np.random.default_rng(0).permutation(len(labels))
    images = quality_sight.eight_bit(pixels[order])[:, None]
    if images.shape[-1] != place.size:
        images = functional.interpolate(images, size=(place.size, place.size), mode="area")
    return images[:, 0], torch.from_numpy(labels[order])


def drawn_from(decoder: Decoder, *, seed: int) -> dict[int, Tensor]:
    """The images of a release that the judges see, by label."""
    return {
        index: eight_bit(torch.stack(list(decoder.draw(label, DRAWN, seed=seed))))
        for index, label in enumerate(decoder.labels)
    }


def judged(place: Place, drawn: dict[int, Tensor], *, seed: int) -> dict[str, Any]:
    """Every judge's figures of images by label."""
    images, labels = real_of(place, "train")
    chosen = torch.cat([torch.nonzero(labels == index)[:REAL, 0] for index in drawn])
    images, labels = images[chosen], labels[chosen]
    together = torch.cat([drawn[index] for index in sorted(drawn)])
    told = torch.tensor(sorted(drawn)).repeat_interleave(torch.tensor([len(drawn[index]) for index in sorted(drawn)]))
    figures: dict[str, Any] = {"frechet": round(frechet(features(images), features(together)), 3)}
    figures |= quality_sight.by_class(images, labels, drawn, seed=seed)
    if place.data == "kermany":
        test, asked = real_of(place, "test")
        figures["tstr"] = round(classifier.judge(together[:, None], told, test[:, None], asked, seed=seed), 4)
    return figures


def decoder_file(place: Place, setting: str, store: Path, *, seed: int) -> Path:
    """Where a release is kept, for the pictures."""
    return store / "decoders" / f"generator-{place.name}-{setting}-{seed}.safetensors"


def table(found: list[dict[str, Any]]) -> str:
    """A row for each place and setting that has results: means over the seeds, figures by class with a slash."""
    rows = ["| place | setting | seeds | Frechet | scattering | C2ST | top octave, dB | TSTR AUC | CPU seconds |",
            "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for place in PLACES:
        for setting in (REAL_IMAGES, *SETTINGS):
            mine = [line for line in found if (line["data"], line["cell"]) == (place.name, setting)]
            if mine:
                rows.append(f"| {place.name} | {setting} | {len(mine)} | {_row(mine)} |")
    return "\n".join(rows)


def _row(mine: list[dict[str, Any]]) -> str:
    def classes(name: str, digits: int) -> str:
        each = zip(*(line[name] for line in mine), strict=True)
        return "/".join(f"{statistics.mean(values):.{digits}f}" for values in each)

    top = [{"top": [octaves[-1] for octaves in line["spectrum"]]} for line in mine]
    tops = "/".join(f"{statistics.mean(values):.1f}" for values in zip(*(line["top"] for line in top), strict=True))
    tstr = f"{statistics.mean(line['tstr'] for line in mine):.3f}" if "tstr" in mine[0] else "-"
    distance, seconds = (statistics.mean(line[name] for line in mine) for name in ("frechet", "cpu_seconds"))
    return f"{distance:.2f} | {classes('scattering', 1)} | {classes('c2st', 3)} | {tops} | {tstr} | {seconds:.0f}"


def holds(line: dict[str, Any]) -> bool:
    """Whether a line is of the plan that its place and setting have today; a public file is taken on its word."""
    place = next(place for place in PLACES if place.name == line["data"])
    if line["cell"] == REAL_IMAGES or (line["cell"] in PRIORS and place.data in PUBLIC):
        return True
    return bool(plan_of(place, line["cell"], quality.STORE).digest == line["plan"])


def grid(place: Place, store: Path) -> Tensor:
    """Of each label: real images, then each setting's whose release is kept, a strip a row."""
    real, labels = real_of(place, "test")
    names = [name for name in SETTINGS if decoder_file(place, name, store, seed=0).exists()]
    decoders = [Decoder.load(decoder_file(place, name, store, seed=0)) for name in names]
    strips: list[Tensor] = []
    for index in sorted(set(labels.tolist())):
        strips.append(torch.cat(list(real[labels == index][:COLUMNS]), dim=1))
        for decoder in decoders:
            drawn = list(decoder.draw(decoder.labels[index], COLUMNS, seed=1))
            strips.append(torch.cat(drawn, dim=1))
        strips.append(torch.ones(4, strips[-1].shape[1]))
    return torch.cat(strips)


def wanted(options: argparse.Namespace) -> Iterator[tuple[Place, str, int]]:
    """What the command line asks for."""
    for place in PLACES:
        if not options.place or place.name in options.place:
            for seed in options.seeds:
                for setting in options.setting:
                    yield place, setting, seed


def main() -> None:
    """Measure, print or draw, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", nargs="+", choices=[place.name for place in PLACES], default=[])
    parser.add_argument("--setting", nargs="+", choices=[REAL_IMAGES, *SETTINGS], default=[REAL_IMAGES, *DEFAULT])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--store", type=Path, default=quality.STORE, help="keeps caches, public images and decoders")
    parser.add_argument("--print", action="store_true", dest="show")
    parser.add_argument("--grid", type=Path)
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    if options.grid:
        for place in PLACES:
            if place.name in options.place:
                save(grid(place, options.store), options.grid)
        return
    if not options.show:
        done = {(line["data"], line["cell"], line["seed"], line["plan"]) for line in lines(RESULTS)}
        for place, setting, seed in wanted(options):
            plan = None if setting == REAL_IMAGES else plan_of(place, setting, options.store).digest
            if (place.name, setting, seed, plan) in done:
                continue
            line = run(place, setting, options.store, seed=seed)
            append(RESULTS, line)
            print(f"{place.name} {setting} {seed}: {line}", file=sys.stderr, flush=True)
    page, shown = PAGE.read_text(), f"{_BEGIN}{table(lines(RESULTS))}{_END}"
    PAGE.write_text(page[: page.index(_BEGIN)] + shown + page[page.index(_END) + len(_END) :])
    print(table(lines(RESULTS)))


if __name__ == "__main__":
    main()
