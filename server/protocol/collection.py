"""One round's replies: each is checked and added to the sum as it comes, then dropped."""

import logging
from dataclasses import replace

from common.model.weights import digest
from common.plan.schedule import Round
from common.wire.messages import Refused, TrainRequest
from server.aggregation import quarantine
from server.aggregation.quarantine import Quarantined
from server.aggregation.sums import round_sum
from server.mechanism.half import Total
from server.protocol.exchange import Answer, Exchange
from server.protocol.polling import Asking
from server.protocol.roster import Roster
from server.study import progress
from server.study.reminders import Reminders
from server.study.study import Receipt, Study

log = logging.getLogger(__name__)


class Collection:
    """The replies to one round. It outlives an attempt: a late answer to an earlier ask of the round still counts.

    Attributes:
        replied: Receipt by site name; each reply itself was added to the sum and dropped.
    """

    def __init__(self, study: Study, exchange: Exchange, roster: Roster, step: Round) -> None:
        self._study, self._step = study, step
        self._sum = round_sum(study.plan, step, study.weights, folder=study.folder)
        self._reminders = Reminders(study)
        self._request = TrainRequest(plan=study.plan.digest, round=step.number, arrays=study.weights)
        self._asking = Asking(exchange, roster, what=f"round {step.number}", question=self._question, hear=self._hear)
        self._refused: dict[str, str] = {}
        self.replied: dict[str, Receipt] = {}
        progress.tell(study.folder, {})

    @property
    def missing(self) -> dict[str, str]:
        """Reason by site name for every site that was asked and is not in the round."""
        return self._asking.missing

    def quorum(self) -> bool:
        """Whether enough sites have replied."""
        return len(self.replied) >= self._study.plan.aggregation.min_sites

    def attempt(self) -> None:
        """Ask everyone who is missing; return when all is in, nothing more can come, or the deadline is over."""
        self._asking.attempt(deadline_s=self._study.plan.aggregation.deadline_s, enough=self.quorum)

    def close(self) -> None:
        """Nothing of the round was kept."""

    def join(self) -> Total:
        """What everything that has replied comes to; nothing more is taken.

        Raises:
            StudyStopped: The total is none that honest sites could have made.
        """
        return self._sum.join()

    def _question(self, name: str) -> TrainRequest:
        return replace(self._request, last_head=self._reminders.to_send(name))

    def _hear(self, name: str, answer: Answer) -> str:
        reason = self._count(name, answer)
        if reason != self._refused.get(name, ""):
            self._refused = {**self._refused, name: reason}
            progress.tell(self._study.folder, {site: why for site, why in self._refused.items() if why})
        return reason

    def _count(self, name: str, answer: Answer) -> str:
        """Add a reply that is as it should be; else return the reason why it does not count."""
        try:
            reply = quarantine.counted(self._study.plan, self._step, name, answer)
            if not isinstance(reply, Refused):
                self._sum.check(reply)
        except Quarantined as error:
            log.warning("round %d: the reply of %s is quarantined: %s", self._step.number, name, error)
            return error.reason
        if isinstance(reply, Refused):
            self._reminders.refused(name, reply.reason)
            return reply.reason
        self._reminders.counted(name, reply.ledger_head)
        self._sum.add(reply)
        self.replied[name] = Receipt(update=digest(reply.arrays), epsilon=reply.epsilon, ledger_head=reply.ledger_head)
        return ""
