"""The whole deployment as people run it: four daemons with TLS and node auth, `flwr run`, a release, nothing left."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "lab_deploy"


@pytest.mark.flows
@pytest.mark.timeout(900)
def test_lab_deploy_runs_a_study_by_flwr_run_and_leaves_no_process_behind(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    done = subprocess.run(
        [SCRIPT, "--out", lab], capture_output=True, text=True, timeout=880, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["left_behind"] == []
    assert result["rounds"] == 3
    plan = StudyPlan.load(lab / "plan.toml")
    assert set(result["epsilon_by_site"]) == {"north", "river", "hill"}
    assert all(0 < spent <= plan.privacy.epsilon for spent in result["epsilon_by_site"].values())
    assert result["images"] == result["synthetic"] == 8
    north, hub = ((lab / party / "serve.out").read_text() for party in ("north", "coordinator"))
    assert all(words in north for words in ("north: ready", "lab, round 1: ", "a noised verdict left"))
    assert all(words in hub for words in ("coordinator: ready", "site north: online", "study lab: running"))
    run = lab / "coordinator" / "home" / "studies" / "lab"
    card = json.loads((run / "card.json").read_text())
    assert (card["plan_digest"], card["simulated"]) == (plan.digest, False)
    assert Decoder.load(run / "decoder.safetensors").digest == card["decoder_digest"]
    assert all(set(record["replied"]) == {"north", "river", "hill"} for record in card["rounds"])
    for party in ("coordinator", "north", "river", "hill"):
        assert (lab / party).stat().st_mode & 0o077 == 0
        assert (lab / party / "home").stat().st_mode & 0o077 == 0
    assert not list(lab.rglob("client/app.py")), "no bundle was unpacked at a hospital"


@pytest.mark.flows
@pytest.mark.timeout(900)
def test_a_lab_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    lab, said = tmp_path / "lab", tmp_path / "said"
    with said.open("wb") as out:
        command = [SCRIPT, "--out", lab, "--hospitals", "2"]  # each costs 20 s of CPU, and one process is like another
        script = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    rounds = lab / "coordinator" / "home" / "studies" / "lab" / "checkpoints"
    while not any(rounds.glob("[0-9]*")):  # every process of a deployment is there, the ServerApp's too
        assert script.poll() is None, said.read_text()[-3000:]
        time.sleep(0.2)
    before = of_the_lab(lab)
    assert len(before) >= 12
    os.kill(script.pid, signal.SIGKILL)
    script.wait(timeout=60)
    _, alive = psutil.wait_procs(before, timeout=120)
    assert [process.pid for process in [*alive, *of_the_lab(lab)]] == []


def of_the_lab(folder: Path) -> list[psutil.Process]:
    """Processes whose command or environment names the lab's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.status() != psutil.STATUS_ZOMBIE and any(f"{folder}/" in word for word in words):
            found.append(process)
    return found
