"""Noticing one site in two places at once: two running copies of its home, which would each book half of the cost.

A hospital's forwarder says with each request which run of it this is - a number drawn when it starts - and how many
requests it sent before. A forwarder that starts again takes another number. The old run has ended, but what it had
sent may still be on its way, in a proxy or a queue: as many requests as it holds connections, and no more. So an old
run that comes back more often than that, or a request that comes twice, is of a second forwarder that lives at the
same time. From then on no request under that node key passes, of neither: which of the two is to go on is for people
to say, who then give it new keys (`wardround server invite`).

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
class _Heard:
    """What was heard under one node key.

    Attributes:
        run: The present run: the newest that was heard.
        late: By each earlier run, the number of its requests that came after a newer run was heard.
        requests: The present run's requests, by number.
    """

    run: str = ""
    late: dict[str, int] = field(default_factory=dict)
    requests: deque[int] = field(default_factory=lambda: deque(maxlen=_REQUESTS))


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
        if (form := _FORM.fullmatch(instance)) is None or not self._twice(admitted.node_key, form[1], int(form[2])):
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

    def _twice(self, key: bytes, run: str, request: int) -> bool:
        heard = self._heard.setdefault(key, _Heard())
        if run != heard.run:
            if run in heard.late:
                heard.late[run] += 1
                return heard.late[run] > LATE
            if heard.run:
                heard.late[heard.run] = 0
            for old in list(heard.late)[:-_RUNS]:
                del heard.late[old]
            heard.run, heard.requests = run, deque(maxlen=_REQUESTS)
        if request in heard.requests:
            return True
        heard.requests.append(request)
        return False


def read(folder: Path) -> dict[str, dict[str, str]]:
    """What is known of sites in two places, by site: the node key, and when (UTC) it was noticed."""
    try:
        found: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {str(site): {"node_key": str(e["node_key"]), "at": str(e["at"])} for site, e in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
