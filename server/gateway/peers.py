"""Which Flower each site runs, as the gateway hears it: judged, and noted for `server status`."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from common.host.files import PRIVATE, write_atomically
from common.wire import flower_version

log = logging.getLogger(__name__)

FILE = "peers.json"
_VERSION = "flwr-package-version"
"""Header by which Flower's programs say their version; an old one that sends none is let in, as by Flower itself."""
_WRITE_EVERY_S = 60.0


class Peers:
    """Reads versions from requests.

    Args:
        root: The coordinator's home.
        ours: The SuperLink's version.
        now: A clock that only goes forward, seconds.
    """

    def __init__(self, root: Path, ours: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path, self._ours, self._now = root / FILE, ours, now
        self._known = read(root)
        self._unwritten: set[str] = set()
        self._written: dict[str, float] = {}

    def heard(self, site: str, headers: Mapping[str, str]) -> bool:
        """Note the version in a site's request; return whether it speaks with ours, as we or that site have tried."""
        said = flower_version.shown(headers.get(_VERSION, ""))
        if said and self._known.get(site) != said:
            self._known[site] = said
            self._unwritten.add(site)
        self._write_down()
        pair = {flower_version.minor(said), flower_version.minor(self._ours)}
        theirs = flower_version.listed(headers.get(flower_version.TRIED_HEADER, ""))
        return not said or flower_version.speak(said, self._ours) or pair <= theirs

    def _write_down(self) -> None:
        """Write and log what changed, once a minute for each site: a write holds up every site's requests."""
        now = self._now()
        due = {s for s in self._unwritten if now - self._written.get(s, -_WRITE_EVERY_S) >= _WRITE_EVERY_S}
        if not due:
            return
        self._unwritten -= due
        for site in sorted(due):
            self._written[site] = now
            log.info("the Flower of %s is %s, ours is %s", site, self._known[site], self._ours)
        try:
            write_atomically(self._path, json.dumps(self._known, sort_keys=True).encode(), mode=PRIVATE)
        except OSError as error:
            log.warning("the versions of the sites could not be written down: %s", type(error).__name__)


def read(root: Path) -> dict[str, str]:
    """Version by site, as it was last heard."""
    try:
        found = json.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(site): str(version) for site, version in found.items()} if isinstance(found, dict) else {}


def words(theirs: str, ours: str) -> str:
    """What `status` says of a site's version; "" where it is ours or unknown."""
    if not theirs or flower_version.minor(theirs) == flower_version.minor(ours):
        return ""
    if flower_version.speak(theirs, ours):
        return f"(Flower {theirs}, ours is {ours}: they work together)"
    older = _key(theirs) < _key(ours)
    side = "that site" if older else "this coordinator"
    return f"(Flower {theirs}, ours is {ours}: not tried here, so refused unless tried there; upgrade {side})"


def _key(version: str) -> list[int]:
    return [int(part) for part in flower_version.minor(version).split(".") if part]
