"""The coordinator's daemon: SuperLink, SuperExec and gateway as supervised children, health, and the steward."""

import json
import logging
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from common.display.terminal import say
from common.host import logs
from common.host.announcer import Announcer
from common.host.files import PRIVATE, write_atomically
from common.host.health import HealthServer
from common.host.supervisor import Child, Supervisor
from common.wire import pki
from server.coordinator import studies
from server.coordinator.authority import RENEW_DAYS
from server.coordinator.control import LOOPBACK
from server.coordinator.home import ANY, ANY_IPV4, Home, split_address
from server.coordinator.nodes import all_nodes
from server.coordinator.status import study_line
from server.coordinator.steward import Steward

log = logging.getLogger(__name__)

LEAST_DISK = 512 * 1024 * 1024
"""Free bytes below which the coordinator is not healthy."""
CERTIFICATES = ("ca/ca.crt", "tls/gateway.crt", "tls/superlink.crt")
AUTHORITY_DAYS = 365
"""The authority's end is told from this many days before it: every site must then be enrolled anew."""
_LOOKS = re.compile(r"ControlServicer\.List(Nodes|Runs)$|/(v1/control/list-(nodes|runs)|health) HTTP/1\.1\" 200")
"""What our own looks leave in the SuperLink's log, of either version of Flower."""
RENEW_EVERY_S = 3600.0
"""Pause between two looks at our own certificates."""


def serve(root: Path) -> None:
    """Run the coordinator of the home `root` until SIGTERM or SIGINT; children that die are started again.

    Raises:
        StateError: `root` is no home, its authority is gone, or it is served already.
    """
    home = Home.open(root)
    with home.served():
        home.complete()
        logs.set_up(home.root / "logs", "serve")
        state, announcer = _State(home), Announcer(lambda line: say(line, err=True))
        supervisor = Supervisor(children(home), on_change=state.set("children"))

        def on_round(connections: dict[str, str]) -> None:
            state.set("nodes")(connections)
            for site, connection in sorted(connections.items()):
                announcer.tell(f"site {site}", connection)

        def on_runs(runs: dict[str, dict[str, Any]]) -> None:
            state.set("runs")(runs)
            for folder in studies.all_studies(home):
                announcer.tell(f"study {folder.name}", study_line(folder))

        steward = Steward(home, on_round=on_round, on_runs=on_runs)
        needed = checks(home, supervisor, steward)
        ready = f"ready at {home.settings.address}"

        def on_refresh(reasons: dict[str, str]) -> None:
            state.set("health")(reasons)
            announcer.health("coordinator", reasons, needed=frozenset(needed), ready=ready)

        announcer.event("coordinator: starting; `wardround server status` shows more")
        with HealthServer(
            home.settings.health_port,
            needed,
            advice={"certificate-end": lambda: certificate_end(home)},
            on_refresh=on_refresh,
        ):
            steward.start()
            try:
                supervisor.run(on_tick=lambda: renew(home, supervisor), tick_s=RENEW_EVERY_S)
            finally:
                steward.stop()


def children(home: Home) -> list[Child]:
    """The coordinator's processes, in the order they start."""
    tls, secret = home.root / "tls", str(home.root / "secrets" / "superexec.secret")
    authority = str(home.ca_certificate)
    bin_folder = Path(sys.executable).parent
    env = {
        **home.environment(),
        "PATH": os.pathsep.join((str(bin_folder), os.environ.get("PATH", os.defpath))),
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
    }
    superlink = [
        str(bin_folder / "flower-superlink"), "--host", "127.0.0.1", "--port", str(home.settings.superlink_port),
        "--ssl-ca-certfile", authority, "--ssl-certfile", str(tls / "superlink.crt"),
        "--ssl-keyfile", str(tls / "superlink.key"), "--enable-supernode-auth", "--isolation", "process",
        "--superexec-auth-secret-file", secret, "--disable-runtime-dependency-installation",
        "--database", str(home.root / "superlink" / "state.db"),
    ]  # fmt: skip
    # -P: the folder the operator happens to stand in must not lend its own `server` package.
    superexec = [sys.executable, "-P", "-m", "server.coordinator.superexec", str(home.root)]
    gateway = [sys.executable, "-P", "-m", "server.coordinator", str(home.root)]
    later = home.settings.superlink_port
    return [
        Child(name="superlink", command=superlink, env=env, log_file=home.log("superlink"), clean=_plain),
        Child(
            name="superexec", command=superexec, env=env, log_file=home.log("superexec"), after_port=later, clean=_plain
        ),
        Child(name="gateway", command=gateway, env=env, log_file=home.log("gateway"), grace_s=15, after_port=later),
    ]


def renew(home: Home, supervisor: Supervisor) -> None:
    """Make our servers' certificates anew when they are due. The gateway takes its own up, the SuperLink starts again.

    A study survives that: its ServerApp waits for the SuperLink.
    """
    made = home.renew()
    for name in made:
        log.info("renewed the certificate of the %s", name)
    if "superlink" in made:
        supervisor.restart("superlink")


def _plain(line: str) -> str:
    """Leave out colours, and what the steward's looks write into the SuperLink's log every few seconds."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()
    return "" if _LOOKS.search(text) else text


def checks(home: Home, supervisor: Supervisor, steward: Steward) -> dict[str, Callable[[], str]]:
    """Health by service; each returns "" or the reason.

    Args:
        home: The coordinator's home.
        supervisor: What keeps the child processes running.
        steward: What the coordinator does by itself.
    """

    def running() -> str:
        stopped = [name for name, state in supervisor.state().items() if state["pid"] is None]
        return f"not running: {', '.join(stopped)}" if stopped else ""

    return {
        "processes": running,
        "superlink": lambda: _superlink(home),
        "gateway": lambda: _gateway(home),
        "certificates": lambda: _certificates(home),
        "disk": lambda: _disk(home),
        "nodes": steward.check,
    }


class _State:
    """`state.json`: what a running `serve` knows, for `status`."""

    def __init__(self, home: Home) -> None:
        self._path = home.root / "state.json"
        self._lock = threading.Lock()
        self._table: dict[str, Any] = {"pid": os.getpid(), "since": time.time()}
        self._write()  # what an earlier `serve` knew of nodes and health is not so any more

    def set(self, key: str) -> Callable[[Any], None]:
        """Return a function that stores a value under `key` and writes the file if anything changed."""

        def store(value: Any) -> None:
            with self._lock:
                if self._table.get(key) == value:
                    return
                self._table[key] = json.loads(json.dumps(value))
                self._write()

        return store

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(self._table, indent=1, sort_keys=True).encode(), mode=PRIVATE)


def _superlink(home: Home) -> str:
    context = ssl.create_default_context(cafile=home.ca_certificate)
    try:
        answer = httpx.get(f"https://{home.superlink}/health", verify=context, trust_env=False, timeout=8)
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"
    return "" if answer.status_code == 200 else f"answers with status {answer.status_code}"


def _gateway(home: Home) -> str:
    """A handshake without a certificate of ours: it shows the gateway's and is then refused, as it should be."""
    host, port = split_address(home.settings.listen)
    host = "127.0.0.1" if host in (ANY, ANY_IPV4) else host
    context = ssl.create_default_context(cafile=home.ca_certificate)
    try:
        with (
            socket.create_connection((host, port), timeout=8) as raw,
            context.wrap_socket(raw, server_hostname=home.settings.names[0]),
        ):
            return ""
    except OSError as error:
        return f"does not answer ({type(error).__name__})"


def _certificates(home: Home) -> str:
    for name in CERTIFICATES:
        if pki.days_left(pki.load_certificate(home.root / name)) < 1:
            return f"{name} ends within a day. See `wardround doctor`"
    return ""


def certificate_end(home: Home) -> str:
    """What to do about a certificate whose end is near; "" while there is time.

    Our servers' own are renewed 30 days before it, so one that has less left could not be.
    """
    if (days := pki.days_left(pki.load_certificate(home.ca_certificate))) < AUTHORITY_DAYS:
        return f"the authority ends in {days:.0f} days. Enrol every site anew under a new home before"
    for name in CERTIFICATES[1:]:
        if (days := pki.days_left(pki.load_certificate(home.root / name))) < RENEW_DAYS - 1:
            return f"{name} ends in {days:.0f} days and could not be renewed. See `server logs serve`"
    soon = {node.site: pki.days_left(node.certificates[0]) for node in all_nodes(home.nodes)[0] if node.certificate}
    told = [f"{site} in {days:.0f} days" for site, days in sorted(soon.items()) if days < RENEW_DAYS]
    return f"certificates of sites end: {', '.join(told)}. Ask them for `wardround site renew`" if told else ""


def _disk(home: Home) -> str:
    free = psutil.disk_usage(str(home.root)).free
    return "" if free >= LEAST_DISK else f"only {free // 2**20} MiB are free"
