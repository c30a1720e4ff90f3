"""One question to every site: ask, hear each answer alone, ask a site again that lost it, and stop at the deadline."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import DiskFull, DiskRefused, FileLocked, StateError
from server.protocol.exchange import Answer, Exchange, Failure, Question
from server.protocol.roster import AWAY, FAILED, GRACE_S, LOOK_S, SILENT, Roster

log = logging.getLogger(__name__)

MOST_ASKS = 8
"""How often a site that loses its task is asked in one attempt."""
_TRANSIENT_ASKS = 3
"""How often a site is asked that answers with one of `_PASSING`: a full disk or a crash may be over in a moment."""
_PASSING = frozenset(kind.__name__ for kind in (StateError, DiskRefused, DiskFull, FileLocked))
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


@dataclass
class _Asked:
    """How it stands with one site in this attempt.

    Attributes:
        times: How often it was asked.
        since: What it was connected since when it was last asked; "" while the question could not be sent.
        again_at: Earliest time of the next ask.
        lost: Flower said that the task is gone.
        over: Nothing more will come in this attempt: refused, quarantined or failed.
    """

    times: int = 0
    since: str = ""
    again_at: float = 0.0
    lost: bool = True
    over: bool = False


class Asking:
    """It outlives an attempt: a late answer to an earlier ask still counts.

    Args:
        exchange: The way to the sites.
        roster: Who they are.
        what: What is asked for, as it stands in the log.
        question: The question to a site, by its name.
        hear: Takes a site's answer; returns "" if it counts, else the reason why not.
        whom: Which sites are asked, by name.

    Attributes:
        replied: Names of the sites whose answer counts.
        missing: Reason by site name for every site that was asked and is not among them.
    """

    def __init__(
        self,
        exchange: Exchange,
        roster: Roster,
        *,
        what: str,
        question: Callable[[str], Question],
        hear: Callable[[str, Answer], str],
        whom: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._exchange, self._roster, self._what = exchange, roster, what
        self._question, self._hear, self._whom = question, hear, whom
        self._inquiry = exchange.inquire()
        self._asked: dict[int, _Asked] = {}
        self._names: dict[int, str] = {}
        self.replied: set[str] = set()
        self.missing: dict[str, str] = {}

    def attempt(self, *, deadline_s: float, enough: Callable[[], bool]) -> None:
        """Ask everyone who is missing; return when all is in, nothing more can come, or the deadline is over.

        Args:
            deadline_s: Longest wait, seconds; time that the SuperLink was away is not counted.
            enough: Whether what has come will do, so that a site that is gone is not waited for any longer.
        """
        self._roster.look(afresh=True)
        self._names |= {node: name for node, name in self._roster.sites.items() if self._whom(name)}
        self._asked = {node: _Asked() for node in self._open()}
        self.missing = {self._names[node]: SILENT for node in self._asked}
        end = self._exchange.now() + deadline_s
        next_look = float("-inf")
        while not self._ended(enough) and self._exchange.now() < end:
            now, outage_s = self._exchange.now(), self._exchange.outage_s
            if now >= next_look:
                self._roster.look()
                self._ask_again(left_s=end - now)
                next_look = now + LOOK_S
            self._inquiry.look(self._take)
            end += self._exchange.outage_s - outage_s
            if not self._ended(enough):
                self._exchange.pause()
        for node in self._open():
            if node not in self._roster.online:
                self.missing[self._names[node]] = AWAY

    def _open(self) -> list[int]:
        """Nodes of sites that have not replied."""
        return [node for node, name in self._names.items() if name not in self.replied]

    def _ended(self, enough: Callable[[], bool]) -> bool:
        hoped_for = [node for node in self._open() if not self._asked[node].over]
        return not hoped_for or (enough() and all(self._roster.gone_for(node) >= GRACE_S for node in hoped_for))

    def _ask_again(self, *, left_s: float) -> None:
        """Ask the connected sites that were not asked yet or have lost what they were asked."""
        now, due = self._exchange.now(), []
        for node in self._open():
            asked, seen = self._asked[node], self._roster.online.get(node)
            if asked.over or seen is None or now < asked.again_at:
                continue
            if asked.lost or asked.since != seen.since:
                asked.over = asked.times >= MOST_ASKS
                due += [] if asked.over else [node]
        sent = self._inquiry.ask({node: self._question(self._names[node]) for node in due}, ttl_s=left_s)
        for node in due:
            asked = self._asked[node]
            if asked.times:
                log.info("%s: %s is asked again", self._what, self._names[node])
            asked.times += 1
            asked.lost, asked.since = node not in sent, self._roster.online[node].since
            asked.again_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (asked.times - 1))

    def _take(self, node: int, answer: Answer | Failure) -> None:
        """Hear one answer on its own: a bad one costs that site its say and no other site anything."""
        name, asked = self._names[node], self._asked.get(node, _Asked())
        if name in self.replied:
            return
        if isinstance(answer, Failure):
            self.missing[name] = FAILED
            asked.lost, asked.over = answer.lost, not answer.lost
            return
        asked.over = True
        if not (reason := self._hear(name, answer)):
            self.replied.add(name)
            self.missing.pop(name, None)
            return
        log.info("%s: %s is missing: %s", self._what, name, reason)
        self.missing[name] = reason
        if reason in _PASSING and asked.times < _TRANSIENT_ASKS:
            asked.lost, asked.over = True, False
