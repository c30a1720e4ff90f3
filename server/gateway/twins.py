"""Noticing one site in two places at once: two running copies of its home, which would each book half of the cost.

A hospital's forwarder sends two numbers with each request: its run, drawn at its start, and its count of requests
before. A forwarder that starts again takes another number. The old run has ended, but what it had sent may still be on
its way, in a proxy or a queue: as many requests as it holds connections, and no more. Which of two runs is the older is
not known: one that was never heard before may have ended before the other began. So two runs live at the same time if
each sends more than that after the other was heard. So does a second forwarder whose request comes twice. From then
on no request under that node key passes. People decide which of the two goes on, and give it new keys (`wardround
server invite`).

A forwarder of a version that says nothing of itself is passed as it is.
"""

import json
import logging
import re
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import WardroundError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from server.gateway.admission import Admitted

log = logging.getLogger(__name__)

HEADER = "x-wardround-instance"
FILE = "twins.json"
_FORM = re.compile(r"([0-9a-f]{32})\.(\d{1,18})")
_RUNS, _REQUESTS = 64, 4096
"""How many earlier runs of a forwarder, and requests of its present one, are remembered."""
LATE = 16
"""Most requests of an ended run that may still come: a forwarder holds so many connections, each with one request."""


@dataclass
class _Run:
    """What was heard of one run of a forwarder.

    Attributes:
        requests: How many requests.
        late: How many of them after another run took its place as the present one.
        older: How many requests of runs that seemed to follow it and were older, as it went on.
    """

    requests: int = 0
    late: int = 0
    older: int = 0


@dataclass
class _Heard:
    """What was heard under one node key.

    Attributes:
        runs: By name, in the order in which they seem to have begun; the last is the present one.
        recent: The present run's requests, by number.
    """

    runs: dict[str, _Run] = field(default_factory=dict)
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=_REQUESTS))

    def twice(self, name: str, request: int) -> bool:
        """Hear a request; return whether it shows that two forwarders live at once."""
        if name not in self.runs:
            self._present(name, _Run())
        run = self.runs[name]
        run.requests += 1
        if name != next(reversed(self.runs)):
            return self._comes_back(name, run)
        if request in self.recent:
            return True
        self.recent.append(request)
        return False

    def _comes_back(self, name: str, run: _Run) -> bool:
        """Hear a request of a run that another one seemed to follow; more than `LATE`, and it lives."""
        run.late += 1
        if run.late <= LATE:
            return False
        names = list(self.runs)
        run.older += sum(self.runs[other].requests for other in names[names.index(name) + 1 :])
        if run.older > LATE:
            return True
        run.late = 0
        self._present(name, self.runs.pop(name))
        return False

    def _present(self, name: str, run: _Run) -> None:
        self.runs[name] = run
        self.recent = deque(maxlen=_REQUESTS)
        for old in list(self.runs)[: -_RUNS - 1]:
            del self.runs[old]


class Twins:
    """Hears every request's instance and remembers for good which node key was in two places.

    Args:
        folder: The coordinator's home.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._known = read(folder)
        self._heard: dict[bytes, _Heard] = {}

    def refuses(self, admitted: Admitted, instance: str) -> bool:
        """Whether the request of `instance` must not pass, because this node key is in two places at once."""
        key = admitted.node_key.decode("ascii", "replace")
        if self._known.get(admitted.site, {}).get("node_key") == key:
            return True
        if (form := _FORM.fullmatch(instance)) is None or not self._twice(admitted.node_key, form):
            return False
        log.error("one node key is used in two places at once: %s", admitted.site)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._known = {**self._known, admitted.site: {"node_key": key, "at": at}}
        try:
            with told(self._path):
                write_atomically(self._path, json.dumps(self._known, sort_keys=True).encode(), mode=PRIVATE)
        except WardroundError as error:  # it is refused all the same, until this process ends
            log.error("could not be written down: %s", type(error).__name__)  # noqa: TRY400 - the type says it all
        return True

    def _twice(self, key: bytes, form: re.Match[str]) -> bool:
        return self._heard.setdefault(key, _Heard()).twice(form[1], int(form[2]))


def read(folder: Path) -> dict[str, dict[str, str]]:
    """What is known of sites in two places, by site: the node key, and when (UTC) it was noticed."""
    try:
        found: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {str(site): {"node_key": str(e["node_key"]), "at": str(e["at"])} for site, e in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
