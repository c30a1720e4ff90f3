"""Asking sites and hearing back over a Flower Grid: the only server module that sends, and the door of what comes.

An answer is decoded here, as the reply that its question asks for. Behind this door there are dataclasses alone.

What was asked is an `Inquiry`, and stays open until it is closed: an answer to any ask of it counts, early or late.
Answers are pulled in groups whose arrays fit a fixed size; those of a large model one by one. So memory does not grow
with the number of sites.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.wire.messages import (
    About,
    AboutReply,
    EvaluateRequest,
    Hello,
    HelloReply,
    Refused,
    Reply,
    TrainReply,
    TrainRequest,
    Unreadable,
    Verdict,
    pack,
    read_answer,
)
from common.wire.secure_messages import (
    ConfirmReply,
    ConfirmRequest,
    KeyReply,
    KeyRequest,
    MaskedRequest,
    RevealReply,
    RevealRequest,
    SecureReply,
    SecureRequest,
)

log = logging.getLogger(__name__)

POLL_S = 0.05
"""Pause between two looks at the inbox; Flower's own loop sleeps 3 s."""
_OUTAGE_S = 5.0
_GROUP_BYTES = 16 * 1024 * 1024
_GROUP_MOST = 100
_RAN = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.INVALID_FAB)

_T = TypeVar("_T")
Question = Hello | About | TrainRequest | EvaluateRequest | SecureRequest
Answer = Reply | SecureReply | Refused | Unreadable
_REPLIES: dict[type[Question], type[Reply | SecureReply]] = {
    Hello: HelloReply, About: AboutReply, TrainRequest: TrainReply, EvaluateRequest: Verdict,
    KeyRequest: KeyReply, MaskedRequest: TrainReply, ConfirmRequest: ConfirmReply, RevealRequest: RevealReply,
}  # fmt: skip
_KINDS = {
    Hello: MessageType.QUERY,
    About: MessageType.QUERY,
    TrainRequest: MessageType.TRAIN,
    EvaluateRequest: MessageType.EVALUATE,
    **dict.fromkeys((KeyRequest, MaskedRequest, ConfirmRequest, RevealRequest), MessageType.TRAIN),
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Flower's own word that a node did not answer.

    Attributes:
        lost: The task is gone but the site may be well: asking again is worth it.
    """

    lost: bool


@dataclass(frozen=True, kw_only=True)
class Node:
    """A connected node.

    Attributes:
        since: When it was last activated; another value than before means that it has lost its requests.
        name: The site that the coordinator enrolled it as; "" where nodes are not enrolled, as in simulations.
    """

    since: str = ""
    name: str = ""


Take = Callable[[int, Answer | Failure], None]


class Exchange:
    """A Grid seen as nodes that come and go, and one clock.

    Flower tries a call again until the SuperLink is back, however long that takes.

    Attributes:
        outage_s: Seconds that calls have waited for a SuperLink that was away; no site is to blame for them.

    Args:
        grid: Flower's way to the nodes.
        poll_s: Pause between two looks at the inbox, seconds.
        now: A clock that only moves forward, seconds.
        sleep: Waits that many seconds of it.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        poll_s: float = POLL_S,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._poll_s = poll_s
        self._sleep = sleep
        self.now = now
        self.outage_s = 0.0

    def nodes(self) -> dict[int, Node]:
        """Every node that is connected."""
        return {
            int(info.node_id): Node(since=str(info.last_activated_at), name=str(info.name))
            for info in self.call(self._grid.get_nodes)
        }

    def inquire(self) -> "Inquiry":
        """Open an inquiry in which no site was asked yet."""
        return Inquiry(self._grid, self.call)

    def call(self, method: Callable[..., Iterable[_T]], *arguments: object) -> list[_T]:
        """Call the Grid, and note how long it was away."""
        began = self.now()
        result = list(method(*arguments))
        if (took := self.now() - began) > _OUTAGE_S:
            log.warning("the SuperLink was away for %.0f s", took)
            self.outage_s += took
        return result

    def pause(self) -> None:
        """Wait a moment before the next look at the inbox."""
        self._sleep(self._poll_s)


class Inquiry:
    """Questions that are out, by message; each node may have been asked several times."""

    def __init__(self, grid: Grid, call: Callable[..., list[Any]]) -> None:
        self._grid, self._call = grid, call
        self._waiting: dict[str, tuple[int, type[Reply | SecureReply]]] = {}
        self._group = _GROUP_MOST

    def ask(self, questions: Mapping[int, Question], *, ttl_s: float) -> set[int]:
        """Send each node its question.

        Args:
            questions: Question by node.
            ttl_s: Seconds after which a question that no node has fetched is void.

        Returns:
            The nodes that the question is on its way to; a node that is not known to the SuperLink is not among them.
        """
        messages = {
            node: Message(record, dst_node_id=node, message_type=_KINDS[type(questions[node])], ttl=ttl_s)
            for node, record in self._records(questions).items()
        }
        if not messages:
            return set()
        stored = set(self._call(self._grid.push_messages, list(messages.values())))
        sent = {m.metadata.message_id: node for node, m in messages.items() if m.metadata.message_id in stored}
        self._waiting |= {ask: (node, _REPLIES[type(questions[node])]) for ask, node in sent.items()}
        return set(sent.values())

    def look(self, take: Take) -> None:
        """Hand every answer that has come to `take`, one at a time, as (node, answer or failure)."""
        waiting = list(self._waiting)
        for start in range(0, len(waiting), self._group):
            self._pull(waiting[start : start + self._group], take)

    def _pull(self, identifiers: list[str], take: Take) -> None:
        replies: list[Message] = self._call(self._grid.pull_messages, identifiers)
        while replies:
            reply = replies.pop()
            # An error reply names node 1 as its sender, so answers are matched by the message they reply to.
            asked = self._waiting.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            node, expected = asked
            if reply.has_error():
                log.info("node %d: Flower reports error %d", node, reply.error.code)
                take(node, Failure(lost=reply.error.code not in _RAN))
            else:
                take(node, read_answer(reply.content, expected))
            del reply

    def _records(self, questions: Mapping[int, Question]) -> dict[int, RecordDict]:
        """Each question as records. Equal arrays are turned once and shared: fifty copies of a model fit no server."""
        shared: dict[int, RecordDict] = {}
        records = {}
        for node, question in questions.items():
            if not isinstance(question, TrainRequest | EvaluateRequest):
                records[node] = question.to_record()
                continue
            if id(question.arrays) not in shared:
                shared[id(question.arrays)] = pack(question.to_record())
                size = sum(array.nbytes for array in question.arrays.values())
                self._group = max(1, min(_GROUP_MOST, _GROUP_BYTES // max(1, size)))
            record = dataclasses.replace(question, arrays={}).to_record()
            record["arrays"] = shared[id(question.arrays)]["arrays"]
            records[node] = record
        return records
