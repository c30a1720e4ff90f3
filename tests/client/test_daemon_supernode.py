"""The contract with the private parts of Flower's SuperNode that `client.daemon.supernode` leans on."""

import inspect
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flwr
import httpx
import pytest
from flwr.common.constant import Status
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.nodestate import NodeStateFactory

from client.daemon import supernode
from client.daemon.home import DaemonHome


def test_flower_is_the_version_that_was_looked_into() -> None:
    assert flwr.__version__.rpartition(".")[0] in ("1.41", "1.42")


def test_the_loop_uses_time_for_its_two_pauses_and_nothing_else() -> None:
    source = inspect.getsource(start_client_internal)
    assert sorted(re.findall(r"time\.\w+\([^)]*\)", source)) == ["time.sleep(0.5)", "time.sleep(0.5)", "time.sleep(3)"]
    loop = inspect.getsource(start_client_internal.start_client_internal)
    assert "_push_messages(\n" in loop
    assert "state=state" in loop


def test_connection_and_retry_are_looked_up_where_we_put_ours() -> None:
    assert "with http_request_response(\n" in inspect.getsource(start_client_internal._init_connection)
    assert "make_simple_http_retry_invoker()" in inspect.getsource(fleet_http_connection)
    assert list(inspect.signature(http_request_response).parameters)[:4] == [
        "server_address", "insecure", "root_certificates", "authentication_keys",
    ]  # fmt: skip
    assert "timeout" in ProtobufClient.__init__.__kwdefaults__


def test_flower_still_gives_up_on_tls_errors_and_we_do_not() -> None:
    error = httpx.ConnectError("EOF occurred in violation of protocol (_ssl.c:1006)")
    assert make_simple_http_retry_invoker().should_giveup(error)
    ours = supernode.patient(make_simple_http_retry_invoker)()
    assert not ours.should_giveup(error)
    request = httpx.Request("POST", "https://127.0.0.1/v1/fleet/pull-messages")
    for status, gives_up in ((502, False), (504, False), (400, True), (500, True)):
        answer = httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))
        assert ours.should_giveup(answer) is gives_up


def test_a_piece_that_is_there_already_does_not_end_the_sending() -> None:
    def push(answers: list[bool]) -> list[str]:
        sent: list[str] = []

        def stored(request: Any) -> SimpleNamespace:
            sent.append(request.object_id)
            return SimpleNamespace(stored=answers.pop(0))

        for name in ("first", "second"):
            supernode.again(fleet_http_connection.make_push_object_fn_protobuf)(stored, Node(node_id=1), 1, "s")(
                name, b""
            )
        return sent

    assert push([False, True]) == ["first", "second"]
    with pytest.raises(ObjectPushError):  # as Flower has it
        fleet_http_connection.make_push_object_fn_protobuf(
            lambda _: SimpleNamespace(stored=False), Node(node_id=1), 1, "s"
        )("first", b"")


def test_the_command_line_is_one_flower_takes_and_listens_on_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = supernode.command_line(DaemonHome(tmp_path), forwarder_port=1, runtime_port=2)
    monkeypatch.setattr(sys, "argv", line)
    parsed = _parse_args_run_supernode().parse_args()
    assert (parsed.host, parsed.port, parsed.superlink) == ("127.0.0.1", 2, "127.0.0.1:1")
    assert parsed.isolation == "process"
    assert parsed.insecure is None or parsed.insecure is False
    assert not parsed.runtime_dependency_install


def test_pauses_are_a_share_of_the_time_since_the_last_message(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    now = [1000.0]
    monkeypatch.setattr(supernode.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supernode.time, "sleep", slept.append)
    pace = supernode.Pace()
    for passed in (0.0, 10.0, 50.0, 10_000.0):
        now[0] = 1000.0 + passed
        pace.sleep(3)
    assert slept == [0.1, 0.2, 1.0, 3]
    pace.sleep(0.5)  # a message was there
    pace.sleep(3)
    assert slept[-1] == 0.1


def test_an_answer_left_over_is_not_taken_for_the_one_that_is_waited_for() -> None:
    store = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    store.set_node_id(7)
    question, left_over, answer = (
        SimpleNamespace(metadata=SimpleNamespace(message_id=name, reply_to_message_id=asked, run_id=1))
        for name, asked in (("question", ""), ("old", "gone"), ("new", "question"))
    )
    for message in (question, left_over):
        store.store_message(message)
    sent: list[str] = []

    def push(state: Any) -> None:
        if sent:
            store.store_message(answer)
        for message in state.get_messages_legacy(is_reply=True):
            sent.append(message.metadata.message_id)
            state.delete_messages(message_ids=[message.metadata.message_id, message.metadata.reply_to_message_id])

    supernode.Pace().watching(push)(state=store)
    assert sent == ["old", "new"]
    assert "message.metadata.reply_to_message_id,\n" in inspect.getsource(start_client_internal._push_messages)


def task(status: str) -> SimpleNamespace:
    return SimpleNamespace(status=SimpleNamespace(status=status))


@pytest.mark.parametrize(
    ("tasks", "leaves"),
    [([], True), ([task(Status.FINISHED)], True), ([task(Status.RUNNING)], False), ([task(Status.PENDING)], False)],
)
def test_a_node_waiting_for_an_answer_that_nobody_can_give_any_more_leaves(
    tasks: list[Any], leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(supernode.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supernode.time, "sleep", lambda _: None)
    pace = supernode.Pace()

    def push(state: Any) -> None:
        for _ in range(4):
            now[0] += 6
            pace.sleep(0.5)

    watched = pace.watching(push)
    state = SimpleNamespace(get_tasks=lambda: tasks, lock_msg_store=threading.Lock(), msg_store={})
    if leaves:
        with pytest.raises(SystemExit):
            watched(state=state)
    else:
        watched(state=state)
