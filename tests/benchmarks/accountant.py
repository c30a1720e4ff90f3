"""What the accountant costs and finds, at the sizes of a hospital that has taken part in many studies.

    python -m tests.benchmarks.accountant [--ours]

Each case runs in a process of its own, ours and Google's dp-accounting in turn, and prints CPU seconds without imports,
the process's peak memory, and epsilon. `--ours` leaves Google's out, which takes minutes. Google's losses lie
on a step of 1e-4, or on that of `FINE`: too coarse a step overstates.
"""

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from common.accountant.accounting import GaussianEvent, epsilon
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan

DELTA = 1e-5
FINE = {"1 event of 1e7 steps": 1e-5, "200 rounds on all patients": 1e-3}
"""Step of Google's grid where it is not 1e-4."""


def _event(sigma: float, rate: float, steps: int) -> GaussianEvent:
    return GaussianEvent(sigma=sigma, sample_rate=rate, steps=steps)


def _studies(count: int) -> list[GaussianEvent]:
    """Studies of 200 rounds of 3 steps, each with its own noise and rate."""
    drawn = random.Random(0)
    return [
        one
        for number in range(count)
        for one in [_event(5 + drawn.random(), 0.05 + 0.001 * number, 3)] * 200
    ]  # fmt: skip


def _all_different(count: int) -> list[GaussianEvent]:
    drawn = random.Random(0)
    return [_event(5 + drawn.random(), 0.05 + 0.001 * drawn.random(), 3) for _ in range(count)]


def _plan(rounds: int) -> StudyPlan:
    return StudyPlan.parse(f'name = "long"\n[training]\nrounds = {rounds}\n')


def _rounds(count: int) -> list[GaussianEvent]:
    return [event for step in schedule(_plan(count)) for event in step.events]


CASES: dict[str, Callable[[], list[GaussianEvent]]] = {
    "1 study x 200 events": lambda: _studies(1),
    "5 studies x 200 events": lambda: _studies(5),
    "20 studies x 200 events": lambda: _studies(20),
    "50 studies x 200 events": lambda: _studies(50),
    "10,000 events, none like another": lambda: _all_different(10_000),
    "1 event of 1e7 steps": lambda: [_event(20.0, 0.001, 10**7)],
    "200 rounds on all patients": lambda: [_event(20.0 + number, 1.0, 1) for number in range(200)],
    "plan of 100 rounds": lambda: _rounds(100),
    "plan of 1,000 rounds": lambda: _rounds(1_000),
    "plan of 10,000 rounds": lambda: _rounds(10_000),
}
"""A plan's case counts what `schedule` takes: it derives the noise, and what every round costs."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="leave Google's accountant out")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--google", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.case:
        print(json.dumps(_google(options.case) if options.google else _ours(options.case)))
        return
    columns = f"{'CPU s':>11}  {'MB':>5}  {'epsilon':>10}"
    print(f"{'':34}  {'ours:':11}{'':22}Google's:\n{'case':34}  {columns}   {columns}")
    for case in CASES:
        ours = _apart(case)
        theirs = "" if options.ours or case.startswith("10,000") else _words(_apart(case, "--google"))
        print(f"{case:34}  {_words(ours)}   {theirs}", flush=True)


def _words(found: dict[str, float]) -> str:
    return f"{found['seconds']:11.2f}  {found['megabytes']:5.0f}  {found['epsilon']:10.5f}"


def _apart(case: str, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.accountant", "--case", case, *options]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def _measured(work: Callable[[], float]) -> dict[str, float]:
    before = time.process_time()
    found = work()
    seconds = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "megabytes": peak, "epsilon": found}


def _ours(case: str) -> dict[str, float]:
    return _measured(lambda: epsilon(CASES[case](), delta=DELTA))


def _google(case: str) -> dict[str, float]:
    """Google's accountant on the same events, equal ones put together first: one by one it would take hours."""
    from dp_accounting import dp_event
    from dp_accounting.pld import pld_privacy_accountant

    counted = Counter[tuple[float, float]]()
    for event in CASES[case]():
        counted[(event.sigma, event.sample_rate)] += event.steps

    def work() -> float:
        accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=FINE.get(case, 1e-4))
        for (sigma, rate), steps in counted.items():
            gaussian = dp_event.GaussianDpEvent(sigma)
            event = gaussian if rate == 1 else dp_event.PoissonSampledDpEvent(rate, gaussian)
            accountant.compose(dp_event.SelfComposedDpEvent(event, steps))
        return float(accountant.get_epsilon(DELTA))

    found = _measured(work)
    assert math.isfinite(found["epsilon"])
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
