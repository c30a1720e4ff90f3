"""What a running coordinator does by itself every few seconds: node keys to Flower, failed runs started again."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import StateError, WardroundError
from server.coordinator import studies
from server.coordinator.control import Run, SuperLink
from server.coordinator.home import Home
from server.coordinator.nodes import Node, all_nodes
from server.gateway.admission import flower_key
from server.study import progress, runs

log = logging.getLogger(__name__)

EVERY_S = 3.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


@dataclass(kw_only=True)
class _Tries:
    completed: int
    count: int = 0
    not_before: float = 0.0


class Steward:
    """Keeps the SuperLink as the home's files say it should be.

    Args:
        home: The coordinator's home.
        on_round: Called after each look with the connection state by site.
        on_runs: Called after each look with the newest run of each study: id, state, since when, Flower's words.
    """

    def __init__(
        self,
        home: Home,
        *,
        on_round: Callable[[dict[str, str]], None] = lambda _: None,
        on_runs: Callable[[dict[str, dict[str, Any]]], None] = lambda _: None,
    ) -> None:
        self._home = home
        self._on_round, self._on_runs = on_round, on_runs
        self._refused: set[bytes] = set()
        self._tries: dict[str, _Tries] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steward", daemon=True)
        self._last_success = time.monotonic()

    def start(self) -> None:
        """Look now and then, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(timeout=60)

    def check(self) -> str:
        """Health: "" while the last look that succeeded is recent."""
        silent_s = time.monotonic() - self._last_success
        return "" if silent_s < 60 else f"the SuperLink was last reached {silent_s:.0f} s ago"

    def look(self, link: SuperLink) -> None:
        """Do everything once; raises what `SuperLink` raises."""
        self._on_round(self.reconcile(link))
        self.resume_failed(link)
        self._last_success = time.monotonic()

    def reconcile(self, link: SuperLink) -> dict[str, str]:
        """Register enrolled keys, shut revoked ones out; return the connection state by site.

        A key without a record is left alone. The gateway lets no site use it, and a registration that is taken back can
        never be made again. So a lost record must not cost a site its key.
        """
        nodes, wanted, retired = self._records()
        registered = {node.key: node for node in link.nodes()}
        for key, site in wanted.items():
            if key not in registered and key not in self._refused:
                self._register(link, key, site)
        for key in retired & set(registered):
            link.unregister(registered[key].node_id)
            log.info("shut a node key out of the SuperLink")
        online = {site: registered[key].state for key, site in wanted.items() if key in registered}
        return {node.site: online.get(node.site, node.state) for node in nodes}

    def resume_failed(self, link: SuperLink) -> None:
        """Start a run again for each study whose last one failed, unless it waits for a person."""
        newest = self._newest_by_study(link)
        self._on_runs({run.folder.name: run.to_dict() for run in newest})
        for run in newest:
            if run.state != "failed" or not progress.goes_on_by_itself(run.folder):
                continue
            name, completed = run.folder.name, studies.rounds_saved(run.folder)
            tries = self._tries.setdefault(name, _Tries(completed=completed))
            if completed > tries.completed:
                tries = self._tries[name] = _Tries(completed=completed)
            if tries.count >= self._home.settings.resume_tries or time.monotonic() < tries.not_before:
                continue
            tries.count += 1
            tries.not_before = time.monotonic() + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**tries.count)
            try:
                studies.start(self._home, link, name)
                log.info("started a failed study again, try %d", tries.count)
            except StateError as error:  # one study's trouble is not the others'
                log.warning("could not start a failed study again: %s", type(error).__name__)

    def _newest_by_study(self, link: SuperLink) -> list[Run]:
        found: dict[Path, list[Run]] = {}
        for run in link.runs():
            if run.folder.parent == self._home.root / "studies":
                found.setdefault(run.folder, []).append(run)
        return [runs.newest_first(folder, listed)[0] for folder, listed in found.items()]

    def _records(self) -> tuple[list[Node], dict[bytes, str], set[bytes]]:
        """Records that can be read, site by wanted key, and keys to shut out."""
        nodes, _ = all_nodes(self._home.nodes)
        wanted = {flower_key(node.node_key): node.site for node in nodes if node.state == "enrolled"}
        retired = {flower_key(key) for node in nodes for key in node.retired_keys}
        return nodes, wanted, retired - set(wanted)

    def _register(self, link: SuperLink, key: bytes, site: str) -> None:
        try:
            link.register(key, name=site)
            log.info("registered the node key of %s", site)
        except StateError as error:
            self._refused.add(key)
            log.warning("the SuperLink did not take the node key of %s: %s", site, type(error).__name__)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with SuperLink(self._home) as link:
                    while not self._ended.wait(EVERY_S):
                        self.look(link)
            except WardroundError as error:
                log.warning("could not look after the SuperLink: %s", type(error).__name__)
            except Exception:
                log.exception("could not look after the SuperLink")
            self._ended.wait(EVERY_S)
