"""What one site may take of the gateway, so that no site takes from another: connections, requests, a rate.

A share is counted by site. Connections of certificates that no record knows have one share together. More connections
or requests than the share are refused; a request above the rate waits, because a SuperNode gives up on a refusal.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

from common.host.rate import Rate

log = logging.getLogger(__name__)

CONNECTIONS = 32
"""Most open connections of one site; its forwarder holds 16 at most."""
REQUESTS = 16
"""Most requests of one site at a time, from the first header to the last byte of the answer that was read."""
RATE_PER_S, BURST = 50.0, 200.0
"""Requests of one site in a second, and how many may come at once after a pause. A SuperNode asks 10 in a second."""
_SAY_EVERY_S = 60.0


class Shares:
    """Counts what each site holds now.

    Args:
        now: A clock that only goes forward, seconds.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._connections: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._rates: dict[str, Rate] = {}
        self._said: dict[tuple[str, str], float] = {}

    def connect(self, site: str) -> bool:
        """Count one more connection; False, and nothing is counted, where the site's share is used up."""
        return _take(self._connections, site, CONNECTIONS)

    def disconnect(self, site: str) -> None:
        """Give a connection back."""
        _give_back(self._connections, site)

    def begin(self, site: str) -> bool:
        """Count one more request; False, and nothing is counted, where the site's share is used up."""
        return _take(self._requests, site, REQUESTS)

    def end(self, site: str) -> None:
        """Give a request back."""
        _give_back(self._requests, site)

    def wait_s(self, site: str) -> float:
        """Take a request from the site's rate; return how long it must wait, seconds."""
        if site not in self._rates:
            self._rates[site] = Rate(burst=BURST, per_s=RATE_PER_S, now=self._now)
        return self._rates[site].take()

    def say(self, reason: str, site: str) -> None:
        """Log a refusal, each kind once a minute for each site: a flood must not fill the log."""
        now = self._now()
        if now - self._said.get((reason, site), -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said[reason, site] = now
            log.warning("refused a request: %s %s", reason, site)


def _take(counter: Counter[str], site: str, most: int) -> bool:
    if counter[site] >= most:
        return False
    counter[site] += 1
    return True


def _give_back(counter: Counter[str], site: str) -> None:
    counter[site] -= 1
    if counter[site] <= 0:
        del counter[site]
