"""The tiers of the tests: which are slow, and which file a worker takes first.

`tests/cpu_seconds.tsv` holds what was measured: CPU seconds, child processes included, for each test function that
takes a second or more, with one thread a process. To measure all, on one worker:

    OMP_NUM_THREADS=1 .venv/bin/python -m pytest -p tests.measure --cpu-seconds tests/cpu_seconds.tsv

A test is slow when it takes `SLOW_S` seconds or more, when its file is in `WHOLE`, or when it kills. `make check`
leaves slow tests out. Slow files begin first, the heaviest of them at the front, so that all workers end together.
"""

from functools import cache
from pathlib import Path

MEASURED = Path(__file__).parent / "cpu_seconds.tsv"
SLOW_S = 1.0
WHOLE = (
    # daemons, servers and processes that are killed in the middle of their work
    "tests/client/test_admission_hostile.py",
    "tests/client/test_crash.py",
    "tests/client/test_daemon_forwarder.py",
    "tests/client/test_daemon_runner.py",
    "tests/client/test_daemon_zygote.py",
    "tests/common/test_supervisor.py",
    "tests/server/test_coordinator_gateway.py",
    "tests/server/test_coordinator_serve.py",
    "tests/server/test_coordinator_shares.py",
    "tests/server/test_coordinator_superexec.py",
    # whole studies, releases and installations
    "tests/attacks/",
    "tests/deploy/test_bundle.py",
    "tests/deploy/test_central.py",
    "tests/deploy/test_demo_data.py",
    "tests/deploy/test_evidence.py",
    "tests/deploy/test_generate.py",
    "tests/deploy/test_imports.py",
    "tests/deploy/test_options.py",
    "tests/deploy/test_pages_in_browser.py",
    "tests/deploy/test_plain_output.py",
    "tests/deploy/test_release.py",
    "tests/deploy/test_simulate.py",
    "tests/server/test_rehearsal.py",
    "tests/server/test_report_in_browser.py",
    "tests/server/test_study.py",
    "tests/server/test_warm.py",
    # nets that are trained, attacked or measured
    "tests/client/test_audit.py",
    "tests/client/test_denoiser_training.py",
    "tests/client/test_evaluation_measures.py",
    "tests/client/test_hostile_weights.py",
    "tests/client/test_memorisation.py",
    # collections of DICOM files
    "tests/client/test_admission_corpus.py",
    "tests/client/test_dicom_cases.py",
    "tests/client/test_dicom_combinations.py",
    "tests/common/test_dicom_validators.py",
)
"""Beginnings of the names of slow tests, by what they do."""

ON_DISK = (
    "tests/attacks/test_twin_home.py",
    "tests/client/test_owner.py",
    "tests/client/test_place.py",
    "tests/common/test_disk.py",
    "tests/common/test_files.py",
    "tests/flows/",
)
"""Tests of what a disk does: inode generations, syncs, mounts; and whole deployments. Others may lie in memory."""


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
    return function.startswith(WHOLE) or "kill" in function or measured().get(function, 0.0) >= SLOW_S


def order(file: str) -> tuple[bool, bool, float]:
    """Where a file stands in a run: journeys first, then slow files, then by measured seconds."""
    return not file.startswith("tests/flows/"), not file.startswith(WHOLE), -seconds_of(file)
