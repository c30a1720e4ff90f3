"""An in-process Grid: the real ServerApp and ClientApp in one process, without Ray, SuperLink or bundle."""

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.host.processors import processors

_RUN = 1


class LocalGrid(Grid):  # type: ignore[misc]
    """Sends each message to a ClientApp in a thread of this process.

    Args:
        client_app: The app every node runs.
        nodes: Number of nodes; node i gets the partition id i, as in Flower's own simulation.
        run_config: The run's configuration, given to every node.
        workers: Nodes that run at the same time; 0 takes one for each core.
        fault: Called with the node's index and the message before the app runs; what it raises is a failed node.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        nodes: int,
        run_config: dict[str, Any],
        workers: int = 0,
        fault: Callable[[int, Message], None] | None = None,
    ) -> None:
        self._app = client_app
        self._fault = fault
        self._pool = ThreadPoolExecutor(workers or processors(), thread_name_prefix="site")
        self._contexts = {
            node + 1: Context(
                run_id=_RUN,
                node_id=node + 1,
                state=RecordDict(),
                run_config=dict(run_config),
                node_config={"partition-id": node, "num-partitions": nodes},
            )
            for node in range(nodes)
        }
        self._answers: dict[str, Future[Message]] = {}
        self._ids = itertools.count(1)
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _RUN  # Message() asks for them

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """An empty run description."""
        return Run.create_empty(_RUN)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message; kept for the interface, our server builds its own.

        Args:
            content: What is sent.
            message_type: Flower's name of the kind of message.
            dst_node_id: The node that it is for.
            group_id: Flower's group of messages.
            ttl: Seconds that it is valid; None for Flower's default.
        """
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every node is always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue each message for its node; returns the message ids in the same order."""
        identifiers = []
        for message in messages:
            identifier = f"local-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = identifier
            self._answers[identifier] = self._pool.submit(self._answer, message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are ready among `message_ids`, each once."""
        ready = [
            identifier for identifier in message_ids if identifier in self._answers and self._answers[identifier].done()
        ]
        return [self._answers.pop(identifier).result() for identifier in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull until all have answered or `timeout` seconds have passed."""
        waiting = set(self.push_messages(messages))
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            fresh = list(self.pull_messages(waiting))
            replies += fresh
            waiting -= {reply.metadata.reply_to_message_id for reply in fresh}
            time.sleep(0.005)
        return replies

    def close(self) -> None:
        """Wait for running nodes and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            if self._fault is not None:
                self._fault(node - 1, message)
            return self._app(message=message, context=self._contexts[node])
        except Exception as error:  # noqa: BLE001 - what Flower's own runtime does with a node that raises
            reason = type(error).__name__
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
