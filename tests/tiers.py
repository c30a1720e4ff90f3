"""The tiers of the tests: which are slow, and which file a worker takes first.

`tests/cpu_seconds.tsv` holds what was measured: CPU seconds, child processes included, for each test function that
takes a second or more. To measure again, on one worker:

    .venv/bin/python -m pytest -p tests.measure --cpu-seconds tests/cpu_seconds.tsv

A test is slow when it takes `SLOW_S` seconds or more, when its file is in `PROCESSES`, or when it kills. `make check`
leaves slow tests out. Files are sorted by their seconds, the heaviest first, so that all workers end together.
"""

from functools import cache
from pathlib import Path

MEASURED = Path(__file__).parent / "cpu_seconds.tsv"
SLOW_S = 1.5
PROCESSES = (
    "tests/client/test_admission_hostile.py",
    "tests/client/test_crash.py",
    "tests/client/test_daemon_runner.py",
    "tests/client/test_daemon_zygote.py",
    "tests/common/test_supervisor.py",
    "tests/server/test_coordinator_serve.py",
    "tests/server/test_coordinator_superexec.py",
)
"""Files whose tests start daemons or kill processes in the middle of their work."""


@cache
def measured() -> dict[str, float]:
    """CPU seconds by test, as `file::function`."""
    lines = MEASURED.read_text(encoding="utf-8").splitlines()
    return {test: float(seconds) for seconds, test in (line.split("\t") for line in lines if line)}


@cache
def seconds_of(file: str) -> float:
    """CPU seconds of all measured tests of a file."""
    return sum(seconds for test, seconds in measured().items() if test.startswith(f"{file}::"))


def is_slow(test: str) -> bool:
    """Whether a test, as `file::function[parameters]`, is left out of the fast tier."""
    function = test.partition("[")[0]
    return function.startswith(PROCESSES) or "kill" in function or measured().get(function, 0.0) >= SLOW_S
