"""Asking sites and hearing back over a Flower Grid, with a deadline: the only server module that sends."""

import logging
import time
from collections.abc import Iterator, Mapping

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.messages import EvaluateRequest, Hello, TrainRequest

log = logging.getLogger(__name__)

POLL_S = 0.05
"""Pause between two looks at the inbox; Flower's own loop sleeps 3 s."""

_KINDS = {Hello: MessageType.QUERY, TrainRequest: MessageType.TRAIN, EvaluateRequest: MessageType.EVALUATE}


class Exchange:
    """A Grid seen as one question to each of many nodes."""

    def __init__(self, grid: Grid, *, poll_s: float = POLL_S) -> None:
        self._grid = grid
        self._poll_s = poll_s

    def nodes(self, *, at_least: int, wait_s: float) -> list[int]:
        """Wait until `at_least` nodes are connected or `wait_s` has passed; return those that are, in order."""
        end = time.monotonic() + wait_s
        while len(nodes := sorted(self._grid.get_node_ids())) < at_least and time.monotonic() < end:
            time.sleep(max(self._poll_s, 0.5))
        return nodes

    def ask(
        self, questions: Mapping[int, Hello | TrainRequest | EvaluateRequest], *, deadline_s: float
    ) -> Iterator[tuple[int, RecordDict | None]]:
        """Send each node its question and yield (node, answer) as answers come, until all did or time is up.

        Yields None as the answer of a node that Flower reports as failed; nodes that stay silent are not yielded.
        """
        messages = [
            Message(
                question.to_record(),
                dst_node_id=node,
                message_type=_KINDS[type(question)],
                ttl=deadline_s + 60,
            )
            for node, question in questions.items()
        ]
        # An error reply names node 1 as its sender, so answers are matched by the message they reply to.
        waiting = dict(zip(self._grid.push_messages(messages), questions, strict=True))
        end = time.monotonic() + deadline_s
        while waiting and time.monotonic() < end:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, None if reply.has_error() else reply.content
            if waiting:
                time.sleep(self._poll_s)
