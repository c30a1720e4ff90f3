"""Health of a daemon by `grpc.health.v1` on loopback: served by its own checks, asked by `status` and containers.

The protocol carries a state by service and nothing else; why a service is not serving stays in the home, where
`HealthServer.reasons` lets the daemon write it down. A check that raises is told by its type alone.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.errors import StateError

log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns "" when all is well, else the reason in words that hold no identifier."""

OVERALL = ""
SERVING, NOT_SERVING, UNREACHABLE = "SERVING", "NOT_SERVING", "UNREACHABLE"
_LOOPBACK = "127.0.0.1"


class HealthServer:
    """Answers `grpc.health.v1.Health` on a loopback port; one service for each check, "" for all that must be well.

    Before the first refresh everything is NOT_SERVING: a daemon proves that it is well.

    Args:
        port: TCP port on loopback; 0 takes a free one.
        checks: Check by service name.
        advice: Checks of what works now and will not for ever; services of their own that do not count in "".
        every_s: Pause between two refreshes, seconds.
        patience_s: Longest wait for one check, seconds; a check that takes longer is not serving until it returns.
        on_refresh: Called after each refresh with the reason by service.

    Raises:
        StateError: The port is taken.
    """

    def __init__(
        self,
        port: int,
        checks: Mapping[str, Check],
        *,
        advice: Mapping[str, Check] | None = None,
        every_s: float = 5.0,
        patience_s: float = 10.0,
        on_refresh: Callable[[dict[str, str]], None] = lambda _: None,
    ) -> None:
        self._checks, self._needed = {**checks, **(advice or {})}, frozenset(checks)
        self._every_s, self._patience_s = every_s, patience_s
        self._on_refresh = on_refresh
        self._reasons = dict.fromkeys(self._checks, "not checked yet")
        self._running: dict[str, Future[str]] = {}
        self._pool = ThreadPoolExecutor(max(1, len(self._checks)), thread_name_prefix="health-check")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="health", daemon=True)
        self._servicer = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(4, thread_name_prefix="health"), options=(("grpc.so_reuseport", 0),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self._show()
        try:
            self.port: int = self._server.add_insecure_port(f"{_LOOPBACK}:{port}")
        except RuntimeError as error:
            raise StateError(
                f"health port {port} on loopback is taken. Stop what holds it, or choose another"
            ) from error

    def start(self) -> Self:
        """Serve, and refresh in a thread of its own."""
        self._server.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Say NOT_SERVING to every watcher, then close the port."""
        self._ended.set()
        self._servicer.enter_graceful_shutdown()
        self._server.stop(grace=0.5).wait()
        if self._thread.is_alive():
            self._thread.join(timeout=self._patience_s + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def reasons(self) -> dict[str, str]:
        """Reason by service as of the last refresh; "" for a service that is well."""
        return dict(self._reasons)

    def refresh(self) -> dict[str, str]:
        """Run every check now and publish what they say; returns the reason by service."""
        for name, check in self._checks.items():
            if name not in self._running:  # a check that hangs is not started again
                self._running[name] = self._pool.submit(check)
        end = time.monotonic() + self._patience_s
        self._reasons = {name: self._result(name, end) for name in self._checks}
        self._show()
        return self.reasons

    def _result(self, name: str, end: float) -> str:
        try:
            reason = self._running[name].result(timeout=max(0.0, end - time.monotonic()))
        except NotInTime:
            return f"no answer within {self._patience_s:g} s"
        except Exception as error:
            log.exception("health check %s failed", name)
            reason = f"the check failed ({type(error).__name__})"
        del self._running[name]
        return reason

    def _show(self) -> None:
        states = health_pb2.HealthCheckResponse.ServingStatus
        for name, reason in self._reasons.items():
            self._servicer.set(name, states.Value(NOT_SERVING if reason else SERVING))
        ill = any(self._reasons[name] for name in self._needed)
        self._servicer.set(OVERALL, states.Value(NOT_SERVING if ill else SERVING))

    def _keep_fresh(self) -> None:
        while not self._ended.is_set():
            try:
                self._on_refresh(self.refresh())
            except Exception:
                log.exception("health could not be refreshed")
            self._ended.wait(self._every_s)


def ask(port: int, services: tuple[str, ...] = (OVERALL,), *, timeout_s: float = 5.0) -> dict[str, str]:
    """Ask a daemon on this machine for its health.

    Args:
        port: Its health port on loopback.
        services: Names to ask for; "" is the daemon as a whole.
        timeout_s: Longest wait for one answer, seconds.

    Returns:
        By service "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN", or "UNREACHABLE" without an answer.
    """
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(f"{_LOOPBACK}:{port}", options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {name: _state(stub, name, timeout_s) for name in services}


def _state(stub: health_pb2_grpc.HealthStub, service: str, timeout_s: float) -> str:
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
    except grpc.RpcError as error:
        return "SERVICE_UNKNOWN" if error.code() == grpc.StatusCode.NOT_FOUND else UNREACHABLE
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
