"""Simulated nodes get every message once, in time that grows with the messages alone."""

import threading
from dataclasses import dataclass, field
from queue import Queue

from deploy.simulation.ray_queue import hand_out, linear_hand_out


@dataclass
class Metadata:
    dst_node_id: int
    delivered_at: str = ""


@dataclass
class Message:
    metadata: Metadata


@dataclass
class State:
    """The two parts of Flower's in-memory state that are used."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    message_ins_store: dict[str, Message] = field(default_factory=dict)


def test_each_message_is_handed_out_once_and_those_for_nobody_here_are_left() -> None:
    state, queue, ended = State(), Queue(), threading.Event()
    for number in range(100):
        state.message_ins_store[f"m{number}"] = Message(Metadata(number % 10))
    state.message_ins_store["server"] = Message(Metadata(99))
    state.message_ins_store["fetched"] = Message(Metadata(1, delivered_at="before"))
    thread = threading.Thread(target=hand_out, args=(state, queue, dict.fromkeys(range(10), 0), ended))
    thread.start()
    taken = [queue.get(timeout=30) for _ in range(100)]
    with state.lock:
        state.message_ins_store["late"] = Message(Metadata(3))
    taken.append(queue.get(timeout=30))
    ended.set()
    thread.join()
    assert queue.empty()
    assert len({id(message) for message in taken}) == 101
    assert all(message.metadata.delivered_at for message in taken)
    assert state.message_ins_store["server"].metadata.delivered_at == ""


def test_flowers_own_look_is_back_after_the_simulation() -> None:
    from flwr.server.superlink.fleet.vce import vce_api

    stock = vce_api.add_messages_to_queue
    with linear_hand_out():
        assert vce_api.add_messages_to_queue is hand_out
    assert vce_api.add_messages_to_queue is stock
