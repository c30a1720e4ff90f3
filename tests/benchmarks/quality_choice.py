"""Would the table's settings have been chosen without its test images? Each beside its neighbours, on images set aside.

    python -m tests.benchmarks.quality_choice [--data mnist] [--seeds 0 1 2]

The settings were first chosen by test images at one seed (`quality_plans`). Here a sixth of the *training* images is
set aside, a study takes the rest at one site and one epsilon, and one classifier trained on the synthetic images is
scored on both: on what was set aside, which may choose, and on the test images, which only show what the choice is
worth. The settings of the start are compared by the moments alone, those of the gradient rounds by the phased study.
MedNIST is not here, for nothing of its plan was chosen by a score.

Results are lines of docs/quality-choice.jsonl, where one of the same plan and seed is not measured again;
`python -m tests.benchmarks.quality_page` prints them into docs/quality.md.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.plan.study_plan import StudyPlan
from tests.benchmarks import quality, quality_data, quality_judges, quality_runs
from tests.benchmarks.quality_plans import IID, PATIENTS, SEEDS, Cell, Method, changed, plan_of
from tests.benchmarks.quality_results import append, key, lines

RESULTS = quality.ROOT / "docs" / "quality-choice.jsonl"
TAKEN = "as in the table"
Changes = dict[str, dict[str, Any]]
_LIKE_MNIST: Changes = {"release": {"temperature": 1.3, "texture": 0.5, "observation": 0.15}}
SETTINGS: dict[str, dict[Method, dict[str, Changes]]] = {
    "fashion-mnist": {
        "moments": {
            TAKEN: {},
            "40 latents": {"model": {"latent": 40}},
            "80 latents": {"model": {"latent": 80}},
            "base of 16 pixels": {"model": {"base": 16}},
            "1 component": {"model": {"components": 1}},
            "drawn like MNIST": _LIKE_MNIST,
        },
        "phased": {
            TAKEN: {},
            "half the budget for gradients": {"privacy": {"moments_share": 0.5}},
            "learning rate 0.002": {"training": {"learning_rate": 0.002}},
            "learning rate 0.00002": {"training": {"learning_rate": 0.00002}},
            "40 steps a round": {"training": {"local_steps": 40}},
            "4 augmentations": {"training": {"augmentations": 4}},
        },
    },
    "mnist": {
        "moments": {
            TAKEN: {},
            "20 latents": {"model": {"latent": 20}},
            "44 latents": {"model": {"latent": 44}},
            "1 component": {"model": {"components": 1}},
            "drawn as it comes": {"release": {"temperature": 1.0, "texture": 1.0, "observation": 0.0}},
            "temperature 1.3 alone": {"release": {"temperature": 1.3, "texture": 1.0, "observation": 0.0}},
        },
    },
    "pneumonia": {
        "moments": {
            TAKEN: {},
            "16 latents": {"model": {"latent": 16}},
            "60 latents": {"model": {"latent": 60}},
            "base of 20 pixels": {"model": {"base": 20}},
            "4 components": {"model": {"components": 4}},
            "drawn like MNIST": _LIKE_MNIST,
        },
        "phased": {
            TAKEN: {},
            "half the budget for gradients": {"privacy": {"moments_share": 0.5}},
            "a twentieth for gradients": {"privacy": {"moments_share": 0.95}},
            "learning rate 0.005": {"training": {"learning_rate": 0.005}},
            "learning rate 0.00005": {"training": {"learning_rate": 0.00005}},
            "40 steps a round": {"training": {"local_steps": 40}},
            "4 augmentations": {"training": {"augmentations": 4}},
        },
    },
}
EPSILON = {"fashion-mnist": 10.0, "mnist": 10.0, "pneumonia": 8.0}
SET_ASIDE = 6
"""One training image in so many is set aside."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting of a data set and a seed.

    Attributes:
        data: A key of `SETTINGS`.
        method: A key of its methods.
        setting: A key of that method's settings.
        seed: Keys the simulation, the drawing and the judge alike.
    """

    data: str
    method: Method
    setting: str
    seed: int

    @property
    def cell(self) -> Cell:
        """The study at one site, without the images that are set aside."""
        used = PATIENTS[self.data] - PATIENTS[self.data] // SET_ASIDE
        return Cell(data=self.data, method=self.method, sites=1, split=IID, epsilon=EPSILON[self.data], limit=used)

    def plan(self) -> StudyPlan:
        """The cell's plan, changed as the setting says."""
        return changed(plan_of(self.cell), SETTINGS[self.data][self.method][self.setting])

    def identity(self) -> dict[str, Any]:
        """What makes two results the same measurement."""
        judge = {"name": quality_judges.NAME[self.data], "drawn": quality_judges.DRAWN[self.data]}
        return {"data": self.data, "cell": self.cell.to_dict(), "seed": self.seed, "plan": self.plan().digest,
                "judge": judge}  # fmt: skip


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--method", nargs="+", choices=["moments", "phased"], default=["moments", "phased"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--store", type=Path, default=quality.STORE, help="keeps the sites' caches")
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    done = {key(line) for line in lines(options.results)}
    for choice in choices(options.data, options.method, options.seeds):
        if not quality_data.present(choice.data):
            print(f"not on this machine, left out: {choice.data}", file=sys.stderr)
        elif key(choice.identity()) not in done:
            line = measured(choice, options.store)
            append(options.results, line)
            print(f"{choice.data}, {choice.method}, {choice.setting}, seed {choice.seed}: "
                  f"set aside {line['aside']:.4f}, test {line['test']:.4f}", flush=True)  # fmt: skip


def choices(data: Sequence[str], methods: Sequence[Method], seeds: Sequence[int]) -> Iterator[Choice]:
    """Every setting of the data sets and methods at every seed, a whole seed first."""
    for name in data:
        for method in methods:
            for seed in seeds:
                for setting in SETTINGS[name].get(method, ()):
                    yield Choice(data=name, method=method, setting=setting, seed=seed)


def measured(choice: Choice, store: Path) -> dict[str, Any]:
    """Run a setting's study and score its images: a line of the results file."""
    studied = quality_runs.study(choice.plan(), choice.cell, store, seed=choice.seed)
    images = quality_judges.drawn(studied.decoder, quality_judges.DRAWN[choice.data], seed=choice.seed)
    score = quality_judges.pupil(choice.data, images, seed=choice.seed)
    return {
        **choice.identity(),
        "setting": choice.setting,
        "aside": round(score(quality_data.held_back(choice.cell).unit()), 5),
        "test": round(score(quality_data.data_set(choice.data).test.unit()), 5),
    }


def holds(line: dict[str, Any]) -> bool:
    """Whether a result is of a setting as it is now."""
    method = line["cell"]["method"]
    if line["setting"] not in SETTINGS[line["data"]].get(method, ()):
        return False
    choice = Choice(data=line["data"], method=method, setting=line["setting"], seed=line["seed"])
    return key(choice.identity()) == key(line)


def figures(results: list[dict[str, Any]], data: str, method: Method) -> dict[str, dict[str, list[float]]]:
    """What was measured by setting, in their order: a figure for each seed, on images set aside and on test images."""
    mine = [line for line in results if (line["data"], line["cell"]["method"]) == (data, method) and holds(line)]
    found = {
        setting: {what: [line[what] for line in mine if line["setting"] == setting] for what in ("aside", "test")}
        for setting in SETTINGS[data][method]
    }
    return {setting: parts for setting, parts in found.items() if parts["aside"]}


def chosen(found: dict[str, dict[str, list[float]]]) -> str:
    """The setting that the images set aside choose, by the mean over the seeds."""
    return max(found, key=lambda setting: statistics.mean(found[setting]["aside"]))


if __name__ == "__main__":
    main()
