"""Two small files of the forwarder: bytes out and in by day, and how the coordinator was last reached."""

import contextlib
import email.utils
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.host import clocks
from common.host.files import PRIVATE, write_atomically

_KEPT_DAYS = 400
_WRITE_EVERY_S = 5.0


@dataclass(kw_only=True)
class Day:
    """One day (UTC) of traffic, in bytes of HTTP bodies and headers."""

    day: str
    sent: int = 0
    received: int = 0
    requests: int = 0


class Meter:
    """Counts bytes by day; written at most every few seconds, so that a kill loses at most those."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._days = {day.day: day for day in read_days(path)}
        self._written = 0.0

    def count(self, *, sent: int, received: int) -> None:
        """Add one request; raises nothing: a full disk must not stop the traffic."""
        today = time.strftime("%Y-%m-%d", time.gmtime())
        day = self._days.setdefault(today, Day(day=today))
        day.sent += sent
        day.received += received
        day.requests += 1
        if time.monotonic() - self._written >= _WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file now, if the disk lets it."""
        self._written = time.monotonic()
        lines = [json.dumps(asdict(self._days[day])) for day in sorted(self._days)[-_KEPT_DAYS:]]
        _try_to_write(self._path, "\n".join(lines) + "\n")


def read_days(path: Path) -> list[Day]:
    """Every day of the file that can be read, oldest first."""
    days: list[Day] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return days
    for line in lines:
        try:
            days.append(Day(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return sorted(days, key=lambda day: day.day)


@dataclass(kw_only=True)
class Link:
    """How the coordinator was last reached; times are UTC seconds since the epoch, 0 for never.

    Wall clocks are set, also backwards, so what has to be recent is told by the time since the machine's boot, too.

    Attributes:
        answered: When it last answered anything.
        registered: When it last accepted a call that only a registered and active node may make.
        status: HTTP status of its last answer.
        failed: When a call last failed to reach it.
        error: Type of that failure.
        skew_s: Its clock minus ours.
        flower: Version of its Flower, as its gateway last said; "" where an older gateway says none.
        boot: The boot of this machine that the next three are counted from.
        registered_up: `registered`, in seconds since that boot; 0 for never.
        answered_up: `answered` likewise.
        failed_up: `failed` likewise.
    """

    path: Path = field(repr=False)
    answered: float = 0.0
    registered: float = 0.0
    status: int = 0
    failed: float = 0.0
    error: str = ""
    skew_s: float = 0.0
    flower: str = ""
    boot: str = field(default_factory=clocks.boot)
    registered_up: float = 0.0
    answered_up: float = 0.0
    failed_up: float = 0.0
    _written: float = 0.0

    def saw_answer(self, *, method: str, status: int, date: str, flower: str = "") -> None:
        """Note an answer of the coordinator to a call of `method`.

        Args:
            method: Name of the Fleet call.
            status: Status of the HTTP answer.
            date: Its `Date` header.
            flower: Version of the coordinator's Flower; "" where it is not said.
        """
        now, before = time.time(), (self.status, self.flower)
        self.answered, self.answered_up, self.status, self.flower = now, clocks.uptime_s(), status, flower
        if status == 200 and method in ("pull-messages", "send-node-heartbeat", "activate-node"):
            self.registered, self.registered_up = now, clocks.uptime_s()
        with contextlib.suppress(TypeError, ValueError):
            self.skew_s = round(email.utils.parsedate_to_datetime(date).timestamp() - now, 1)
        self._write(now=(status, flower) != before)

    def saw_failure(self, error: str) -> None:
        """Note that a call did not reach the coordinator, by the type of the failure."""
        changed = error != self.error or self.failed_up < self.answered_up
        self.failed, self.error, self.failed_up = time.time(), error, clocks.uptime_s()
        self._write(now=changed)

    def _write(self, *, now: bool) -> None:
        if now or time.monotonic() - self._written >= 2.0:
            self._written = time.monotonic()
            table = {key: value for key, value in vars(self).items() if key not in ("path", "_written")}
            _try_to_write(self.path, json.dumps(table, sort_keys=True))


def _try_to_write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode(), mode=PRIVATE)
    except OSError:
        return
