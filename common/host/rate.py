"""A rate: so many at once after a pause, and then so many a second; what is above it is told how long to wait."""

import time
from collections.abc import Callable


class Rate:
    """A bucket of tokens that fills with time. It starts full; below 0 it counts those that wait.

    Args:
        burst: Most at once, 1 or more.
        per_s: How many a second in the long run, above 0.
        now: A clock that only goes forward, seconds.
    """

    def __init__(self, *, burst: float, per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_s, self._now = burst, per_s, now
        self._tokens, self._filled_at = burst, now()

    def take(self) -> float:
        """Take one; return how long it must wait for its turn, seconds."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_s) - 1
        self._filled_at = now
        return max(0.0, -self._tokens / self._per_s)
