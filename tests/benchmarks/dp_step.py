"""Times one DP-SGD step of ours against the same step without privacy and against what Opacus offers.

    python -m tests.benchmarks.dp_step          28, 64 and 128 pixels; K = 1, 4, 16; one thread and two
    python -m tests.benchmarks.dp_step --sizes 28 --images 1 --threads 1 --rounds 15 --no-memory

All contestants take the same step (same patients, same passes, same Adam) in turn, round after round, so that whatever
else the machine does falls on all alike. A ratio is the median over rounds of a contestant's time over that of the
plain step of the same round. `noise` is the share of our step that vanishes where zeros take the place of the noise.
Memory is the growth of the resident set over three steps at its largest, each contestant in a process of its own.
Ghost clipping clips images, not patients, and is shown as it is.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import psutil
import torch

from client.mechanism.trainer import keep_heap
from tests.benchmarks.dp_contestants import CONTESTANTS, Contestant, Ours, Setting

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MIB = 2**20


@dataclass
class Row:
    """One line of the table."""

    size: int
    images: int
    threads: int
    plain_ms: float
    ratios: dict[str, float]
    noise: float
    memory: dict[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    warnings.filterwarnings("ignore")
    if options.child:
        print(json.dumps(dataclasses.asdict(measure(options)) if options.child == "time" else measure_memory(options)))
        return 0
    print(
        f"torch {torch.__version__}, {options.patients} patients a step, {options.rounds} rounds, {options.clock} time"
    )
    names = [name for name in CONTESTANTS if name != "plain"]
    print(f"{'px':>4} {'K':>3} {'thr':>3} {'plain ms':>9}  {'  '.join(f'{n:>6}' for n in names)}   noise   peak MiB")
    worst = 0.0
    for size, images, threads in itertools.product(options.sizes, options.images, options.threads):
        row = Row(**_child("time", size, images, threads, options))
        if options.memory:
            row.memory = {name: _child(name, size, images, threads, options) for name in CONTESTANTS}
        memory = " ".join(f"{name} {mib:.0f}" for name, mib in row.memory.items())
        ratios = "  ".join(f"{row.ratios[name]:6.2f}" for name in names)
        print(f"{size:4} {images:3} {threads:3} {row.plain_ms:9.1f}  {ratios}  {row.noise:5.1%}   {memory}", flush=True)
        worst = max(worst, row.ratios["ours"])
    print(f"largest ratio of ours to the plain step: {worst:.2f}")
    return 0


def measure(options: argparse.Namespace) -> Row:
    """Time all contestants in turn; in a process of its own, as threads of an earlier cell would slow this one."""
    (size,), (images,), (threads,) = options.sizes, options.images, options.threads
    torch.set_num_threads(threads)
    setting = Setting(size=size, images=images, patients=options.patients)
    entrants: dict[str, Contestant] = {name: kind(setting) for name, kind in CONTESTANTS.items()}
    entrants["without"] = Ours(setting, noise=False)
    keep_heap()
    clock, order = CLOCKS[options.clock], list(entrants)
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        times = {}
        for name in order:
            entrants[name].step()  # takes back caches and memory from the one before
            began = clock()
            entrants[name].step()
            times[name] = clock() - began
        rounds.append(times)
        order = order[1:] + order[:1]
    return Row(
        size=size,
        images=images,
        threads=threads,
        plain_ms=1e3 * statistics.median(times["plain"] for times in rounds),
        ratios={n: statistics.median(times[n] / times["plain"] for times in rounds) for n in CONTESTANTS},
        noise=1 - statistics.median(times["without"] / times["ours"] for times in rounds),
    )


def measure_memory(options: argparse.Namespace) -> float:
    """By how much three steps raise the resident set of this process, MiB."""
    (size,), (images,), (threads,) = options.sizes, options.images, options.threads
    torch.set_num_threads(threads)
    small = Setting(size=28, images=1, patients=2)
    keep_heap()
    CONTESTANTS[options.child](small).step()  # libraries are loaded and warm
    setting = Setting(size=size, images=images, patients=options.patients)
    entrant = CONTESTANTS[options.child](setting)
    before = psutil.Process().memory_info().rss
    with _Peak() as peak:
        for _ in range(3):
            entrant.step()
    return (peak.rss - before) / MIB


def _child(what: str, size: int, images: int, threads: int, options: argparse.Namespace) -> Any:
    """Run one cell of the table in a fresh process."""
    cell = ["--sizes", size, "--images", images, "--threads", threads, "--child", what]
    same = ["--patients", options.patients, "--rounds", options.rounds, "--clock", options.clock]
    command = [sys.executable, "-m", "tests.benchmarks.dp_step", *map(str, cell + same)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class _Peak(threading.Thread):
    """Samples the resident set of this process a thousand times a second and keeps the largest, bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rss = 0
        self._ended = threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.001):
            self.rss = max(self.rss, process.memory_info().rss)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128], help="image sides, pixels")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4, 16], help="images per patient, K")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--patients", type=int, default=64, help="patients in a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--child", choices=["time", *CONTESTANTS], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
