"""Flower's SuperExec, started so that a ServerApp that is slow to start is waited for, and started once.

Flower gives a task to SuperExec for 30 s. If the process that was started for it has not spoken by then, the task goes
back. SuperExec starts another process while the first still loads. On a busy machine there were six, each slower for
the others. `flwr-serverapp` imports for three seconds of processor time before it first speaks.

A ServerApp also outlives a SuperExec that is killed. Its calls to the SuperLink are tried again for minutes.

There are three changes, each to one name of `flwr.supercore.superexec` in this process only.
`tests/server/test_coordinator_superexec.py` fails if a new Flower lacks one of these names.

claim     As long as the process that was started for a task lives, this process says so under the task's token, every
          10 s, for `PATIENCE_S` at most. By then it speaks for itself.
once      A task that comes back nevertheless ends the process that was started for it before.
bound     The kernel ends the process when this one ends, kill -9 included.
"""

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
from flwr.supercore.cli import flower_superexec
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor import subprocess_executor

from common.host import launch
from server.coordinator.home import Home

log = logging.getLogger(__name__)

BEAT_S = 10.0
"""Pause between two signs of life; Flower drops a task 30 s after it was taken and 60 s after a sign."""
PATIENCE_S = 900.0
"""Longest that a process is spoken for: one that hangs while it loads must not hold its task for ever."""

Beat = Callable[[str], bool]
"""Says under a token that its task is worked on; returns whether the SuperLink still thinks so, too."""


class Processes:
    """Stands where `subprocess_executor` has the module `subprocess`: what it starts is spoken for, once, and bound.

    Args:
        beat: Gives a sign of life under a token.
    """

    DEVNULL = subprocess.DEVNULL

    def __init__(self, beat: Beat) -> None:
        self._beat = beat
        self._task = 0
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def naming(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap Flower's `launch`, which does not tell `Popen` whose process it starts: remember the task."""

        def launched(executor: Any, spec: Any) -> Any:
            self._task = spec.task_id
            return original(executor, spec)

        return launched

    def Popen(self, arguments: Sequence[str], **others: Any) -> "subprocess.Popen[bytes]":  # noqa: N802 - as in subprocess
        """Start a task's process, after the end of any that was started for this task before."""
        before = self._running.pop(self._task, None)
        if before is not None and before.poll() is None:
            log.warning("a task came back; its first process is ended")
            before.kill()
            before.wait()
        process = subprocess.Popen(launch.bound(arguments), **others)
        self._running = {task: one for task, one in self._running.items() if one.poll() is None}
        self._running[self._task] = process
        token = arguments[list(arguments).index("--token") + 1]
        threading.Thread(target=self._speak_for, args=(process, token), name="claim", daemon=True).start()
        return process

    def _speak_for(self, process: "subprocess.Popen[bytes]", token: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=BEAT_S)
                return
            if not self._beat(token):
                return


def beats(address: str, authority: Path) -> Beat:
    """Signs of life over the Runtime API of our SuperLink."""

    def beat(token: str) -> bool:
        client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                RuntimeTokenHttpInterceptor(token),
            ],
        )
        try:
            return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except httpx.HTTPStatusError:
            return False  # the token is not good any more
        except httpx.HTTPError:
            return True  # the SuperLink is away for a moment
        finally:
            client.close()

    return beat


def adapt(home: Home) -> None:
    """Make the three changes."""
    processes = Processes(beats(home.superlink, home.ca_certificate))
    executor = subprocess_executor.SubprocessExecutor
    executor.launch = processes.naming(executor.launch)
    subprocess_executor.subprocess = processes


def main(arguments: list[str]) -> None:
    """Run for `HOME`."""
    home = Home.open(Path(arguments[0]))
    adapt(home)
    sys.argv = [
        "flower-superexec", "--runtime-api-address", home.superlink, "--root-certificates", str(home.ca_certificate),
        "--superexec-auth-secret-file", str(home.root / "secrets" / "superexec.secret"),
    ]  # fmt: skip
    flower_superexec()


if __name__ == "__main__":
    main(sys.argv[1:])
