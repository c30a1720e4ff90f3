"""What a secure round costs: CPU seconds, bytes and wall time of each leg, at one hospital and at the coordinator.

    python -m tests.benchmarks.secure_sum [--values 166177] [--hospitals 3,10,50]

All hospitals run one after the other in this process, with states on this disk. Gradients and sums over patients are
left out: the numbers are there already. The noise and the mask of one hospital are timed on their own.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from client.mechanism.discrete_gaussian import discrete_gaussian
from client.mechanism.randomness import SecureRandom
from common.secure.attempt import KeyBook, pack
from tests.client.secure_world import World

GOOD = {3: (1, 0), 4: (1, 1), 10: (1, 2), 50: (8, 8)}
"""c and d by H, as docs/operations.md advises."""
_T = TypeVar("_T")


def main() -> int:
    """Measure each number of hospitals and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=166_177)
    parser.add_argument("--hospitals", default="3,10,50")
    chosen = parser.parse_args()
    print(f"{chosen.values} values; CPU and wall time in milliseconds, for one hospital or for the coordinator")
    print(f"{'H':>3} {'c':>2} {'d':>2}  {'leg':32} {'CPU':>8} {'wall':>8} {'bytes in':>10} {'bytes out':>10}")
    for hospitals in map(int, chosen.hospitals.split(",")):
        measure(hospitals, chosen.values)
    return 0


def measure(hospitals: int, values: int) -> None:
    """Run one round with d hospitals gone after the keys, and print its legs."""
    colluding, dropouts = GOOD[hospitals]
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), hospitals, colluding, dropouts)
        random = np.random.default_rng(0)
        world.values = [random.integers(-(2**40), 2**40, values) for _ in range(hospitals)]

        def row(what: str, cpu: float, wall: float, *, into: int = 0, out: int = 0) -> None:
            print(f"{hospitals:3} {colluding:2} {dropouts:2}  {what:32} {1e3 * cpu:8.1f} {1e3 * wall:8.1f} "
                  f"{into:10,} {out:10,}", flush=True)  # fmt: skip

        _, cpu, wall = timed(lambda: discrete_gaussian(values, deviation=2.0**25, random=SecureRandom.from_os()))
        row("noise, one hospital", cpu, wall)
        (book, boxes), cpu, wall = timed(world.book)
        row("1 keys, one hospital", cpu / hospitals, wall / hospitals, out=96 + 65 * (hospitals - 1))
        there = range(hospitals - dropouts)
        sent, cpu, wall = timed(lambda: world.train(book, boxes, there))
        extra = 64 * hospitals + 32
        row("2 book, masks, one hospital", cpu / len(there), wall / len(there),
            into=len(book) + 65 * (hospitals - 1), out=8 * values + extra)  # fmt: skip
        signed, cpu, wall = timed(lambda: world.signatures(sent, there))
        row("3 signature, one hospital", cpu / len(there), wall / len(there), into=33 * len(there), out=64)
        revealed, cpu, wall = timed(lambda: {place: world.reveal(sent, signed, place) for place in there})
        row("4 shares, one hospital", cpu / len(there), wall / len(there),
            into=65 * 2 * len(there), out=sum(map(len, revealed[0])))  # fmt: skip
        clear, cpu, wall = timed(lambda: world.open(book, sent, revealed))
        row("opening, coordinator", cpu, wall, into=8 * values * len(there))
        exact = bool((clear == world.plain(there)).all())
        assert len(pack(KeyBook.of(book, world.attempt()).entries)) == len(book)
        print(f"    exact: {exact}")
        if not exact:
            sys.exit(1)


def timed(call: Callable[[], _T]) -> tuple[_T, float, float]:
    """What a call returns, its CPU seconds and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    sys.exit(main())
