"""Whatever a server sends: the site refuses by type, ledger and data stay as they were, and it goes on serving.

Real Flower messages go through the real ClientApp to a site opened as a daemon opens it, made from real DICOM files.
Weights and arrays have their own file, `test_hostile_weights`.
"""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.error import Error

from client.app import app
from common.accountant.accounting import epsilon
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, Refused, TrainReply, TrainRequest, read_reply
from tests.client.besieged import INITIAL, PLAN, SGD, Daemon, copy_of, make_hospital, request, with_scalars


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def daemon(template: Path, tmp_path: Path) -> Daemon:
    return copy_of(template, tmp_path)


def test_an_honest_round_is_answered_and_booked_as_the_plan_says(daemon: Daemon) -> None:
    reply = daemon.train(SGD)
    assert isinstance(reply, TrainReply)
    assert reply.arrays.keys() == {name for name in INITIAL if not name.startswith("start.")}
    assert daemon.events() == [schedule(PLAN)[SGD - 1].event]
    assert daemon.serves()


def other(part: str, **changes: Any) -> StudyPlan:
    return dataclasses.replace(PLAN, **{part: dataclasses.replace(getattr(PLAN, part), **changes)})


@pytest.mark.parametrize(
    "plan",
    [
        other("privacy", epsilon=9.9),
        other("privacy", clip_norm=1000.0),
        other("privacy", enabled=False),
        other("training", local_steps=1000),
        other("training", sample_rate=0.5),
        other("training", rounds=9),
        other("training", images_per_patient=64),
        other("data", min_patients=2),
        dataclasses.replace(PLAN, name="another"),
    ],
)
def test_a_plan_with_another_digest_is_refused(daemon: Daemon, plan: StudyPlan) -> None:
    assert daemon.refusal(Hello(plan=plan.digest).to_record(), kind="query") == "PlanRefused"
    asked = TrainRequest(plan=plan.digest, round=1, arrays=INITIAL)
    assert daemon.refusal(asked.to_record()) == "PlanRefused"


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": 0.0},
        {"noise_multiplier": 1e-9},
        {"steps": 100_000},
        {"local_steps": 100_000},
        {"clip_norm": 1e9},
        {"max_grad_norm": 1e9},
        {"sample_rate": 1.0},
        {"epsilon": 0.0},
        {"learning_rate": 10.0},
        {"seed": 7},
        {"enabled": False},
        {"phase": "sgd"},
        {"device": "cpu"},
    ],
)
def test_privacy_parameters_inside_the_message_are_refused(daemon: Daemon, changes: dict[str, Any]) -> None:
    assert daemon.refusal(with_scalars(**changes)) == "MessageRefused"


def test_the_run_configuration_has_no_say_over_noise_steps_clip_or_rate(daemon: Daemon) -> None:
    wishes = {
        "sigma": 0.0,
        "local-steps": 100_000,
        "clip-norm": 1e9,
        "sample-rate": 1.0,
        "site-home": "/tmp",
        "epsilon": 99.0,
    }
    answer = daemon.ask(request(SGD).to_record(), run_config=wishes)
    assert isinstance(read_reply(answer, TrainReply), TrainReply)
    assert daemon.events() == [schedule(PLAN)[SGD - 1].event]


def test_a_run_configuration_with_a_seed_is_refused(daemon: Daemon) -> None:
    for wish in ({"seed": 7}, {"simulation": str(daemon.home / "simulation.json")}):
        answer = daemon.ask(request().to_record(), run_config=wish)
        assert read_reply(answer, TrainReply) == Refused(plan="", site="", reason="SeedRefused")
    assert daemon.events() == []
    assert daemon.serves()


def test_a_replayed_round_gets_the_same_bytes_and_costs_nothing(daemon: Daemon) -> None:
    first = daemon.ask(request(SGD).to_record())
    before = daemon.state()
    for _ in range(3):
        again = daemon.ask(request(SGD).to_record())
        assert again["message"] == first["message"]
        assert {n: a.data for n, a in again["arrays"].items()} == {n: a.data for n, a in first["arrays"].items()}
    after = daemon.state()
    assert after["events"] == before["events"]
    assert after["head"] == before["head"]


def test_rounds_out_of_order_or_again_on_other_weights_never_pass_the_plans_epsilon(daemon: Daemon) -> None:
    """A server that reorders and repeats buys noise with its own study's budget; each answer is booked before."""
    refused: list[str] = []
    order = [5, 1, 4, 2, 5, 3, 4, 1, 5]
    for step, number in enumerate(order):
        weights = {name: array + np.float32(step * 1e-3) for name, array in INITIAL.items()}
        events = daemon.events()
        reply = daemon.train(number, weights=weights)
        if isinstance(reply, Refused):
            refused.append(reply.reason)
            assert daemon.events() == events
        else:
            assert reply.round == number
            assert daemon.events() == [*events, schedule(PLAN)[number - 1].event]
        assert epsilon(daemon.events(), delta=PLAN.privacy.delta) <= PLAN.privacy.epsilon
    assert set(refused) == {"BudgetExhausted"}
    assert len(order) - len(refused) >= len(schedule(PLAN)) - 1
    assert daemon.serves()


@pytest.mark.parametrize("head", ["f" * 64, "x" * 64, "../../ledger", "F" * 64, "0" * 63])
def test_a_made_up_ledger_head_is_refused(daemon: Daemon, head: str) -> None:
    """The last reply's head guards against a rolled-back ledger; a server that lies with it gets nothing at all."""
    expected = "LedgerBehind" if head == "f" * 64 else "MessageRefused"
    assert daemon.refusal(with_scalars(last_head=head)) == expected


@pytest.mark.parametrize("number", [0, -1, 6, 2**62])
def test_a_round_that_the_plan_does_not_have_is_refused(daemon: Daemon, number: int) -> None:
    assert daemon.refusal(request(number).to_record()) == "PlanRefused"


def test_unknown_parts_keys_and_kinds_are_refused(daemon: Daemon) -> None:
    extra = request().to_record()
    extra["metrics"] = MetricRecord({"loss": 1.0})
    twice = request().to_record()
    twice["more"] = ArrayRecord({"w": Array(np.zeros(3, np.float32))})
    swapped = RecordDict({"message": ArrayRecord({}), "arrays": ConfigRecord({})})
    crowded = with_scalars(**{f"key-{i}": i for i in range(5000)})
    for record in (
        extra,
        twice,
        swapped,
        crowded,
        RecordDict({}),
        with_scalars(kind="shutdown"),
        with_scalars(schema=99),
    ):
        assert daemon.refusal(record) == "MessageRefused"
    for kind in ("train-reply", "hello-reply", "refused", "hello"):
        assert daemon.refusal(with_scalars(kind=kind)) == "MessageRefused"


@pytest.mark.parametrize("changes", [{"round": True}, {"round": 1.0}, {"round": [1]}, {"plan": b"x" * 64}, {"plan": 0}])
def test_scalars_of_another_type_are_refused(daemon: Daemon, changes: dict[str, Any]) -> None:
    assert daemon.refusal(with_scalars(**changes)) == "MessageRefused"


def test_a_question_under_the_wrong_flower_type_is_refused(daemon: Daemon) -> None:
    assert daemon.refusal(request().to_record(), kind="query") == "MessageRefused"
    assert daemon.refusal(Hello(plan=PLAN.digest).to_record(), kind="train") == "MessageRefused"


@pytest.mark.parametrize("kind", ["evaluate.fast", "train.fast", "query.cohort"])
def test_a_flower_type_that_nobody_registered_runs_nothing(daemon: Daemon, kind: str) -> None:
    before = daemon.state()
    with pytest.raises(ValueError, match=kind.split(".")[0]):
        daemon.ask(request().to_record(), kind=kind)
    assert daemon.state() == before
    assert daemon.serves()


def test_an_error_in_place_of_content_is_refused(daemon: Daemon) -> None:
    message = Message(request().to_record(), 1, "train")
    message.metadata.__dict__["_message_id"] = "m-1"
    del message.__dict__["_content"]
    message.__dict__["_error"] = Error(code=0, reason="../../etc/passwd")
    context = Context(1, 1, {"site-home": str(daemon.home)}, RecordDict(), {})
    answer = read_reply(app(message=message, context=context).content, TrainReply)
    assert answer == Refused(plan="", site="north", reason="WardroundError")
    assert daemon.serves()


@pytest.mark.parametrize(
    "plan",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "..",
        "",
        "../" * 21 + "a",
        "a" * 63 + "/",
        "a" * 64 + "\n",
        "\0" * 64,
        "A" * 64,
        "${HOME}" + "a" * 57,
        "a" * 257,
    ],
)
def test_path_like_strings_in_place_of_a_digest_are_refused_and_reach_no_path(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    kind = "MessageRefused" if len(plan) > 256 else "PlanRefused"
    assert daemon.refusal(with_scalars(plan=plan)) == kind
    assert (
        daemon.refusal(
            RecordDict({"message": ConfigRecord({"schema": 1, "kind": "hello", "plan": plan})}), kind="query"
        )
        == kind
    )
    touched = [p for p in daemon.home.parent.rglob("*") if daemon.home not in (p, *p.parents)]
    assert touched == []


def flood(daemon: Daemon, records: list[RecordDict], *, threads: int = 4) -> list[str]:
    """Send the records from several threads at once; the reasons given, "" for an answer."""
    reasons: list[str] = []
    queue: Iterator[RecordDict] = iter(records)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                record = next(queue, None)
            if record is None:
                return
            answer = daemon.ask(record, kind="train" if "arrays" in record else "query")
            reasons.append(str(answer["message"].get("reason", "")))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return reasons


def test_a_flood_of_refusals_costs_a_line_each_and_the_site_goes_on(daemon: Daemon) -> None:
    before = daemon.state()
    wrong = [Hello(plan=f"{i:064x}").to_record() for i in range(100)] + [
        with_scalars(sigma=float(i)) for i in range(50)
    ]
    reasons = flood(daemon, wrong)
    assert reasons.count("PlanRefused") == 100
    assert reasons.count("MessageRefused") == 50
    assert daemon.state() == before
    lines = (daemon.home / "egress.jsonl").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) < 300
    assert isinstance(daemon.train(1), TrainReply)


def test_a_flood_of_one_request_is_booked_once(daemon: Daemon) -> None:
    answers = flood(daemon, [request(1).to_record() for _ in range(12)])
    assert answers == [""] * 12
    assert daemon.events() == [schedule(PLAN)[0].event]


def test_a_flood_of_different_requests_never_passes_the_plans_epsilon(daemon: Daemon) -> None:
    shifted = [{n: a + np.float32(i * 1e-3) for n, a in INITIAL.items()} for i in range(12)]
    reasons = flood(daemon, [request(2, weights).to_record() for weights in shifted])
    assert set(reasons) == {"", "BudgetExhausted"}
    assert len(daemon.events()) == reasons.count("")
    assert epsilon(daemon.events(), delta=PLAN.privacy.delta) <= PLAN.privacy.epsilon
    assert daemon.serves()
