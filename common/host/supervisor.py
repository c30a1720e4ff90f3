"""Keep child processes running: start in order, restart with growing pauses, end exactly one's own, in reverse order.

Promises
    A child that ends is started again, for ever, after a pause that doubles up to a limit. Every child leads a session
    and process group of its own and dies with the supervisor, however that ends (`common.host.launch`). What a child
    leaves in its group when it ends is killed before it is started again. Nothing is ever killed by name.
    One thread, no polling while nothing happens: output pipes, process ends and the wake-up pipe are one `select`.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.host import launch
from common.host.logs import PrivateFile

log = logging.getLogger(__name__)

_PORT_WAIT_S = 30.0
_LINE_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Pause before a restart: `first_s`, doubled each time up to `most_s`; it never gives up.

    Attributes:
        first_s: First pause, seconds.
        most_s: Longest pause, seconds.
        steady_s: A child that ran this long starts again with the first pause.
    """

    first_s: float = 1.0
    most_s: float = 15.0
    steady_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """Pause after `failures` ends in a row, the first being 1."""
        return float(min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30)))


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process to keep running.

    Attributes:
        name: Short name, in logs and state.
        command: Program and arguments; no shell.
        env: Its whole environment.
        log_file: Its standard output and error, rotated; mode 0600.
        grace_s: Seconds between SIGTERM and SIGKILL.
        after_port: It is started once this loopback port accepts connections, or half a minute has passed. 0: at once.
        clean: Applied to each line of its output before the line is written.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_file: Path
    grace_s: float = 10.0
    after_port: int = 0
    clean: Callable[[str], str] = str


@dataclass(kw_only=True)
class ChildState:
    """What is known of one child; times are UTC seconds since the epoch.

    Attributes:
        pid: Process id; None while it is not running.
        restarts: How often it was started again.
        since: When it last started or ended.
        last_exit: Exit status of its last end, negative for a signal; None before the first.
    """

    pid: int | None = None
    restarts: int = 0
    since: float = field(default_factory=time.time)
    last_exit: int | None = None


class Supervisor:
    """Keeps `children` running from `run` to `stop`.

    Args:
        children: In the order to start them; they are ended in the reverse order.
        restart: Pauses between restarts.
        on_change: Called, from the thread that runs `run`, with the state by name whenever it changes.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        restart: Backoff | None = None,
        on_change: Callable[[dict[str, dict[str, Any]]], None] = lambda _: None,
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(child, restart or Backoff(), self._selector) for child in children]
        self._on_change = on_change
        self._ended = threading.Event()
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._selector.register(self._awake, selectors.EVENT_READ, self._drain)

    def run(self, *, on_tick: Callable[[], None] | None = None, tick_s: float = 1.0) -> None:
        """Start the children and keep them running until `stop`, SIGTERM or SIGINT; then end them all.

        Signals are handled where this is the main thread. Call it from a thread that lives as long as the children are
        to live: they die with the thread that started them.

        Args:
            on_tick: Called about every `tick_s` seconds; what it raises is logged by type and changes nothing.
            tick_s: Seconds.
        """
        before: dict[str, dict[str, Any]] = {}
        next_tick = time.monotonic()
        with self._signals():
            try:
                while not self._ended.is_set():
                    self._start_what_is_due()
                    if (state := self.state()) != before:
                        self._call(self._on_change, before := state)
                    if on_tick and time.monotonic() >= next_tick:
                        self._call(on_tick)
                        next_tick = time.monotonic() + tick_s
                    self._wait(next_tick if on_tick else None)
            finally:
                self._end_all()
                self._call(self._on_change, self.state())

    def stop(self) -> None:
        """Have `run` end every child and return; callable from any thread and from a signal handler."""
        self._ended.set()
        with contextlib.suppress(OSError):  # the pipe is full: it is awake anyway
            os.write(self._wake, b"x")

    def restart(self, name: str) -> None:
        """Have one child end and start again, at the pace of any child that ends; from the thread of `run`."""
        for worker in self._workers:
            if worker.child.name == name and worker.process is not None:
                worker.process.terminate()

    def state(self) -> dict[str, dict[str, Any]]:
        """The state of each child by name, ready for JSON."""
        return {worker.child.name: asdict(worker.state) for worker in self._workers}

    def _start_what_is_due(self) -> None:
        """Start, in order, what is not running; a child that waits for a port holds back those after it at first."""
        for worker in self._workers:
            if worker.process is None and not worker.start_if_due() and not worker.started:
                return

    def _wait(self, next_tick: float | None) -> None:
        """Sleep until something happens or is due."""
        due = [worker.due for worker in self._workers if worker.process is None]
        due += [] if next_tick is None else [next_tick]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in self._selector.select(timeout):
            key.data()

    def _end_all(self) -> None:
        for worker in reversed(self._workers):
            worker.end(self._selector)

    def _drain(self) -> None:
        os.read(self._awake, 4096)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - the children matter more than their watchers
            log.warning("a watcher of the supervisor failed: %s", type(error).__name__)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGTERM, signal.SIGINT)
        old = {number: signal.signal(number, lambda *_: self.stop()) for number in wanted}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class _Worker:
    """One child's process, pipe and log file."""

    def __init__(self, child: Child, backoff: Backoff, selector: selectors.BaseSelector) -> None:
        self.child, self.state, self.due = child, ChildState(), time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.started = self._ending = False
        self._backoff, self._selector, self._failures = backoff, selector, 0
        self._port_deadline, self._began, self._pidfd, self._tail = 0.0, 0.0, -1, b""
        self._log = PrivateFile(child.log_file)

    def start_if_due(self) -> bool:
        """Start the process if its time has come; return whether it runs."""
        now = time.monotonic()
        if now < self.due:
            return False
        if self.child.after_port:
            self._port_deadline = self._port_deadline or now + _PORT_WAIT_S
            if now < self._port_deadline and not _listening(self.child.after_port):
                self.due = now + 0.1
                return False
        self._start()
        return self.process is not None

    def _start(self) -> None:
        self._port_deadline = 0.0
        try:
            self.process = subprocess.Popen(
                launch.bound(self.child.command),
                env=dict(self.child.env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            log.warning("%s could not be started: %s", self.child.name, type(error).__name__)
            self._plan_restart(None)
            return
        self._began = time.monotonic()
        self.state.restarts += self.started
        self.started = True
        self.state.pid, self.state.since = self.process.pid, time.time()
        self._pidfd = os.pidfd_open(self.process.pid)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._selector.register(self.process.stdout, selectors.EVENT_READ, self._read)
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._reap)
        log.info("started %s, process %d", self.child.name, self.process.pid)

    def _read(self) -> bool:
        """Copy what the child has said into its log file; return whether there may be more."""
        if self.process is None or self.process.stdout is None or self.process.stdout.closed:
            return False  # this very `select` reported its end as well
        try:
            data = os.read(self.process.stdout.fileno(), 65536)
        except BlockingIOError:
            return False
        if not data:  # closed by the child and all its children
            self._forget(self.process.stdout)
            return False
        *lines, self._tail = (self._tail + data).split(b"\n")
        if len(self._tail) > _LINE_BYTES:
            lines, self._tail = [*lines, self._tail], b""
        for line in lines:
            self._write(line)
        return True

    def _write(self, line: bytes) -> None:
        text = self.child.clean(line.decode("utf-8", "replace")).rstrip()
        if text:
            self._log.handle(logging.makeLogRecord({"msg": text}))

    def _reap(self) -> None:
        """The process has ended: read its last words, kill what it left in its group, plan the restart."""
        if self.process is None:
            return
        # Still a zombie here, so its group id cannot be another's yet.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        while self._read():
            pass
        if self._tail:
            self._write(self._tail)
            self._tail = b""
        self._plan_restart(self.process.wait())

    def _plan_restart(self, status: int | None) -> None:
        steady = self.process is not None and time.monotonic() - self._began >= self._backoff.steady_s
        self._failures = 1 if steady else self._failures + 1
        pause_s = self._backoff.pause_s(self._failures)
        if self._ending:
            log.info("%s ended with status %s", self.child.name, status)
        elif self.process is not None:
            log.warning("%s ended with status %s, starts again in %.1f s", self.child.name, status, pause_s)
        self._close()
        self.state.pid, self.state.since, self.state.last_exit = None, time.time(), status
        self.due = time.monotonic() + pause_s

    def end(self, selector: selectors.BaseSelector) -> None:
        """SIGTERM, wait `grace_s` while its output is still read, SIGKILL the whole group, reap."""
        self._ending = True
        if self.process is not None:
            self.process.terminate()
            deadline = time.monotonic() + self.child.grace_s
            while self.process is not None and (left_s := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    key.data()
        if self.process is not None:
            log.warning("%s did not end within %.0f s and is killed", self.child.name, self.child.grace_s)
            self.process.kill()
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            self._reap()
        self._log.close()

    def _close(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self._forget(self.process.stdout)
            self.process.stdout.close()
        if self._pidfd >= 0:
            self._forget(self._pidfd)
            os.close(self._pidfd)
        self.process, self._pidfd = None, -1

    def _forget(self, source: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)


def _listening(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False
