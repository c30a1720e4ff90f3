"""What a daemon says to the person or the journal that watches it: one line for each change, and no line twice."""

import threading
import time
from collections.abc import Callable, Mapping


class Announcer:
    """Says what is new of each subject. Callable from any thread.

    Args:
        say: Prints one line; it escapes what is data.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: dict[str, str] = {}
        self._lock = threading.Lock()

    def tell(self, subject: str, words: str) -> None:
        """Say the words, unless they are the last that were said of this subject; "" forgets it in silence.

        Args:
            subject: What the words are about, e.g. "site north".
            words: How it is now.
        """
        with self._lock:
            if self._told.get(subject, "") == words:
                return
            self._told[subject] = words
            if words:
                self.event(f"{subject}: {words}")

    def event(self, words: str) -> None:
        """Say what has happened; twice is twice."""
        self._say(f"{time.strftime('%H:%M:%S')}  {words}")

    def health(self, subject: str, reasons: Mapping[str, str], *, needed: frozenset[str], ready: str) -> None:
        """Say that a daemon is ready, or what keeps it from its work.

        Args:
            subject: The daemon's name.
            reasons: Reason by service, "" for one that is well (`common.host.health.HealthServer`).
            needed: Services that must be well; others are told as a warning.
            ready: What to say when all of them are.
        """
        ill = "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items()) if why and name in needed)
        self.tell(subject, f"NOT READY ({ill})" if ill else ready)
        for name in sorted(set(reasons) - needed):
            self.tell(f"warning, {name}", reasons[name])
