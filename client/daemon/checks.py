"""What "healthy" means at a hospital: registered, certificate valid, clock sane, ledger writable, cache readable.

Each check returns "" or a reason in words that hold no path, no count and no identifier.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from client.approval.approvals import active_plans
from client.cohort.forms import CACHE_FOLDER, forms, missing
from client.daemon.home import Coordinator, DaemonHome, read_json
from client.site import layout
from common.errors import (
    CacheCorrupt,
    DiskFull,
    DiskReadOnly,
    DiskRefused,
    NoLocks,
    NotPermitted,
    StateError,
)
from common.host import clocks
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.wire import flower_version, pki

CLOCK_S = 300.0
"""Flower refuses a node whose clock is further off than this."""
SILENCE_S = 90.0
"""A node gives a sign of life every half minute; after three it counts as not registered."""
FREE_BYTES = 64 * 1024 * 1024
PROBE = "probe"
_PROBE_BYTES = b"0" * 4096
_TWO_PLACES = 409
_SHUT_OUT = (403, _TWO_PLACES)
"""Answers of the gateway to a site that may not enter: they count at once, and not after `SILENCE_S`."""
_LOOK = "Look in the system's log"
_CURES: dict[type[DiskRefused], str] = {
    DiskFull: "Free some space",
    DiskReadOnly: "Mount the file system writable",
    NotPermitted: "Give the whole home to the daemon's user (chown -R)",
    NoLocks: "Put the home on a local disk",
}
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
    """Whether the coordinator lately accepted what only a registered, active node may ask.

    By the time since this machine's boot: a wall clock that was set back would call any old stamp recent.
    """
    link = read_json(home.link)
    up = {key: float(link.get(f"{key}_up", 0)) for key in ("registered", "failed", "answered")}
    if link.get("boot") != clocks.boot():
        return "the coordinator has not answered yet"
    shut_out = link.get("status") in _SHUT_OUT and up["answered"] > up["registered"]
    if not shut_out and up["registered"] and 0 <= clocks.uptime_s() - up["registered"] < SILENCE_S:
        return ""
    if up["failed"] > up["answered"]:
        return _not_reached(home, str(link.get("error", "")))
    if link.get("status") == _TWO_PLACES:
        return (
            "the coordinator has seen this site in two places at once and lets neither pass. Stop the other copy of "
            "this home, then see *A home that was copied or moved* in docs/operations.md"
        )
    if up["answered"] and flower(home):
        return f"the coordinator answers {link.get('status')}: see `flower`"
    if up["answered"]:
        return f"the coordinator answers {link.get('status')}. Ask whether this site is enrolled and not revoked"
    return "the coordinator has not answered yet"


def flower(home: DaemonHome, ours: str = "") -> str:
    """Whether the coordinator's gateway takes this site's version of Flower."""
    link, ours = read_json(home.link), ours or flower_version.installed()
    if link.get("status") != flower_version.REFUSED:
        return ""
    return (
        f"this site runs Flower {ours}, the coordinator {link.get('flower')}; neither side has tried the two with each "
        "other, so it is refused. Install the newer wardround on the older side"
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
    """Whether the home could be written now, ledger included, and the disk has room: a file is written and synced."""
    probe, ledger_file = home.home / layout.DAEMON / PROBE, home.home / layout.LEDGER
    try:
        with told(home.home):
            if shutil.disk_usage(home.home).free < FREE_BYTES:
                return "the disk is full. Free some space"
            for file in (ledger_file, ledger_file.with_suffix(".seal"), ledger_file.with_suffix(".lock")):
                if file.exists():  # opened as a round opens it, and left as it is
                    os.close(os.open(file, os.O_RDWR | os.O_CLOEXEC))
            write_atomically(probe, _PROBE_BYTES, mode=PRIVATE)
            probe.unlink()
    except DiskRefused as error:
        return f"the ledger cannot be written ({type(error).__name__}). {_CURES.get(type(error), _LOOK)}"
    return ""


def cache(home: DaemonHome) -> str:
    """Whether scans were admitted in every form that an active plan needs; each round checks every byte of them."""
    try:
        found = forms(home.home)
        for form in found:
            folder = home.home / CACHE_FOLDER / form.generation
            with (folder / "index.json").open("rb"), (folder / "images.npy").open("rb") as images:
                images.read(1)
        lacking = missing(home.home, active_plans(home.home))
    except (OSError, ValueError, CacheCorrupt) as error:
        return f"no readable training cache ({type(error).__name__}). Run `wardround site ingest`"
    if not found:
        return "no training cache. Run `wardround site ingest`"
    names = ", ".join(sorted({plan.name for plan in lacking}))
    return f"no training cache in the image form of {names}. Run `wardround site ingest FOLDER`" if names else ""
