"""A process that has loaded the installed client once and forks one child for each request.

Loading PyTorch and the client takes seconds; a fork takes milliseconds. This process runs no request itself, opens no
site, touches no GPU and starts no thread, so a child starts as clean as a new process. It bounds the child's memory and
time, and says how it ended. This process and the daemon survive every failure of the child.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from client.daemon import frames, task
from common.host import launch, logs

log = logging.getLogger(__name__)

DONE, MEMORY, TIME, CRASHED = "done", "memory", "time", "crashed"
"""How a child ended."""
_LOOK_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024 * 1024


def main(arguments: list[str]) -> None:
    """Serve the socket `FD` for the runner `PID`, until it is closed."""
    channel = socket.socket(fileno=int(arguments[0]))
    launch.die_with_parent(int(arguments[1]))
    logs.set_up_child()
    import client.app  # noqa: F401 - what the children are going to use
    from client.mechanism import half

    half.load()

    gc.collect()
    gc.freeze()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        log.warning("%d threads before the first request; a fork copies one", threads)
    frames.send(channel, {"ready": True})
    warmed: set[str] = set()
    while True:
        header, body = frames.receive(channel)
        _warm(Path(header["home"]), warmed)
        state, answer = _run(channel, header, body)
        del body
        frames.send(channel, {"state": state}, answer)


def _warm(home: Path, warmed: set[str]) -> None:
    """Work out the noise of each approved plan once, here: a child would forget it with its end."""
    from client.approval.approvals import approvals
    from common.plan.schedule import schedule

    for approval in approvals(home):
        if approval.plan.digest not in warmed:
            warmed.add(approval.plan.digest)
            try:
                schedule(approval.plan)
            except Exception as error:  # noqa: BLE001 - the child says what is wrong with the plan
                log.warning("the noise of a plan could not be worked out beforehand: %s", error)


def _run(channel: socket.socket, header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
    reader, writer = os.pipe()
    began, before = time.monotonic(), _resident()
    pid = os.fork()
    if pid == 0:
        _child(channel, writer, header, body)
    os.close(writer)
    try:
        state, answer = _watch(channel, reader, pid, began + header["seconds"], before, header["memory_mb"])
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if state == DONE and status != 0:
        state = TIME if os.waitstatus_to_exitcode(status) == -signal.SIGXCPU else CRASHED
    log.info("request %s after %.1f s", state, time.monotonic() - began)
    return state, answer if state == DONE else b""


def _child(channel: socket.socket, writer: int, header: dict[str, Any], body: bytes) -> None:
    """Answer, and end without running anything of the parent's; never returns."""
    status = 1
    try:
        parent = os.getppid()
        os.setpgid(0, 0)
        launch.die_with_parent(parent)
        channel.close()
        _fresh_randomness()
        task.limit(header)
        _write_all(writer, task.answer(body, header))
        status = 0
    except BaseException as error:  # noqa: BLE001 - even SystemExit: the end is below
        with contextlib.suppress(BaseException):
            log.error("a request failed: %s", error)  # noqa: TRY400 - its type alone
    finally:
        os._exit(status)


def _watch(
    channel: socket.socket, reader: int, pid: int, deadline: float, before: int, memory_mb: int
) -> tuple[str, bytes]:
    """Collect the child's answer until it closes the pipe, or stop waiting when it passes a limit."""
    answer = bytearray()
    while True:
        ready, _, _ = select.select([reader, channel.fileno()], [], [], _LOOK_S if memory_mb else 1.0)
        if channel.fileno() in ready:
            raise frames.Closed  # the runner is gone, no process waits for the answer
        if reader in ready:
            data = os.read(reader, 1024 * 1024)
            if not data:
                return DONE, bytes(answer)
            answer += data
        if time.monotonic() > deadline:
            return TIME, b""
        if memory_mb and _resident(pid) - before > memory_mb * _MIB:
            return MEMORY, b""


def _resident(pid: int | str = "self") -> int:
    """Resident bytes of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _fresh_randomness() -> None:
    """Undo the one thing a fork copies that must differ: no noise comes from these, but nothing may repeat."""
    import random

    import numpy as np
    import torch

    random.seed()
    np.random.seed(int.from_bytes(os.urandom(4)))  # noqa: NPY002 - the global one is what a fork copies
    torch.seed()


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


if __name__ == "__main__":
    with contextlib.suppress(frames.Closed):
        main(sys.argv[1:])
