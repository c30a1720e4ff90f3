"""How a simulation grows with the number of hospitals: seconds a round and peak memory, in-process and on Ray.

    python -m tests.benchmarks.simulate_scale [--sites 10 100 1000] [--engines inprocess ray]

One tiny hospital (24 patients) is admitted as always and its home copied under other names, so that what is measured is
the study and not admission. Each run is a process of its own. "per site" is a later round's median divided by the
number of sites: growth no worse than linear keeps it level or falling.
"""

import argparse
import csv
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from common.simulation import SimulationSetup
from deploy.data.demo_data import write_demo_hospitals
from deploy.simulation.simulate import SETUP, prepare
from tests.deploy.hospitals import PLAN

TINY = (
    PLAN.replace("rounds = 2", "rounds = 3").replace("local_steps = 3", "local_steps = 1")
    .replace("epsilon = 8\n", 'epsilon = 8\nphases = ["sgd"]\n').replace("min_sites = 2", "min_sites = 1")
    .replace("deadline_s = 120", "deadline_s = 3600").replace("images_per_label = 4", "images_per_label = 1")
)  # fmt: skip


def seed_run(folder: Path) -> Path:
    """A prepared run of one hospital."""
    (folder / "plan.toml").write_text(TINY)
    sites = write_demo_hospitals(folder / "hospitals", patients=(24, 24, 24), seed=3)
    prepare(folder / "plan.toml", sites[:1], folder / "one", seed=5)
    return folder / "one"


def copies(one: Path, run: Path, count: int) -> None:
    """A run of `count` hospitals, each a copy of the one under its own name."""
    run.mkdir()
    shutil.copy(one / "plan.toml", run)
    original = SimulationSetup.load(one / SETUP).homes[0]
    homes = [run / "sites" / f"site-{number:04d}" for number in range(count)]
    for home in homes:
        shutil.copytree(original, home)
        rules = (home / "site.toml").read_text()
        (home / "site.toml").write_text(rules.replace(f'"{original.name}"', f'"{home.name}"'))
    SimulationSetup(seed=5, homes=tuple(homes)).save(run / SETUP)


def peak_memory(process: psutil.Process, ended: threading.Event) -> list[float]:
    """Largest sum of proportional memory over the process and its children, MiB; kept up to date until `ended`."""
    peak = [0.0]

    def watch() -> None:
        while not ended.wait(1.0):
            total = 0
            try:
                for one in [process, *process.children(recursive=True)]:
                    total += one.memory_full_info().pss
            except psutil.Error:
                continue
            peak[0] = max(peak[0], total / (1 << 20))

    threading.Thread(target=watch, daemon=True).start()
    return peak


def measure(run: Path, engine: str, *, limit_s: float) -> tuple[list[float], float, float]:
    """Seconds of each round, seconds in all, peak MiB."""
    began, ended = time.monotonic(), threading.Event()
    script = (
        "import sys; from pathlib import Path; from deploy.simulation.simulate import start\n"
        "start(Path(sys.argv[1]), engine=sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, run, engine], stdout=subprocess.DEVNULL)
    peak = peak_memory(psutil.Process(process.pid), ended)
    try:
        if process.wait(timeout=limit_s) != 0:
            raise SystemExit(f"{engine} on {run} ended with {process.returncode}")
    finally:
        ended.set()
        if process.poll() is None:
            process.kill()
    rounds = [float(row["seconds"]) for row in csv.DictReader((run / "rounds.csv").read_text().splitlines())]
    return rounds, time.monotonic() - began, peak[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--engines", nargs="+", default=["inprocess", "ray"])
    parser.add_argument("--limit", type=float, default=3600.0, help="Longest run, seconds.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        one = seed_run(folder)
        print("engine      sites  first round s  later rounds s  ms per site  whole run s  peak MiB")
        for engine in arguments.engines:
            for count in arguments.sites:
                run = folder / f"{engine}-{count}"
                copies(one, run, count)
                rounds, whole, peak = measure(run, engine, limit_s=arguments.limit)
                later = statistics.median(rounds[1:])
                print(
                    f"{engine:10}  {count:5}  {rounds[0]:13.2f}  {later:14.2f}  {1000 * later / count:11.1f}"
                    f"  {whole:11.1f}  {peak:8.0f}",
                    flush=True,
                )
                shutil.rmtree(run)


if __name__ == "__main__":
    main()
