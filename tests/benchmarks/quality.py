"""The quality table: data set x method x sites x epsilon, each cell the product's own study judged on real images.

    python -m tests.benchmarks.quality [--data fashion-mnist] [--method phased] [--sites 1 10] [--epsilon 1 none] ...

Every finished (cell, seed) is a line of the results file at once, and one that is there already, from the same plan and
judged in the same way, is not run again: an interrupted table goes on where it stopped. What docs/quality.md shows is
docs/quality.jsonl, rendered by `python -m tests.benchmarks.quality_page`.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from common.errors import WardroundError
from tests.benchmarks import quality_data, quality_runs
from tests.benchmarks.quality_plans import BASES, METHODS, PHASES, SEEDS, Cell, cells
from tests.benchmarks.quality_results import append, key, lines
from tests.benchmarks.quality_runs import Job

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "runs" / "quality"
SPLITS = ("iid", "dirichlet:0.3")


def main() -> int:
    """Run the command line's request."""
    return perform(parsed())


def perform(options: argparse.Namespace) -> int:
    """Run what is asked for and not there yet; 1 if a cell failed, which never stops the others."""
    options.store.mkdir(parents=True, exist_ok=True)
    wanted = [job for job in jobs(options) if quality_data.present(job.data)]
    if absent := [name for name in options.data if not quality_data.present(name)]:
        print(f"not on this machine, left out: {', '.join(absent)}", file=sys.stderr)
    done = {key(line) for line in lines(options.results)}
    open_jobs = [job for job in wanted if options.again or key(job.identity()) not in done]
    print(f"{len(wanted)} results asked for, {len(wanted) - len(open_jobs)} there already", file=sys.stderr)
    failed = 0
    for job, line in measured(open_jobs, processes=options.jobs):
        if isinstance(line, WardroundError):
            failed += 1
            print(f"FAILED {job_name(job)}: {type(line).__name__}: {line}", file=sys.stderr)
            continue
        append(options.results, line)
        print(summary(job, line), flush=True)
    return 1 if failed else 0


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--method", nargs="+", choices=[*PHASES, "real"], default=[*METHODS, "real"])
    parser.add_argument("--sites", nargs="+", type=int, help="default: those of the table")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--epsilon", nargs="+", help='numbers, or "none" for no DP; default: those of the table')
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="which seeds")
    parser.add_argument("--drawn", type=int, default=0, help="synthetic images in all; 0: the data set's own number")
    parser.add_argument("--limit", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--results", type=Path, default=STORE / "results.jsonl")
    parser.add_argument("--store", type=Path, default=STORE, help="keeps the sites' caches")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side, one thread each")
    parser.add_argument("--again", action="store_true", help="run what is there already too; the newest line counts")
    return parser.parse_args(arguments)


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Every job asked for: the real images of a data set first, then its cells."""
    for data in options.data:
        chosen: list[Cell | None] = [None] if "real" in options.method else []
        chosen += [cell for cell in asked_for(data, options) if cell.method in options.method]
        for cell in chosen:
            for seed in options.seeds:
                yield Job(cell=cell, data=data, seed=seed, drawn=options.drawn, store=options.store)


def asked_for(data: str, options: argparse.Namespace) -> list[Cell]:
    """The cells of the options, whether the table has them or not: 2 sites and epsilon 5 can be asked for too."""
    budgets: list[float | None] | None = None
    if options.epsilon:
        budgets = [None if text == "none" else float(text) for text in options.epsilon]
    methods = [method for method in PHASES if method in options.method]
    table = cells(data=data, sites=options.sites, epsilons=budgets, limit=options.limit, methods=methods)
    return [cell for cell in table if cell.split in options.split or cell.sites == 1]


def measured(open_jobs: list[Job], *, processes: int) -> Iterator[tuple[Job, dict[str, Any] | WardroundError]]:
    """Run jobs and yield each as it ends; a deliberate error ends its own job only."""
    if processes == 1:
        for job in open_jobs:
            yield job, attempted(job)
        return
    for job in open_jobs:  # caches are made before anybody runs beside anybody
        if job.cell is not None:
            quality_data.caches(job.cell, job.plan(), job.store)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(attempted, job): job for job in open_jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def attempted(job: Job) -> dict[str, Any] | WardroundError:
    """Run a job; its deliberate error is a result too."""
    try:
        return quality_runs.run(job)
    except WardroundError as error:
        return error


def summary(job: Job, line: dict[str, Any]) -> str:
    """A finished job on one line."""
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in line["seconds"].items())
    spent = "no DP" if line["epsilon"] is None else f"epsilon {line['epsilon']:.3f}"
    return f"{job_name(job)}: {line['score']:.4f}, Frechet {line['frechet']:.3f}, {spent}; {seconds}"


def job_name(job: Job) -> str:
    """A job in a few words."""
    return f"{job.cell.name if job.cell else f'{job.data}, real images'}, seed {job.seed}"


if __name__ == "__main__":
    sys.exit(main())
