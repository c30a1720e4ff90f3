"""Handing messages to Flower's simulated nodes in time that grows with the messages, not with their square.

For each node in turn, Flower 1.41 looks through every message of the run. With a thousand nodes that is a million looks
before the first one trains, again and again. `linear_hand_out` puts one look for all nodes in its place while a
simulation runs. The contract test in tests/flows/test_engines.py runs it on the real engine.
"""

import datetime
from collections.abc import Container, Iterator
from contextlib import contextmanager
from queue import Queue
from threading import Event
from typing import Any

_PAUSE_S = 0.05


@contextmanager
def linear_hand_out() -> Iterator[None]:
    """Replace Flower's look for messages inside this block; needs Flower's simulation extra."""
    from flwr.server.superlink.fleet.vce import vce_api

    stock = vce_api.add_messages_to_queue
    vce_api.add_messages_to_queue = hand_out
    try:
        yield
    finally:
        vce_api.add_messages_to_queue = stock


def hand_out(state: Any, queue: "Queue[Any]", nodes: Container[int], ended: Event) -> None:
    """Put every message that no node has fetched into `queue`, once, until `ended`.

    Args:
        state: Flower's in-memory state of the SuperLink.
        queue: What its simulation workers take from.
        nodes: Ids of the simulated nodes.
        ended: Set when the simulation is over.
    """
    while not ended.is_set():
        with state.lock:
            waiting = [message for message in state.message_ins_store.values() if _is_waiting(message.metadata, nodes)]
            for message in waiting:
                message.metadata.delivered_at = datetime.datetime.now(datetime.UTC).isoformat()
        for message in waiting:
            queue.put(message)
        ended.wait(_PAUSE_S)


def _is_waiting(metadata: Any, nodes: Container[int]) -> bool:
    return metadata.delivered_at == "" and metadata.dst_node_id in nodes
