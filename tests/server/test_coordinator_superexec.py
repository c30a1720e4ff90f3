"""A ServerApp that is slow to start is started once, and the contract with what of Flower's SuperExec that leans on."""

import inspect
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.superexec.executor import subprocess_executor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from server.coordinator import superexec
from server.coordinator.superexec import Processes
from tests.server.test_coordinator_serve import wait

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)", "--token", "t"]


def test_the_executor_starts_its_process_where_we_put_ours() -> None:
    source = inspect.getsource(subprocess_executor)
    assert source.count("subprocess.Popen(") == 2
    assert '"--token",\n            spec.token' in source
    assert {"task_id", "token"} <= set(ExecutionSpec.__dataclass_fields__)
    assert list(inspect.signature(subprocess_executor.SubprocessExecutor.launch).parameters) == ["self", "spec"]


def test_flower_still_takes_a_claim_back_after_its_interval_and_a_sign_of_life_still_renews_it() -> None:
    core = sql_corestate.SqlCoreState
    assert "timedelta(seconds=HEARTBEAT_DEFAULT_INTERVAL)" in inspect.getsource(core.claim_task)
    assert "starting_at=None" in inspect.getsource(core._cleanup_expired_task_tokens)
    renewed = inspect.getsource(core.acknowledge_task_heartbeat)
    assert "running_at" not in renewed, "a task that only starts is renewed, too"
    assert superexec.BEAT_S * 2 < 30


def test_a_process_is_spoken_for_while_it_lives_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superexec, "BEAT_S", 0.02)
    said: list[str] = []
    processes = Processes(lambda token: said.append(token) or True)  # type: ignore[func-returns-value]
    process = processes.Popen(SLEEPS)
    wait(lambda: len(said) > 3)
    process.kill()
    wait(lambda: not _speaking())
    assert set(said) == {"t"}


@pytest.mark.parametrize("still", ["the token is refused", "it took too long"])
def test_nobody_is_spoken_for_for_ever(monkeypatch: pytest.MonkeyPatch, still: str) -> None:
    monkeypatch.setattr(superexec, "BEAT_S", 0.02)
    monkeypatch.setattr(superexec, "PATIENCE_S", 600.0 if still == "the token is refused" else 0.2)
    process = Processes(lambda _: still != "the token is refused").Popen(SLEEPS)
    wait(lambda: not _speaking())
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_process_ends_with_a_superexec_that_is_killed() -> None:
    """Without it, a ServerApp asks for minutes a SuperLink that is gone."""
    code = "import sys, time; from server.coordinator.superexec import Processes\n"
    code += f"print(Processes(lambda _: True).Popen({SLEEPS!r}).pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait(lambda: SLEEPS[2] in child.cmdline())
        parent.kill()
    wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def _speaking() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "claim"]


def test_a_task_that_comes_back_ends_its_first_process_and_touches_no_other() -> None:
    processes = Processes(lambda _: True)
    launch = processes.naming(lambda _executor, _spec: processes.Popen(SLEEPS))
    first, other = (launch(None, SimpleNamespace(task_id=task)) for task in (1, 2))
    again = launch(None, SimpleNamespace(task_id=1))
    assert first.poll() == -signal.SIGKILL
    assert (other.poll(), again.poll()) == (None, None)
    for process in (other, again):
        process.kill()
        process.wait()
