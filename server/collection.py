"""One round's replies: ask every site, check and add each answer as it comes, ask again whoever lost its task."""

import logging
from dataclasses import dataclass, replace

from flwr.app import RecordDict

from common.errors import StateError
from common.messages import Refused, TrainRequest
from common.schedule import Round
from common.weights import Weights, digest
from server import quarantine
from server.aggregate import Aggregation
from server.exchange import Exchange, Failure
from server.quarantine import Quarantined
from server.roster import AWAY, FAILED, GRACE_S, LOOK_S, SILENT, Roster
from server.study import Receipt, Study

log = logging.getLogger(__name__)

MOST_ASKS = 8
"""How often a site that loses its task is asked in one attempt at a round."""
_TRANSIENT_ASKS = 3
"""How often a site is asked that answers with a plain `StateError`: a full disk or a crash may be over in a moment."""
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


class Collection:
    """The replies to one round. It outlives an attempt: a late answer to an earlier ask of the round still counts.

    Attributes:
        replied: Receipt by site name; each reply itself was added to the sum and dropped.
        missing: Reason by site name for every site that was asked and is not in the round.
    """

    def __init__(self, study: Study, exchange: Exchange, roster: Roster, step: Round) -> None:
        self._study, self._exchange, self._roster, self._step = study, exchange, roster, step
        self._inquiry = exchange.inquire()
        self._sum = Aggregation(study.plan, step, study.weights)
        self._asked: dict[int, _Asked] = {}
        self._names: dict[int, str] = {}
        self.replied: dict[str, Receipt] = {}
        self.missing: dict[str, str] = {}

    @property
    def quorum(self) -> bool:
        """Whether enough sites have replied."""
        return len(self.replied) >= self._study.plan.aggregation.min_sites

    def attempt(self) -> None:
        """Ask everyone who is missing; return when all is in, nothing more can come, or the deadline is over."""
        self._roster.look(afresh=True)
        self._names |= self._roster.sites
        self._asked = {node: _Asked() for node in self._open()}
        self.missing = {self._names[node]: SILENT for node in self._asked}
        end = self._exchange.now() + self._study.plan.aggregation.deadline_s
        next_look = float("-inf")
        while not self._ended() and self._exchange.now() < end:
            now, outage_s = self._exchange.now(), self._exchange.outage_s
            if now >= next_look:
                self._roster.look()
                self._ask_again(left_s=end - now)
                next_look = now + LOOK_S
            self._inquiry.look(self._take)
            end += self._exchange.outage_s - outage_s
            if not self._ended():
                self._exchange.pause()
        for node in self._open():
            if node not in self._roster.online:
                self.missing[self._names[node]] = AWAY

    def join(self) -> Weights:
        """The next global weights, from everything that has replied; the sum is used up.

        Raises:
            StudyStopped: The sites' releases cannot carry a model.
        """
        return self._sum.join()

    def _open(self) -> list[int]:
        """Nodes of sites that have not replied."""
        return [node for node, name in self._names.items() if name not in self.replied]

    def _ended(self) -> bool:
        hoped_for = [node for node in self._open() if not self._asked[node].over]
        return not hoped_for or (self.quorum and all(self._roster.gone_for(node) >= GRACE_S for node in hoped_for))

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
        request = TrainRequest(plan=self._study.plan.digest, round=self._step.number, arrays=self._study.weights)
        requests = {node: replace(request, last_head=self._study.last_head(self._names[node])) for node in due}
        sent = self._inquiry.ask(requests, ttl_s=left_s)
        for node in due:
            asked = self._asked[node]
            if asked.times:
                log.info("round %d: %s is asked again", self._step.number, self._names[node])
            asked.times += 1
            asked.lost, asked.since = node not in sent, self._roster.online[node].since
            asked.again_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (asked.times - 1))

    def _take(self, node: int, answer: RecordDict | Failure) -> None:
        """Check one answer on its own: a bad reply costs that site the round and nobody else anything."""
        name, asked = self._names[node], self._asked.get(node, _Asked())
        if name in self.replied:
            return
        if isinstance(answer, Failure):
            self.missing[name] = FAILED
            asked.lost, asked.over = answer.lost, not answer.lost
            return
        asked.over = True
        try:
            reply = quarantine.read(self._study.plan, self._step, self._study.weights, name, answer)
        except Quarantined as error:
            log.warning("round %d: the reply of %s is quarantined: %s", self._step.number, name, error)
            self.missing[name] = error.reason
            return
        if isinstance(reply, Refused):
            log.info("round %d: %s refuses: %s", self._step.number, name, reply.reason)
            self.missing[name] = reply.reason
            if reply.reason == StateError.__name__ and asked.times < _TRANSIENT_ASKS:
                asked.lost, asked.over = True, False
            return
        self._sum.add(reply)
        self.replied[name] = Receipt(update=digest(reply.arrays), epsilon=reply.epsilon, ledger_head=reply.ledger_head)
        self.missing.pop(name, None)
