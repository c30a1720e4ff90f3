"""The runner's handle of the zygote: starts it, hands it a request, returns the answer or the failure, restarts it."""

import logging
import os
import socket
import subprocess
import sys
from typing import Any

from client.daemon import frames

log = logging.getLogger(__name__)

CRASHED = "crashed"


class ZygoteHandle:
    """The handle of a zygote that runs when it is needed. The zygote ends with the process that holds this handle."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ready = False

    def start(self) -> None:
        """Start the zygote if it is not running; it loads while the caller goes on."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a thread pool does not survive a fork
        command = [sys.executable, "-P", "-m", "client.daemon.zygote", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
            )
        self._channel = ours
        self._ready = False

    def answer(self, header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        """Have the zygote answer one request.

        Returns:
            How it ended ("done", "memory", "time" or "crashed") and the answer, b"" unless it is done.
        """
        try:
            self.start()
            assert self._channel is not None
            if not self._ready:
                frames.receive(self._channel)
                self._ready = True
            frames.send(self._channel, header, body)
            said, content = frames.receive(self._channel)
            return str(said["state"]), content
        except (frames.Closed, OSError, ValueError, KeyError) as error:
            log.warning("the process that answers requests ended: %s", error)
            self.stop()
            return CRASHED, b""

    def stop(self) -> None:
        """End the zygote, and with it a request that it works on."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._channel = None
