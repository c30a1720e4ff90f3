"""What "healthy" means at a hospital: registered, certificate valid, clock sane, ledger writable, cache readable.

Each check returns "" or a reason in words that hold no path, no count and no identifier.
"""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from client.daemon.home import Coordinator, DaemonHome, read_json
from common import flower_version, pki
from common.errors import StateError

CLOCK_S = 300.0
"""Flower refuses a node whose clock is further off than this."""
SILENCE_S = 90.0
"""A node gives a sign of life every half minute; after three it counts as not registered."""
FREE_BYTES = 64 * 1024 * 1024
EXPIRY_DAYS = 30
"""A client certificate's end is told from this many days before it."""


def checks(home: DaemonHome, state: Callable[[], Mapping[str, Mapping[str, Any]]]) -> dict[str, Callable[[], str]]:
    """Check by service name.

    Args:
        home: The site's home.
        state: The supervisor's state by child.
    """
    return {
        "processes": lambda: processes(state()),
        "registered": lambda: registered(home),
        "flower": lambda: flower(home),
        "certificate": lambda: certificate(home),
        "clock": lambda: clock(home),
        "ledger": lambda: ledger(home),
        "cache": lambda: cache(home),
    }


def processes(state: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether every child is running."""
    down = sorted(name for name, child in state.items() if child.get("pid") is None)
    return f"not running: {', '.join(down)}" if down else ""


def registered(home: DaemonHome) -> str:
    """Whether the coordinator lately accepted what only a registered, active node may ask."""
    link = read_json(home.link)
    if time.time() - float(link.get("registered", 0)) < SILENCE_S:
        return ""
    failed, answered = float(link.get("failed", 0)), float(link.get("answered", 0))
    if failed > answered:
        return _not_reached(home, str(link.get("error", "")))
    if answered and flower(home):
        return f"the coordinator answers {link.get('status')}: see `flower`"
    if answered:
        return f"the coordinator answers {link.get('status')}. Ask whether this site is enrolled and not revoked"
    return "the coordinator has not answered yet"


def flower(home: DaemonHome, ours: str = "") -> str:
    """Whether the coordinator's gateway takes this site's version of Flower."""
    link, ours = read_json(home.link), ours or flower_version.installed()
    if link.get("status") != flower_version.REFUSED:
        return ""
    return (
        f"this site runs Flower {ours}, the coordinator {link.get('flower')}; neither side has tried the two with each "
        "other, so it is refused. Install the newer wardround on whichever side is older"
    )


def _not_reached(home: DaemonHome, error: str) -> str:
    if error != "NameUnknown":
        return f"the coordinator is not reached ({error}). Check network, proxy and certificate"
    host = Coordinator.load(home).host
    return (
        f"the name {host} has no address here (DNS). Ask this hospital's network team for the name, or the coordinator "
        "whether it has another: `wardround site move`"
    )


def certificate_end(home: DaemonHome) -> str:
    """What to do about a client certificate whose end is near; "" while there is time."""
    try:
        days = pki.days_left(pki.load_certificate(home.client_certificate))
    except StateError:
        return ""  # which `certificate` tells
    if days >= EXPIRY_DAYS:
        return ""
    return f"the client certificate ends in {max(0.0, days):.0f} days. Run `wardround site renew` now"


def certificate(home: DaemonHome) -> str:
    """Whether the client certificate is valid now."""
    try:
        current = pki.load_certificate(home.client_certificate)
        pki.require_issued(current, pki.load_certificate(home.authority), what="the client certificate")
    except StateError:
        return "the client certificate is absent, expired or foreign. Run `wardround site renew` or join again"
    return ""


def clock(home: DaemonHome) -> str:
    """Whether this clock and the coordinator's agree."""
    skew_s = float(read_json(home.link).get("skew_s", 0))
    if abs(skew_s) > CLOCK_S:
        return f"this clock differs from the coordinator's by {abs(skew_s):.0f} s. Set it by NTP"
    return ""


def ledger(home: DaemonHome) -> str:
    """Whether the ledger could be written now, and the disk has room."""
    try:
        if shutil.disk_usage(home.home).free < FREE_BYTES:
            return "the disk is full. Free some space"
        path = home.home / "ledger.sqlite"
        if path.exists():
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        return f"the ledger cannot be written ({type(error).__name__}). Mend the rights of the site's home"
    return ""


def cache(home: DaemonHome) -> str:
    """Whether admitted scans are there and readable; each round checks every byte of them."""
    folder = home.home / "cache"
    try:
        name = (folder / "CURRENT").read_text(encoding="utf-8").strip()
        with (folder / name / "index.json").open("rb"), (folder / name / "images.npy").open("rb") as images:
            images.read(1)
    except (OSError, ValueError) as error:
        return f"no readable training cache ({type(error).__name__}). Run `wardround site ingest`"
    return ""
