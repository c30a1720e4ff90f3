"""Who takes part: every node that connects is asked its site's name, at the start and while rounds go on."""

import logging
from dataclasses import dataclass

from common.errors import MessageRefused, QuorumLost
from common.wire.messages import Hello, HelloReply, Refused
from server.aggregation.quarantine import OTHER_SITE
from server.protocol.exchange import Answer, Exchange, Failure, Node
from server.study import enrolled, progress
from server.study.study import Study

log = logging.getLogger(__name__)

SILENT, FAILED, AWAY, TWICE, LATE = "NoReply", "NodeFailed", "NotConnected", "DuplicateName", "JoinedLate"
"""Reasons the server itself gives for a missing site; others are error types or `server.aggregation.quarantine`'s."""
GREETING_S = 60.0
"""Longest that a study with a quorum waits for a node to say its name; one that takes longer joins the next round."""
GRACE_S = 90.0
"""How long a site may be gone before a round with a quorum goes on without it: Flower takes a node that died back
after 60 s."""
LOOK_S = 1.0
"""Pause between two looks at who is connected."""
_SETTLE_S = 2.0


@dataclass
class _Known:
    """A node that was greeted: as what, and what it said; "" for not yet."""

    node: Node
    name: str = ""
    reason: str = ""


class Roster:
    """The study's sites, kept up to date while it runs.

    Raises:
        StateError: The list of enrolled sites is there and cannot be read.
    """

    def __init__(self, study: Study, exchange: Exchange) -> None:
        self._study, self._exchange = study, exchange
        self._hello = exchange.inquire()
        self._enrolled = enrolled.load(study.folder)
        self._asked: dict[int, _Known] = {}
        self._gone_at: dict[int, float] = {}
        self._looked = float("-inf")
        self.sites: dict[int, str] = {}
        self.online: dict[int, Node] = {}

    def invite(self) -> None:
        """Wait for a quorum of sites that can take part, and a little for the rest.

        Raises:
            QuorumLost: After the plan's deadline there are still too few.
        """
        rules = self._study.plan.aggregation
        began, told = self._exchange.now(), dict[str, str]()
        while not self._complete(began):
            if (refused := self._refused()) != told:
                progress.tell(self._study.folder, told := refused)
            if self._exchange.now() - began >= rules.deadline_s:
                raise self._too_few()
            self._exchange.pause()

    def look(self, *, afresh: bool = False) -> None:
        """See who is connected, greet the new, read the names that came. Cheap to call often.

        Args:
            afresh: Greet also those that could not take part when they were last asked: they may have mended it.
        """
        self._hello.look(self._hear)
        if not afresh and self._exchange.now() - self._looked < LOOK_S:
            return
        self.online, self._looked = self._exchange.nodes(), self._exchange.now()
        for node in self.sites:
            if node in self.online:
                self._gone_at.pop(node, None)
            else:
                self._gone_at.setdefault(node, self._looked)
        new = [node for node, seen in self.online.items() if self._to_greet(node, seen, afresh=afresh)]
        for node in self._hello.ask(
            dict.fromkeys(new, Hello(plan=self._study.plan.digest)), ttl_s=self._study.plan.aggregation.deadline_s
        ):
            self._asked[node] = _Known(node=self.online[node])

    def gone_for(self, node: int) -> float:
        """Seconds since this site's node was first seen missing; 0 while it is connected."""
        return self._exchange.now() - self._gone_at[node] if node in self._gone_at else 0.0

    def absent(self) -> dict[str, str]:
        """Reason by name for everyone who is known and takes no part: refused, silent, or not connected (any more)."""
        absent = {
            self._called(node, known): known.reason or SILENT
            for node, known in self._asked.items()
            if node not in self.sites and (known.reason or node in self.online)
        }
        away = (self._study.joined() | self._enrolled) - set(self.sites.values()) - set(absent)
        return absent | dict.fromkeys(away, AWAY)

    def _refused(self) -> dict[str, str]:
        """Reason by name for everyone who said no."""
        return {self._called(node, known): known.reason for node, known in self._asked.items() if known.reason}

    def _complete(self, began: float) -> bool:
        """Whether the first round can begin; looks."""
        self.look()
        enough = len(self.sites) >= self._study.plan.aggregation.min_sites
        waited = self._exchange.now() - began
        silent = any(not known.name and not known.reason for known in self._asked.values())
        expected = self._study.joined() <= {*self.sites.values(), *self._unwilling()}
        if waited < LOOK_S:
            return enough and not silent and expected
        return enough and (not silent or waited >= GREETING_S) and waited >= (_SETTLE_S if expected else GRACE_S)

    def _unwilling(self) -> set[str]:
        """Names of those who said themselves that they cannot take part."""
        return {known.name for known in self._asked.values() if known.reason and known.name}

    def _to_greet(self, node: int, seen: Node, *, afresh: bool) -> bool:
        known = self._asked.get(node)
        if known is None or known.node != seen:
            return node not in self.sites
        return afresh and bool(known.reason)

    def _hear(self, node: int, answer: Answer | Failure) -> None:
        known = self._asked[node]
        if isinstance(answer, Failure):
            if answer.lost:
                del self._asked[node]  # greeted again at the next look
            else:
                known.reason = FAILED
            return
        if isinstance(answer, Refused):
            known.name, known.reason = answer.site, answer.reason
        elif not isinstance(answer, HelloReply) or answer.plan != self._study.plan.digest:
            known.reason = MessageRefused.__name__
        elif known.node.name not in ("", answer.site):
            known.name, known.reason = known.node.name, OTHER_SITE
        elif self._holder(answer.site) not in (None, node):
            known.reason = TWICE
        else:
            known.name, known.reason = answer.site, ""
            self.sites[node] = answer.site
            log.info("site %s takes part", answer.site)

    def _called(self, node: int, known: _Known) -> str:
        """The site of a node that takes no part, or its number where it never said and where another has that name."""
        name = known.name or known.node.name
        return name if name and name not in self.sites.values() else f"node-{node}"

    def _holder(self, name: str) -> int | None:
        """The node that has this name; a node that is gone gives it up, its site may have come back under a new key."""
        for node, taken in list(self.sites.items()):
            if taken == name:
                if node in self.online:
                    return node
                del self.sites[node]
        return None

    def _too_few(self) -> QuorumLost:
        rules, absent = self._study.plan.aggregation, self.absent()
        return QuorumLost(
            f"study {self._study.plan.name!r} needs {rules.min_sites} sites; {len(self.sites)} of {len(self.online)} "
            f"connected can take part{in_words(absent)}. Mend those sites, then resume"
        )


def in_words(missing: dict[str, str]) -> str:
    """Reasons by name as they stand in a message; "" for none."""
    return f" ({', '.join(f'{name}: {reason}' for name, reason in sorted(missing.items()))})" if missing else ""
