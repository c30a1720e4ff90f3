"""A covariance of each class beside one of all (docs/decisions/0009), each a study by moments of the quality table.

    python -m tests.benchmarks.covariance [--data mednist] [--seeds 0]   # measure what is not there yet
    python -m tests.benchmarks.covariance --print                        # the decision's table, measuring nothing

A place is a data set, sites and an epsilon. Its settings are the table's plan with one thing changed each. Results are
lines of docs/quality-covariance.jsonl; each names the plan's digest, and a line of a plan that changed is left out.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.plan.study_plan import StudyPlan
from tests.benchmarks import quality, quality_data, quality_judges, quality_runs
from tests.benchmarks.quality_plans import IID, SEEDS, Cell, changed, code_digest, plan_of
from tests.benchmarks.quality_results import append, lines

RESULTS = quality.ROOT / "docs" / "quality-covariance.jsonl"
PLACES: tuple[tuple[str, int, float], ...] = (
    ("mednist", 3, 8.0),
    ("mednist", 1, 1.0),
    ("pneumonia", 4, 8.0),
    ("fashion-mnist", 1, 10.0),
    ("fashion-mnist", 1, 1.0),
)
_CLASS = {"covariance": "class", "components": 1}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "shared": {},
    "shared, texture 1": {"release": {"texture": 1.0}},
    "class": {"model": _CLASS},
    "class, texture 1": {"model": _CLASS, "release": {"texture": 1.0}},
    "class, 64 latents, texture 1": {"model": {**_CLASS, "latent": 64}, "release": {"texture": 1.0}},
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A place, a setting and a seed."""

    data: str
    sites: int
    epsilon: float
    setting: str
    seed: int

    @property
    def cell(self) -> Cell:
        """The cell of the quality table that the plan comes from."""
        return Cell(data=self.data, method="moments", sites=self.sites, split=IID, epsilon=self.epsilon)

    @property
    def plan(self) -> StudyPlan:
        """The cell's plan with the setting's changes."""
        return changed(plan_of(self.cell), SETTINGS[self.setting])

    def identity(self) -> dict[str, Any]:
        """What makes two results the same measurement."""
        return {"data": self.data, "sites": self.sites, "epsilon": self.epsilon, "setting": self.setting,
                "seed": self.seed, "plan": self.plan.digest}  # fmt: skip


def main() -> None:
    """Measure or print, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=sorted({data for data, _, _ in PLACES}), default=[])
    parser.add_argument("--setting", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--store", type=Path, default=quality.STORE, help="keeps the sites' caches and the decoders")
    parser.add_argument("--print", action="store_true", dest="show")
    options = parser.parse_args()
    if not options.show:
        options.store.mkdir(parents=True, exist_ok=True)
        measure(options)
    print(table(lines(RESULTS)))


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """Every trial asked for whose images are on this machine."""
    for data, sites, epsilon in PLACES:
        if (options.data and data not in options.data) or not quality_data.present(data):
            continue
        for seed in options.seeds:
            for setting in options.setting:
                yield Trial(data=data, sites=sites, epsilon=epsilon, setting=setting, seed=seed)


def measure(options: argparse.Namespace) -> None:
    """Run each trial that has no line yet; an interrupted run goes on where it stopped."""
    torch.set_num_threads(1)
    done = {json.dumps({key: line[key] for key in Trial.__annotations__} | {"plan": line["plan"]}, sort_keys=True)
            for line in lines(RESULTS)}  # fmt: skip
    for trial in trials(options):
        if json.dumps(trial.identity(), sort_keys=True) in done:
            continue
        line = measured(trial, options.store)
        append(RESULTS, line)
        print(f"{trial}: {line['score']:.4f}, Frechet {line['frechet']:.2f}", file=sys.stderr, flush=True)


def measured(trial: Trial, store: Path) -> dict[str, Any]:
    """Run one trial; a line of the results file."""
    studied = quality_runs.study(trial.plan, trial.cell, store, seed=trial.seed)
    kept = decoder_file(trial, store)
    kept.parent.mkdir(exist_ok=True)
    studied.decoder.save(kept)
    count = quality_judges.DRAWN[trial.data]
    figures = quality_judges.synthetic(trial.data, studied.decoder, count, seed=trial.seed)
    return {**trial.identity(), **figures, "spent": studied.epsilon, "seconds": round(studied.seconds, 2),
            "judge": quality_judges.NAME[trial.data], "code": code_digest()}  # fmt: skip


def decoder_file(trial: Trial, store: Path) -> Path:
    """Where a trial's release is kept, for the pictures."""
    return store / "decoders" / f"covariance-{trial.plan.digest[:16]}-{trial.seed}.safetensors"


def table(results: list[dict[str, Any]]) -> str:
    """A row for each place and setting that has results of today's plans: means over the seeds."""
    rows = ["| data | sites | epsilon | setting | seeds | score, per cent | Frechet |", "|---|---|---|---|---|---|---|"]
    for data, sites, epsilon in PLACES:
        for setting in SETTINGS:
            mine = [line for line in results if (line["data"], line["sites"], line["epsilon"], line["setting"])
                    == (data, sites, epsilon, setting) and holds(line)]  # fmt: skip
            if mine:
                score, distance = (statistics.mean(line[key] for line in mine) for key in ("score", "frechet"))
                rows.append(f"| {data} | {sites} | {epsilon:g} | {setting} | {len(mine)} | {100 * score:.1f} | "
                            f"{distance:.1f} |")  # fmt: skip
    return "\n".join(rows)


def holds(line: dict[str, Any]) -> bool:
    """Whether a line is of the plan that its place and setting have today."""
    trial = Trial(**{key: line[key] for key in Trial.__annotations__})
    return bool(trial.plan.digest == line["plan"])


if __name__ == "__main__":
    main()
