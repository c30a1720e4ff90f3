"""One decoder process as the daemon holds it: start, feed, listen, kill. Trusts nothing it hears."""

import contextlib
import fcntl
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import client
from client.admission.reasons import QUARANTINE, Reason
from client.admission.scan import Facts, Job, Outcome
from client.admission.settings import IngestSettings
from client.decoder.worker import SLOT_BYTES, SLOTS
from client.dicom.pixel_data import MAX_FRAMES

Picture = NDArray[np.float32]

_LONGEST_LINE = 1 << 16
_READ = 1 << 16
_FILE_DIGEST = 64
_SLOWEST_START = 120.0
LOOK_SECONDS = 5.0
"""Wall time that reading one picture for text may take."""
_STEEPEST_ASPECT = 64.0
_START = "import sys; sys.modules.update(requests=None, tqdm=None); from client.decoder.worker import main; main()"
"""Without the network code that pydicom would load for its test data: a decoder has no business there."""


class BrokenProtocol(Exception):
    """A process said something it has no right to say, or ended."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one file may cost.

    Attributes:
        seconds: Wall time of one file before its process is killed; each picture read for text adds 5 s.
        memory_bytes: Address space of a process beyond the memory shared with the daemon.
    """

    seconds: float = 60.0
    memory_bytes: int = 3 << 30


class DecodeProcess:
    """A running `client.decoder.worker`.

    Attributes:
        jobs: What it has been given and has not answered, in order; it works on the first.
        ready: Whether it has started.
    """

    def __init__(self, settings: IngestSettings, limits: Limits, *, ocr: bool, scratch: Path) -> None:
        descriptor = os.memfd_create("wardround-pictures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
        # sealed: a process that was taken over cannot shrink the memory under the daemon's feet
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._memory = mmap.mmap(descriptor, SLOTS * SLOT_BYTES)
        command = [
            sys.executable, "-P", "-c", _START,
            f"--memory-fd={descriptor}", f"--memory-limit={limits.memory_bytes + SLOTS * SLOT_BYTES}",
            f"--seconds={limits.seconds}", f"--settings={json.dumps(settings.to_dict())}",
        ]  # fmt: skip
        # a session of its own: what a decoder starts (dcmtk) dies with it, and Ctrl-C reaches the daemon alone
        self._process = subprocess.Popen(
            [*command, *(["--ocr"] if ocr else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, pass_fds=[descriptor], start_new_session=True, env=_environment(scratch),
        )  # fmt: skip
        os.close(descriptor)
        self.jobs: deque[Job] = deque()
        self.ready = False
        self._limits = limits
        self._ocr = ocr
        self._since = time.monotonic()
        self._buffer = b""
        self._pictures = 0
        self._outgoing: list[bytes] = []

    @property
    def pipe(self) -> BinaryIO:
        """What the process says comes out here."""
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]

    @property
    def seconds_left(self) -> float:
        """Seconds until it is late with its first file, or with its start."""
        looks = LOOK_SECONDS * self._pictures if self._ocr else 0.0
        allowed = self._limits.seconds + looks if self.ready else _SLOWEST_START
        return self._since + allowed - time.monotonic()

    def give(self, job: Job) -> None:
        """Queue a file, to be sent by `flush`."""
        if not self.jobs and self.ready:
            self._since = time.monotonic()
        self.jobs.append(job)
        self._send({"job": job.number, "path": str(job.path), "cleared": job.cleared})

    def listen(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived, the greeting left out.

        Raises:
            BrokenProtocol: The process has ended, or what arrived is no message.
        """
        chunk = os.read(self.pipe.fileno(), _READ)
        *whole, self._buffer = (self._buffer + chunk).split(b"\n")
        if not chunk or len(self._buffer) > _LONGEST_LINE:
            raise BrokenProtocol
        try:
            messages = [json.loads(line) for line in whole]
        except ValueError:
            raise BrokenProtocol from None
        if not self.ready and messages:
            if messages.pop(0) != {"ready": True}:
                raise BrokenProtocol
            self.ready = True
            self._since = time.monotonic()
        if not all(isinstance(message, dict) for message in messages):
            raise BrokenProtocol
        return messages

    def answers_first(self, message: dict[str, Any]) -> None:
        """Check that a message is about the file the process is at; raises `BrokenProtocol`."""
        if not self.jobs or message.get("job") != self.jobs[0].number:
            raise BrokenProtocol

    def picture(self, message: dict[str, Any]) -> tuple[Picture, float]:
        """Return the picture a message points at, and the aspect of its pixels (height over width).

        The picture is a view that is valid until `free`. Raises `BrokenProtocol` when it lies outside the memory, or
        when a file has more pictures than any may have.
        """
        self._pictures += 1
        if self._pictures > MAX_FRAMES:
            raise BrokenProtocol
        try:
            slot, height, width, aspect = (message[key] for key in ("slot", "height", "width", "aspect"))
            fits = slot in range(SLOTS) and height > 0 and width > 0 and 4 * height * width <= SLOT_BYTES
            if not fits or not 1 / _STEEPEST_ASPECT <= aspect <= _STEEPEST_ASPECT:
                raise BrokenProtocol
            flat = np.frombuffer(self._memory, np.float32, height * width, slot * SLOT_BYTES)
            return flat.reshape(height, width), float(aspect)
        except (KeyError, TypeError, ValueError):
            raise BrokenProtocol from None

    def free(self, message: dict[str, Any]) -> None:
        """Give the picture's place back, to be sent by `flush`."""
        self._send({"free": message["slot"]})

    def finish(self, message: dict[str, Any]) -> Outcome:
        """Take the first file off the queue and return its outcome; raises `BrokenProtocol` when it makes no sense."""
        outcome = _outcome(message)
        self.jobs.popleft()
        self._pictures = 0
        self._since = time.monotonic()
        return outcome

    def kill(self) -> None:
        """End the process and all it started, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._outgoing.append(json.dumps(message).encode() + b"\n")

    def flush(self) -> None:
        """Send what `give` and `free` have gathered; a process that is gone is noticed when its pipe is read."""
        assert self._process.stdin is not None
        if self._outgoing:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"".join(self._outgoing))
                self._process.stdin.flush()
            self._outgoing.clear()


def _environment(scratch: Path) -> dict[str, str]:
    """The variables a decoder needs: none of the daemon's, one thread, our own code and nothing from the folder."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ") if key in os.environ}
    root = str(Path(client.__file__).resolve().parents[1])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": root, "TMPDIR": str(scratch), "MALLOC_ARENA_MAX": "2"}


def _outcome(message: dict[str, Any]) -> Outcome:
    try:
        reason = None if message["reason"] is None else Reason(message["reason"])
        facts = None if message["facts"] is None else Facts.from_dict(message["facts"])
        digest = str(message["digest"])
    except (KeyError, TypeError, ValueError):
        raise BrokenProtocol from None
    if (reason is None and facts is None) or (reason in QUARANTINE and len(digest) != _FILE_DIGEST):
        raise BrokenProtocol
    return Outcome(reason=reason, facts=facts, digest=digest)
