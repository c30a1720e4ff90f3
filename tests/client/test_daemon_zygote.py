"""One request, one child: what it may use, how it may end, and that its end is nobody else's."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.task_identity import TaskIdentity

from client.daemon.runner import checked
from client.daemon.zygote_handle import ZygoteHandle
from common.wire.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, read_reply
from tests.client import hospitals
from tests.client.daemon_lab import wait_until

PLAN = hospitals.tiny_plan()
MISBEHAVE = Path(__file__).parent / "misbehave"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospitals.build_home(tmp_path_factory.mktemp("zygote") / "north", PLAN)


@pytest.fixture(scope="module")
def zygote() -> Iterator[ZygoteHandle]:
    old = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{MISBEHAVE}{os.pathsep}{Path(__file__).parents[2]}{os.pathsep}{old}"
    made = ZygoteHandle()
    try:
        yield made
    finally:
        made.stop()
        os.environ["PYTHONPATH"] = old


def body(content: Hello | TrainRequest | RecordDict, kind: str = "query") -> bytes:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    record = content if isinstance(content, RecordDict) else content.to_record()
    return bytes(message_to_proto(Message(record, dst_node_id=1, message_type=kind)).SerializeToString())


def header(home: Path, **limits: Any) -> dict[str, Any]:
    plain = {"task": 1, "run": 1, "node": 1, "run_config": {}, "memory_mb": 0, "seconds": 120.0}
    return {"home": str(home), **plain, **limits}


def records(answer: bytes) -> RecordDict:
    return recorddict_from_proto(RecordDictProto.FromString(answer))


def greets(zygote: ZygoteHandle, home: Path) -> bool:
    state, answer = zygote.answer(header(home), body(Hello(plan=PLAN.digest)))
    return state == "done" and read_reply(records(answer), HelloReply) == HelloReply(plan=PLAN.digest, site="north")


def misbehaving(zygote: ZygoteHandle, home: Path, how: str, **limits: Any) -> tuple[str, bytes]:
    (home / "misbehave").write_text(how)
    try:
        return zygote.answer(header(home, **limits), body(Hello(plan=PLAN.digest)))
    finally:
        (home / "misbehave").unlink()


def test_the_installed_client_answers(zygote: ZygoteHandle, home: Path) -> None:
    assert greets(zygote, home)
    state, answer = zygote.answer(header(home), body(hospitals.request(PLAN), "train"))
    assert state == "done"
    assert isinstance(read_reply(records(answer), TrainReply), TrainReply)


def test_each_request_has_a_process_of_its_own_which_ends_with_it(zygote: ZygoteHandle, home: Path) -> None:
    assert greets(zygote, home)
    process = zygote._process
    assert process is not None
    assert greets(zygote, home)
    assert zygote._process is process
    assert psutil.Process(process.pid).children() == []


@pytest.mark.parametrize(
    ("how", "limits", "ends"),
    [
        ("memory by and by", {"memory_mb": 200}, {"memory", "done"}),
        ("time", {"seconds": 1.0}, {"time"}),
        ("processor time", {"seconds": 1.0}, {"time"}),
        ("crash", {}, {"crashed"}),
        ("exit", {}, {"done"}),
    ],
)
def test_a_child_that_passes_a_limit_or_dies_takes_nobody_with_it(
    zygote: ZygoteHandle, home: Path, how: str, limits: dict[str, Any], ends: set[str]
) -> None:
    assert greets(zygote, home)
    process = zygote._process
    state, answer = misbehaving(zygote, home, how, **limits)
    assert state in ends
    refused = read_reply(checked(answer, home, "north"), HelloReply)
    assert isinstance(refused, Refused)
    if how.startswith("memory") and state == "done":
        assert refused.reason == "LimitExceeded"
    assert greets(zygote, home)
    assert zygote._process is process


def test_no_child_draws_what_another_drew(zygote: ZygoteHandle, home: Path) -> None:
    assert [misbehaving(zygote, home, "draw")[0] for _ in range(3)] == ["done"] * 3
    drawn = [json.loads(line) for line in (home / "drawn").read_text().splitlines()]
    for values in zip(*drawn, strict=True):  # of the standard library, of NumPy, of torch
        assert len(set(values)) == 3


def test_memory_that_is_asked_for_at_once_is_refused_by_type(zygote: ZygoteHandle, home: Path) -> None:
    state, answer = misbehaving(zygote, home, "memory at once", memory_mb=500)
    assert state == "done"
    assert read_reply(records(answer), HelloReply) == Refused(plan=PLAN.digest, site="north", reason="LimitExceeded")


def test_a_zygote_that_is_killed_costs_one_answer_and_comes_back(zygote: ZygoteHandle, home: Path) -> None:
    assert greets(zygote, home)
    assert zygote._process is not None
    zygote._process.send_signal(signal.SIGKILL)
    assert zygote.answer(header(home), body(Hello(plan=PLAN.digest))) == ("crashed", b"")
    assert greets(zygote, home)


def test_stopping_ends_a_request_that_is_under_way(zygote: ZygoteHandle, home: Path) -> None:
    assert greets(zygote, home)
    assert zygote._process is not None
    process = psutil.Process(zygote._process.pid)
    (home / "misbehave").write_text("time")
    try:
        from client.daemon import frames

        assert zygote._channel is not None
        frames.send(zygote._channel, header(home), body(Hello(plan=PLAN.digest)))
        (child,) = wait_until(process.children, "the child")
        zygote.stop()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")
    finally:
        (home / "misbehave").unlink()


def test_an_exceptions_text_is_in_no_answer_and_in_no_log_line(
    zygote: ZygoteHandle, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from common.host import logs

    state, answer = misbehaving(zygote, home, "name")
    assert state == "done"
    assert read_reply(records(answer), HelloReply) == Refused(plan=PLAN.digest, site="north", reason="WardroundError")
    assert b"DOE" not in answer
    said = "".join(capfd.readouterr()).splitlines()
    assert any("DOE" in line for line in said)  # what the libraries below us say to stderr ...
    assert not any("DOE" in logs.own_lines(line) for line in said)  # ... does not get into a log file


def test_a_message_of_unknown_kind_or_form_is_refused_by_type(zygote: ZygoteHandle, home: Path) -> None:
    for kind, site in (("evaluate", "north"), ("evaluate.other", ""), ("train.other", ""), ("query.other", "")):
        state, answer = zygote.answer(header(home), body(Hello(plan=PLAN.digest), kind))
        assert state == "done"
        assert read_reply(records(answer), HelloReply) == Refused(plan="", site=site, reason="MessageRefused")
    assert zygote.answer(header(home), b"garbage")[0] == "crashed"
    assert greets(zygote, home)


def test_only_the_known_forms_of_an_answer_are_passed_on(tmp_path: Path) -> None:
    def bytes_of(record: RecordDict) -> bytes:
        return bytes(recorddict_to_proto(record).SerializeToString())

    hello = HelloReply(plan=PLAN.digest, site="north").to_record()
    assert read_reply(checked(bytes_of(hello), tmp_path, "north"), HelloReply) == HelloReply(
        plan=PLAN.digest, site="north"
    )
    hello["message"]["patients"] = 12
    for odd in (bytes_of(hello), bytes_of(RecordDict({})), bytes_of(Hello(plan=PLAN.digest).to_record()), b"\xff", b""):
        assert read_reply(checked(odd, tmp_path, "north"), HelloReply) == Refused(
            plan="", site="north", reason="EgressRefused"
        )
