"""What `server status` and `server logs` show, from the home's files, the health port and the SuperLink."""

import datetime
import json
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.display.plain import plain
from common.errors import StateError
from common.host.health import ask
from common.wire import flower_version, pki
from server.coordinator import studies
from server.coordinator.home import Home
from server.coordinator.nodes import Node, all_nodes
from server.gateway import peers, twins
from server.gateway.admission import flower_key
from server.study import progress

_PROCESSES = ("serve", "superlink", "superexec", "gateway")
_CERTIFICATES = ("ca/ca.crt", "tls/gateway.crt", "tls/superlink.crt")


def table(home: Home) -> dict[str, Any]:
    """Everything, as plain JSON types.

    "healthy" is what gRPC health says, not that a process is alive. A site's "verdict_key" says whether the key of its
    verdicts is on record, null where the record is damaged. Without one its verdicts are not taken. Its "two_places" is
    when (UTC) its node key was seen in two places at once, "" for never. Nothing of it passes then until it has new
    keys.
    """
    running = home.is_served()
    known = _state(home) if running else {}
    online = known.get("nodes", {})
    nodes, damaged = all_nodes(home.nodes)
    versions, doubled = peers.read(home.root), twins.read(home.root)
    return {
        "home": str(home.root),
        "address": home.settings.address,
        "running": running,
        "flower": flower_version.installed(),
        "healthy": running and ask(home.settings.health_port)[""] == "SERVING",
        "reasons": {name: why for name, why in known.get("health", {}).items() if why},
        "processes": known.get("children", {}),
        "sites": {
            **{
                name: {
                    "state": "record damaged: restore it",
                    "connection": "",
                    "verdict_key": None,
                    "two_places": "",
                    "flower": "",
                }
                for name in damaged
            },
            **{
                node.site: {
                    "state": node.state,
                    "connection": online.get(node.site, ""),
                    "verdict_key": bool(node.verdict_key),
                    "flower": versions.get(node.site, ""),
                    "two_places": _two_places(node, doubled),
                }
                for node in nodes
            },
        },
        "studies": {
            folder.name: _study(folder, known.get("runs", {}).get(folder.name)) for folder in studies.all_studies(home)
        },
        "certificate_days": {
            name: round(pki.days_left(pki.load_certificate(home.root / name)), 1) for name in _CERTIFICATES
        },
        "fingerprint": pki.fingerprint(pki.load_certificate(home.ca_certificate)),
    }


def text(found: dict[str, Any]) -> str:
    """The same for a person."""
    state = "healthy" if found["healthy"] else "NOT HEALTHY" if found["running"] else "not running"
    lines = [f"coordinator {found['address']}: {state}"]
    lines += [f"  {name}: {plain(why)}" for name, why in found["reasons"].items()]
    lines += [f"  process {name}: {_process(child)}" for name, child in found["processes"].items()]
    lines += ["sites:"]
    lines += [f"  {plain(name)}: {plain(_site(site, found['flower']))}" for name, site in found["sites"].items()]
    lines += ["studies:"]
    lines += [f"  {plain(name)}: {plain(_words(one))}" for name, one in found["studies"].items()]
    lines += ["certificates:"]
    lines += [f"  {name}: {days:.0f} days left" for name, days in found["certificate_days"].items()]
    return "\n".join([*lines, f"authority: {found['fingerprint']}"])


def process_log(home: Home, name: str, lines: int) -> Iterable[str] | None:
    """Last lines of a process's own log; None when `name` is no process.

    Args:
        home: The coordinator's home.
        name: Name of the process.
        lines: Number of lines.
    """
    if name not in _PROCESSES:
        return None
    path = home.root / "logs" / ("serve.jsonl" if name == "serve" else f"{name}.log")
    try:
        with path.open(errors="replace") as file:
            return list(deque(file, maxlen=lines))
    except FileNotFoundError:
        return []


def study_log(home: Home, name: str, *, follow: bool) -> Iterator[str]:
    """The log of a study's newest run.

    Args:
        home: The coordinator's home.
        name: Name of the study.
        follow: Whether to go on as lines are written.

    Raises:
        StateError: No run of such a study is known, or the SuperLink does not answer.
    """
    from server.coordinator.control import SuperLink  # Flower takes seconds to load

    with SuperLink(home) as link:
        run = studies.last_run(link, home.study(name))
        if run is None:
            raise StateError(f"no run of a study {name!r} is known. `wardround server status` lists the studies")
        yield from link.log(run.run_id, follow=follow)


def _state(home: Home) -> dict[str, Any]:
    try:
        found = json.loads((home.root / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _study(folder: Path, run: dict[str, Any] | None) -> dict[str, Any]:
    """Where a study stands, and its newest run as the SuperLink knows it; None before the first, or without `serve`."""
    where = progress.read(folder)
    return {
        "run": run,
        "state": where.state,
        "rounds_saved": studies.rounds_saved(folder),
        "reason": where.reason,
        "message": where.message,
        "refused": where.refused,
    }


def _two_places(node: Node, doubled: dict[str, dict[str, str]]) -> str:
    found = doubled.get(node.site, {})
    same = node.node_key and found.get("node_key") == flower_key(node.node_key).decode("ascii", "replace")
    return found["at"] if same else ""


def _site(site: dict[str, Any], ours: str) -> str:
    unheard = site["state"] == "enrolled" and not site["verdict_key"]
    words = [
        site["state"],
        site["connection"] if site["connection"] != site["state"] else "",
        "(no verdict key: `wardround site renew` there)" if unheard else "",
        peers.words(site["flower"], ours),
    ]
    if site["two_places"]:
        words.append(
            f"(IN TWO PLACES AT ONCE since {site['two_places']}: a copy of its home is in use, and nothing of either "
            "passes. Call the hospital; see *A home that was copied or moved* in docs/operations.md)"
        )
    return " ".join(filter(None, words))


def study_line(folder: Path) -> str:
    """Where the study in `folder` stands, in one line that changes when it does: without what its run is doing."""
    return _words(_study(folder, None))


def _words(study: dict[str, Any]) -> str:
    why = f" ({study['message']})" if study["message"] else ""
    no = "".join(f"; {site} says no: {reason}" for site, reason in sorted(study["refused"].items()))
    return f"{study['state']}, {study['rounds_saved']} rounds saved{why}{no}{_run_words(study)}"


def _run_words(study: dict[str, Any]) -> str:
    """What the run is doing where the study's folder does not show it: it waits, starts, or has ended by itself."""
    run = study["run"]
    if run is None or study["state"] not in ("prepared", "interrupted"):
        return ""
    said = f"; run {run['run']} is {run['state']}{_since(run['since'])}"
    if run["state"] in ("starting", "running"):
        return f"{said}; its ServerApp loads"
    return f"{said}: {run['details']}" if run["details"] else said


def _since(stamp: str) -> str:
    try:
        began = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    if began.tzinfo is None:
        began = began.replace(tzinfo=datetime.UTC)
    return f" for {max(0.0, (datetime.datetime.now(datetime.UTC) - began).total_seconds()):.0f} s"


def _process(child: dict[str, Any]) -> str:
    running = f"running as {child['pid']}" if child["pid"] else "not running"
    return f"{running}, restarted {child['restarts']} times"
