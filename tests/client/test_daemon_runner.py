"""The runner, a real process, on the runtime interface of a real SuperNode: every task is answered, whatever it is."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from client.daemon import join, runner
from client.daemon.home import DaemonHome, read_json
from client.daemon.runner import checked
from client.egress import egress_log
from client.egress.refusals import UNRECORDED
from common.wire.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, Verdict, read_reply
from common.wire.secure_messages import ConfirmReply, KeyReply, RevealReply
from common.wire.signing import Key
from common.wire.verdicts import PASSED, signed
from server.coordinator.home import free_ports
from server.protocol import exchange
from tests.client import hospitals
from tests.client.daemon_lab import ROOT, environment, wait_until
from tests.client.test_daemon_zygote import MISBEHAVE

PLAN = hospitals.tiny_plan()
RUN, NODE = 11, 7
BUNDLE = b"no zip, no code"
BUNDLE_HASH = hashlib.sha256(BUNDLE).hexdigest()
Question = tuple[Hello | TrainRequest | RecordDict, str, str]
HELLO: Question = (Hello(plan=PLAN.digest), "query", TaskType.CLIENT_APP)


@dataclass
class SuperNode:
    """Flower's own state and runtime interface, without a coordinator: requests are planted, answers collected."""

    home: DaemonHome
    port: int
    state: object

    def ask(
        self, content: Hello | TrainRequest | RecordDict, kind: str = "query", task: str = TaskType.CLIENT_APP
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, NODE
        record = content if isinstance(content, RecordDict) else content.to_record()
        message = Message(record, dst_node_id=NODE, message_type=kind)
        message.metadata.__dict__["_message_id"] = message.object_id
        message.metadata.__dict__["_run_id"] = RUN
        message.metadata.__dict__["_message_id"] = message.object_id
        self.state.store_message(message)  # type: ignore[attr-defined]
        store = self.state.object_store  # type: ignore[attr-defined]
        store.preregister(RUN, get_object_tree(message))
        for name, part in get_all_nested_objects(message).items():
            store.put(name, part.deflate())
        assert self.state.create_task(task_type=task, run_id=RUN, fab_hash=BUNDLE_HASH)  # type: ignore[attr-defined]

    def answer(self) -> RecordDict:
        """The next answer's records."""
        (reply,) = wait_until(lambda: self.state.get_messages_legacy(is_reply=True), "an answer")  # type: ignore[attr-defined]
        name, store = reply.metadata.message_id, self.state.object_store  # type: ignore[attr-defined]

        def contents() -> dict[str, bytes]:
            tree = [part.object_id for part in iterate_object_tree(store.get_object_tree(name))]
            found = {part: store.get(part) for part in tree}
            return found if all(found.values()) else {}

        whole = inflate_object_from_contents(name, wait_until(contents, "every piece of the answer"))
        assert isinstance(whole, Message)
        assert not whole.has_error()
        return whole.content


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperNode]:
    home = DaemonHome(hospitals.build_home(tmp_path_factory.mktemp("runner") / "north", PLAN))
    join.prepare(home)
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    state = factory.state()
    state.set_node_id(NODE)
    run = Run.create_empty(RUN)
    run.fab_hash = BUNDLE_HASH
    state.store_run(run)
    state.store_fab(Fab(BUNDLE_HASH, BUNDLE, {}))
    context = Context(RUN, NODE, {}, RecordDict(), {})
    state.set_run_series_context(run.series_id, context)
    (port,) = free_ports(1)
    app = create_app(state_factory=factory, superexec_auth_secret=home.secret.read_bytes())
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "the runtime interface")
    yield SuperNode(home, port, state)
    server.should_exit = True
    thread.join(30)


@contextmanager
def running(node: SuperNode) -> Iterator[subprocess.Popen[bytes]]:
    env = {**environment(), "PYTHONPATH": f"{MISBEHAVE}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-P", "-m", "client.daemon.runner", str(node.home.home), str(node.port)]
    process = subprocess.Popen(command, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_every_kind_of_task_is_answered_and_only_a_clients_is_run(node: SuperNode) -> None:
    hello = Hello(plan=PLAN.digest)
    with running(node):
        node.ask(hello)
        assert read_reply(node.answer(), HelloReply) == HelloReply(plan=PLAN.digest, site="north")
        for kind in TaskType:
            if kind != TaskType.CLIENT_APP:
                node.ask(hello, task=kind)
                assert read_reply(node.answer(), HelloReply) == Refused(plan="", site="north", reason="MessageRefused")
        node.ask(hospitals.request(PLAN), "train")
        reply = node.answer()
        assert isinstance(read_reply(reply, TrainReply), TrainReply)
        assert list(reply["arrays"]) == ["packed"]
        wait_until(lambda: not list(node.home.task.glob("*")), "the answered request removed")
        text = (node.home.home / "site.toml").read_text()
        (node.home.home / "site.toml").write_text("broken")
        node.ask(hello)
        assert read_reply(node.answer(), HelloReply) == Refused(plan="", site="", reason="StateError")
        (node.home.home / "site.toml").write_text(text)
        (node.home.home / "misbehave").write_text("crash")
        node.ask(hello)
        assert read_reply(node.answer(), HelloReply) == Refused(plan="", site="north", reason="StateError")
        (node.home.home / "misbehave").unlink()


def test_a_killed_runner_takes_its_request_up_again_and_ends_one_that_kills_it_each_time(node: SuperNode) -> None:
    (node.home.home / "misbehave").write_text("time")
    kept = node.home.task / "task.json"
    with running(node) as first:
        node.ask(hospitals.request(PLAN, 2), "train")
        wait_until(kept.exists, "the request on disk")
        assert kept.stat().st_mode & 0o077 == 0 or kept.parent.stat().st_mode & 0o077 == 0
        first.send_signal(signal.SIGKILL)
        first.wait()
    for tries in (2, 3):
        with running(node):
            wait_until(lambda n=tries: read_json(kept).get("tries") == n, "another try")
    before = len(left(node))
    with running(node):
        assert read_reply(node.answer(), TrainReply) == Refused(plan="", site="north", reason="StateError")
        wait_until(lambda: not kept.exists(), "the end of it")
    assert left(node)[before:] == ["StateError"]
    (node.home.home / "misbehave").unlink()
    with running(node):
        node.ask(hospitals.request(PLAN, 2), "train")
        assert isinstance(read_reply(node.answer(), TrainReply), TrainReply)


def test_greetings_above_the_rate_wait_for_their_turn_and_a_round_does_not(node: SuperNode) -> None:
    hourly = "import sys; from client.daemon import runner; runner.GREETINGS, runner.GREETINGS_PER_S = 1.0, 1 / 3600"
    command = [sys.executable, "-c", f"{hourly}; runner.main(sys.argv[1:])", str(node.home.home), str(node.port)]
    kept = node.home.task / "task.json"
    process = subprocess.Popen(command, env={**environment(), "PYTHONPATH": f"{MISBEHAVE}{os.pathsep}{ROOT}"})
    try:
        node.ask(Hello(plan=PLAN.digest))
        assert isinstance(read_reply(node.answer(), HelloReply), HelloReply)
        node.ask(hospitals.request(PLAN), "train")
        assert isinstance(read_reply(node.answer(), TrainReply), TrainReply)
        wait_until(lambda: not kept.exists(), "the answered request removed")
        node.ask(Hello(plan=PLAN.digest))
        wait_until(kept.exists, "the second greeting")
        time.sleep(5)
        assert kept.exists(), "its turn is in an hour"
    finally:
        process.kill()
        process.wait()
    with running(node):
        assert isinstance(read_reply(node.answer(), HelloReply), HelloReply)


def left(node: SuperNode) -> list[str]:
    """What the egress log says has left: the kind of each line, of a refusal its reason."""
    path = node.home.home / egress_log.LOG
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line["payload"] if line["kind"] == "refusal" else line["kind"] for line in lines]


def answered(node: SuperNode, question: Question, *, wish: str = "", limits: str = "") -> str:
    """Ask while the client misbehaves as it is told to; return what the answer is, named as in the egress log."""
    home, (content, kind, task) = node.home.home, question
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text + limits)
    (home / "misbehave").write_text(wish)
    try:
        node.ask(content, kind, task)
        records = node.answer()
    finally:
        (home / "misbehave").unlink()
        (home / "site.toml").write_text(text)
    said = read_reply(records, TrainReply if "arrays" in records else HelloReply)
    return said.reason if isinstance(said, Refused) else {HelloReply: "hello", TrainReply: "train"}[type(said)]


TOO_LONG, TOO_MUCH = "task_minutes = 0.02\n", "memory_mb = 200\n"


def test_every_answer_has_its_line_in_the_egress_log_whatever_the_runner_had_to_do(node: SuperNode) -> None:
    before = len(left(node))
    other = next(kind for kind in TaskType if kind != TaskType.CLIENT_APP)
    with running(node):
        answers = [
            answered(node, HELLO),
            answered(node, (hospitals.request(PLAN, 3), "train", TaskType.CLIENT_APP)),
            answered(node, (Hello(plan="0" * 64), "query", TaskType.CLIENT_APP)),
            answered(node, (Hello(plan=PLAN.digest), "query.other", TaskType.CLIENT_APP)),
            answered(node, (Hello(plan=PLAN.digest), "query", other)),
            answered(node, HELLO, limits="broken"),
            answered(node, HELLO, wish="crash"),
            answered(node, HELLO, wish="exit"),
            answered(node, HELLO, wish="time", limits=TOO_LONG),
            answered(node, HELLO, wish="memory by and by", limits=TOO_MUCH),
            answered(node, HELLO, wish="name"),
        ]
    assert answers == [
        "hello", "train", "PlanRefused", "MessageRefused", "MessageRefused", "StateError", "StateError",
        "EgressRefused", "LimitExceeded", "LimitExceeded", "WardroundError",
    ]  # fmt: skip
    assert left(node)[before:] == answers


def test_a_runner_that_cannot_write_the_egress_log_answers_the_same_to_all(node: SuperNode) -> None:
    log = node.home.home / egress_log.LOG
    log.rename(log.with_name("aside"))
    log.mkdir()
    other = next(kind for kind in TaskType if kind != TaskType.CLIENT_APP)
    try:
        with running(node):
            for kind, task in (("query", TaskType.CLIENT_APP), ("query.other", TaskType.CLIENT_APP), ("query", other)):
                node.ask(Hello(plan=PLAN.digest), kind, task)
                assert read_reply(node.answer(), HelloReply) == UNRECORDED
    finally:
        log.rmdir()
        log.with_name("aside").rename(log)


def test_a_signed_verdict_is_a_form_that_may_leave_and_one_with_more_in_it_is_not(tmp_path: Path) -> None:
    verdict = signed(Key.at(tmp_path / "site.key"), plan=PLAN.digest, candidate="c" * 64, site="north",
                     outcome=PASSED, epsilon=1.0, delta=1e-5, ledger_head="a" * 64)  # fmt: skip
    record = verdict.to_record()
    assert read_reply(checked(recorddict_to_proto(record).SerializeToString(), tmp_path, "north"), Verdict) == verdict
    record["message"]["patients"] = 120
    said = read_reply(checked(recorddict_to_proto(record).SerializeToString(), tmp_path, "north"), Verdict)
    assert said == Refused(plan="", site="north", reason="EgressRefused")


def test_every_answer_that_the_coordinator_waits_for_is_a_form_that_may_leave() -> None:
    """A leg that is answered and held back here would stop a study with no word of why."""
    assert set(runner.FORMS) == set(exchange._REPLIES.values())


def test_the_answers_of_a_secure_rounds_legs_may_leave_and_one_with_more_in_it_may_not(tmp_path: Path) -> None:
    plan = "a" * 64
    for reply in (
        KeyReply(plan=plan, site="north", public=bytes(32), signature=bytes(64), boxes=b""),
        ConfirmReply(plan=plan, site="north", signature=bytes(64)),
        RevealReply(plan=plan, site="north", own=b"", gone=b""),
    ):
        record = reply.to_record()
        assert (
            read_reply(checked(recorddict_to_proto(record).SerializeToString(), tmp_path, "north"), type(reply))
            == reply
        )
        record["message"]["patients"] = 12
        answer = recorddict_to_proto(record).SerializeToString()
        assert isinstance(read_reply(checked(answer, tmp_path, "north"), type(reply)), Refused)
