"""How a hospital's daemon is, from its files and its health port: for `site status`, containers and monitoring."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from client.approval.approvals import Approval, active_plans, approvals, site_paused
from client.cohort.forms import forms, in_use
from client.daemon.home import DaemonHome, read_json
from client.daemon.meter import read_days
from client.site import place
from client.site.rules import SitePolicy
from common.display.plain import plain
from common.errors import CacheCorrupt, StateError
from common.host import health
from common.wire import flower_version, pki


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of one site's daemon.

    Attributes:
        site: The site's public name.
        running: Whether a daemon runs on this home.
        serving: Whether its health says that all is well.
        health: Reason by service, "" where it is well; {} when nothing runs.
        children: Process id, restarts and start by process.
        ports: Loopback port by use.
        coordinator: Where the site has enrolled; "" before.
        flower: Version of Flower here; the coordinator's is in `link`.
        certificate_days: Days until the client certificate ends; None without one.
        link: When and how the coordinator was last reached.
        traffic: Today's bytes and requests.
        moved: Why nothing serves here, of a home that is not where it was bound; "" for any other.
        paused: Since when the whole site is paused; "" when it is not.
        studies: State by study approved here; of a name that was used again, that of the plan that was not left, and
            with the beginnings of their digests where there are several.
        caches: By study that is not left, since when there is a training cache in its form; "" where there is none.
    """

    site: str
    running: bool
    serving: bool
    health: dict[str, str]
    children: dict[str, dict[str, Any]]
    ports: dict[str, int]
    coordinator: str
    flower: str
    certificate_days: float | None
    link: dict[str, Any]
    traffic: dict[str, Any]
    moved: str
    paused: str
    studies: dict[str, str]
    caches: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at the home `path`; raises `StateError` when it is not a site's."""
        home = DaemonHome(path.resolve())
        policy = SitePolicy.load(home.home)
        state = read_json(home.state)
        moved = _moved(home.home)
        running = not moved and _alive(state.get("pid"))  # a copy bears the process id of the home it was made of
        asked = health.ask(int(state["ports"]["health"])) if running and "ports" in state else {}
        paused = site_paused(home.home)
        today = time.strftime("%Y-%m-%d", time.gmtime())
        return cls(
            site=policy.name,
            running=running,
            serving=asked.get(health.OVERALL) == health.SERVING,
            health=dict(state.get("health", {})) if running else {},
            children=dict(state.get("children", {})) if running else {},
            ports=dict(state.get("ports", {})) if running else {},
            coordinator=str(read_json(home.identity / "coordinator.json").get("address", "")),
            flower=flower_version.installed(),
            certificate_days=_days_left(home),
            link=read_json(home.link),
            traffic=next((vars(day) for day in reversed(read_days(home.traffic)) if day.day == today), {}),
            moved=moved,
            paused=paused.at if paused else "",
            studies=_studies(approvals(home.home)),
            caches=_caches(home.home),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the status as plain JSON types."""
        return dict(vars(self))

    def text(self) -> str:
        """Return the status as a person reads it."""
        lines = [
            f"site {self.site}: {'serving' if self.serving else 'NOT serving'}{'' if self.running else ', stopped'}"
        ]
        lines += [f"  place        {self.moved}"] if self.moved else []
        lines += [f"  {name:<12} {plain(reason) or 'ok'}" for name, reason in self.health.items()]
        lines += [
            f"  {name:<12} process {child['pid'] or '-'}, started again {child['restarts']} times"
            for name, child in self.children.items()
        ]
        theirs = self.link.get("flower", "")
        days = "none" if self.certificate_days is None else f"{self.certificate_days:.0f} days left"
        lines += [
            f"  coordinator  {plain(self.coordinator) or 'not joined'}",
            f"  certificate  {days}",
            f"  flower       {self.flower} here{f', {theirs} at the coordinator' if theirs else ''}",
            f"  today        {self.traffic.get('sent', 0)} bytes out, {self.traffic.get('received', 0)} bytes in",
            f"  site         {f'paused since {self.paused}' if self.paused else 'not paused'}",
        ]
        lines += [f"  study        {plain(name)}: {state}" for name, state in self.studies.items()]
        none = "NONE in its image form; `wardround site ingest FOLDER`"
        lines += [
            f"  cache        {plain(name)}: {f'of {made}' if made else none}" for name, made in self.caches.items()
        ]
        return "\n".join(lines)


def _moved(home: Path) -> str:
    """Why a home serves nothing where it is; "" for one that was never served, too."""
    if not (home / place.PLACE).exists():
        return ""
    try:
        place.examine(home)
    except StateError as error:
        return str(error)
    return ""


def _caches(home: Path) -> dict[str, str]:
    try:
        made = {form.digest: form.made or "an earlier version" for form in forms(home)}
        return {plan.name: made.get(in_use(home, plan), "") for plan in active_plans(home)}
    except CacheCorrupt:
        return {plan.name: "" for plan in active_plans(home)}


def _studies(known: list[Approval]) -> dict[str, str]:
    by_name: dict[str, list[Approval]] = {}
    for approval in known:
        by_name.setdefault(approval.plan.name, []).append(approval)
    found = {}
    for name, plans in by_name.items():
        live = [approval for approval in plans if approval.state != "left"] or plans[-1:]
        for approval in live:
            found[name if len(live) == 1 else f"{name} {approval.plan.digest[:12]}"] = str(approval.state)
    return found


def _alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _days_left(home: DaemonHome) -> float | None:
    try:
        return round(pki.days_left(pki.load_certificate(home.client_certificate)), 1)
    except StateError:
        return None
