"""`wardround site serve`: forwarder, runner and SuperNode kept running, their state and health written down."""

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.daemon import join
from client.daemon.checks import certificate_end, checks
from client.daemon.home import Coordinator, DaemonHome, client_context
from client.daemon.news import News
from client.site import layout, place, private
from client.site.rules import DaemonSettings, SitePolicy
from common.display.terminal import say
from common.errors import StateError
from common.host import logs
from common.host.announcer import Announcer
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.host.health import HealthServer
from common.host.locks import locked
from common.host.owner import require_owner
from common.host.supervisor import Backoff, Child, Supervisor

log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024
"""Arrays leave in pieces of this size: a piece must get through within the forwarder's patience on a slow line."""
RESTART = Backoff(first_s=0.5, most_s=10.0)
"""Outlasts the minute in which a coordinator may still think that a killed node is online."""
RENEW_EVERY_S = 3600.0
"""Pause between two looks at the forwarder's certificate."""
LOOK_EVERY_S = 5.0
"""Pause between two looks at the node key."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def serve(path: Path) -> None:
    """Run the hospital's daemon of the home `path` until SIGTERM or SIGINT, then leave cleanly.

    Raises:
        StateError: The home is not that of a site that has joined a coordinator, or it is served already.
        HomeMoved: It is a copy, or was moved: this comes first, before anything speaks in the site's name.
        NotPermitted: It belongs to another user.
    """
    os.umask(0o077)  # Flower's own files, too
    home = DaemonHome(path.resolve())
    require_owner(home.home)
    policy = SitePolicy.load(home.home)
    Coordinator.load(home)
    client_context(home)
    with alone(home):
        place.require(home.home)
        private.close(home.home)
        join.prepare(home)
        logs.set_up(home.logs, "serve")
        ports = choose_ports(policy.daemon)
        state, announcer = _StateFile(home, ports), Announcer(lambda line: say(line, err=True))
        news = News(home.home, announcer)
        supervisor = Supervisor(children(home, ports), restart=RESTART, on_change=state.children)
        needed = checks(home, supervisor.state)

        def on_refresh(reasons: dict[str, str]) -> None:
            state.health(reasons)
            announcer.health(policy.name, reasons, needed=frozenset(needed), ready="ready, the coordinator is reached")
            news.look()

        health = HealthServer(
            ports["health"],
            needed,
            advice={"certificate-end": lambda: certificate_end(home)},
            on_refresh=on_refresh,
        )
        log.info("serving %s", policy.name)
        announcer.event(f"{policy.name}: starting; `wardround site status` shows more")
        home.link.unlink(missing_ok=True)  # how the coordinator was reached by an earlier run, perhaps by other keys
        keeper = Keeper(home, supervisor)
        with health:
            supervisor.run(on_tick=keeper.look, tick_s=LOOK_EVERY_S)
        home.state.unlink(missing_ok=True)


class Keeper:
    """Keeps the processes at the keys that the home has: a certificate that is due, a node key that is new.

    Args:
        home: The home.
        supervisor: Its processes.
    """

    def __init__(self, home: DaemonHome, supervisor: Supervisor) -> None:
        self._home, self._supervisor = home, supervisor
        self._node_key, self._renewed = _content(home.node_key), float("-inf")

    def look(self) -> None:
        """Look once; from the thread of the supervisor."""
        if time.monotonic() - self._renewed >= RENEW_EVERY_S:
            self._renewed = time.monotonic()
            renew(self._home, self._supervisor)
        found = _content(self._home.node_key)
        if found and found != self._node_key:  # the site has joined anew; without a key it is about to
            self._node_key = found
            log.info("the site has a new node key")
            self._supervisor.restart("supernode")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def renew(home: DaemonHome, supervisor: Supervisor) -> None:
    """Make the forwarder's certificate anew when it is due; both who show it and who believe it start again."""
    if join.renew_loopback(home):
        log.info("renewed the forwarder's certificate")
        for name in ("forwarder", "supernode"):
            supervisor.restart(name)


def children(home: DaemonHome, ports: dict[str, int]) -> list[Child]:
    """The hospital's processes in the order they start; the SuperNode is the first to end, and so can take leave."""
    root, forwarder, runtime = str(home.home), str(ports["forwarder"]), str(ports["runtime"])
    inside = inside_environment(home)
    return [
        _child(home, "forwarder", [root, forwarder], {**os.environ}, clean=True),
        _child(home, "runner", [root, runtime], inside, clean=True),
        _child(home, "supernode", [root, forwarder, runtime], inside, after_port=ports["forwarder"]),
    ]


def inside_environment(home: DaemonHome) -> dict[str, str]:
    """Environment of the processes that speak on loopback only: Flower's calls home off, no proxy in between."""
    kept = {key: value for key, value in os.environ.items() if key.lower() not in _PROXIES}
    return {
        **kept,
        "NO_PROXY": "127.0.0.1,localhost",
        "FLWR_HOME": str(home.home / layout.DAEMON / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def choose_ports(settings: DaemonSettings) -> dict[str, int]:
    """The ports of site.toml, or free ones in place of 0."""
    wanted = {
        "forwarder": settings.forwarder_port,
        "runtime": settings.runtime_port,
        "health": settings.health_port,
    }
    with contextlib.ExitStack() as held:
        for name, port in wanted.items():
            if port == 0:
                probe = held.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                wanted[name] = probe.getsockname()[1]
    return wanted


@contextlib.contextmanager
def alone(home: DaemonHome) -> Iterator[None]:
    """Hold the home for one daemon; raises `StateError` when another holds it."""
    busy = StateError(f"{home.home} is served already. Look with `wardround site status`, or stop that daemon")
    with contextlib.ExitStack() as held:
        with told(home.home):
            (home.home / layout.DAEMON).mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(locked(home.home / layout.DAEMON / "serve.lock", busy=busy))
        yield


def _child(
    home: DaemonHome, name: str, arguments: list[str], env: dict[str, str], *, clean: bool = False, after_port: int = 0
) -> Child:
    return Child(
        name=name,
        command=[sys.executable, "-P", "-m", f"client.daemon.{name}", *arguments],
        env=env,
        log_file=home.logs / f"{name}.jsonl",
        after_port=after_port,
        clean=logs.own_lines if clean else logs.flower_lines,
    )


class _StateFile:
    """`daemon/state.json`: what `site status` reads."""

    def __init__(self, home: DaemonHome, ports: dict[str, int]) -> None:
        self._path = home.state
        self._table: dict[str, Any] = {"pid": os.getpid(), "started": time.time(), "ports": ports}

    def children(self, state: dict[str, dict[str, Any]]) -> None:
        """Note the children."""
        self._table["children"] = state
        self._write()

    def health(self, reasons: dict[str, str]) -> None:
        """Note the reason by service."""
        self._table["health"] = reasons
        self._table["checked"] = time.time()
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is told by health, and must not end the daemon
            write_atomically(self._path, json.dumps(dict(self._table), sort_keys=True).encode(), mode=PRIVATE)
