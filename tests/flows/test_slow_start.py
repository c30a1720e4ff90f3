"""A ServerApp that takes longer to start than Flower waits: one process, and words for who looks."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.coordinator.home import Home
from server.study import progress
from tests.server.coordinators import make_home
from tests.server.test_coordinator_serve import COMMAND, PLAN, call, status, wait

SLOW = """
import sys, time
if any(part.endswith("flwr-serverapp") for part in sys.orig_argv):
    time.sleep(40)
"""


@pytest.mark.flows
@pytest.mark.timeout(600)
def test_a_server_app_that_takes_forty_seconds_to_start_is_started_once_and_status_says_so(tmp_path: Path) -> None:
    home = make_home(tmp_path / "coordinator")
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    (tmp_path / "plan.toml").write_text(PLAN.replace("deadline_s = 120", "deadline_s = 2"))
    path = os.pathsep.join(filter(None, (str(tmp_path / "slow"), os.environ.get("PYTHONPATH"))))
    with (tmp_path / "out").open("wb") as out:
        serve = subprocess.Popen(
            [*COMMAND, home.root], stdout=out, stderr=out, env={**home.environment(), "PYTHONPATH": path}
        )
    try:
        wait(lambda: status(home)["healthy"])
        run = call(home, "start", tmp_path / "plan.toml")["run"]
        wait(lambda: _apps(serve.pid))
        seen: list[int] = []
        states: set[str] = set()
        while progress.read(home.study("tiny-phantoms")).state == "prepared":
            seen.append(len(_apps(serve.pid)))
            states.add(str(_run(home)["state"]))
            time.sleep(0.5)
        assert max(seen) == 1
        assert "starting" in states
        wait(lambda: progress.read(home.study("tiny-phantoms")).state == "paused")
        assert _run(home)["run"] == run
    finally:
        serve.terminate()
        serve.wait(60)


def _apps(pid: int) -> list[psutil.Process]:
    """ServerApps below a process."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if any(part.endswith("flwr-serverapp") for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _run(home: Home) -> dict[str, Any]:
    study: dict[str, Any] = status(home)["studies"]["tiny-phantoms"]
    return study["run"] or {"state": "", "run": 0}  # type: ignore[no-any-return]
