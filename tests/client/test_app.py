"""The app decides whom it acts for by the site's own start-up, and lets nothing out of an error but its type."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import app, hospital
from common.errors import MessageRefused, PlanRefused, SeedRefused
from common.simulation import SimulationSetup
from common.wire.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, read_reply
from tests.client.hospitals import build_home, fill_cache, request, tiny_plan

PLAN = tiny_plan()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN)


def context(node: dict[str, Any], run: dict[str, Any] | None = None) -> Context:
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run or {})


def ask(question: Hello | TrainRequest | RecordDict, where: Context, *, train: bool = False) -> RecordDict:
    """Send a question through the real app, as Flower does, and return the content of its answer."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    training = train or isinstance(question, TrainRequest)
    content = question if isinstance(question, RecordDict) else question.to_record()
    message = Message(content, 1, MessageType.TRAIN if training else MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = "m-1"
    return app.app(message=message, context=where).content


def refusal(answer: RecordDict) -> Refused:
    refused = read_reply(answer, TrainReply)
    assert isinstance(refused, Refused)
    assert set(answer) == {"message"}
    assert set(answer["message"]) == {"schema", "kind", "plan", "site", "reason"}
    return refused


def egress(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "egress.jsonl").read_text().splitlines()]


def test_a_daemon_answers_for_the_home_it_was_started_with(home: Path) -> None:
    hello = read_reply(ask(Hello(plan=PLAN.digest), context({"site-home": str(home)})), HelloReply)
    assert isinstance(hello, HelloReply)
    assert hello.site == "north"
    reply = read_reply(ask(request(PLAN), context({"site-home": str(home)})), TrainReply)
    assert isinstance(reply, TrainReply)
    assert reply.round == 1


@pytest.mark.parametrize("run", [{"seed": 3}, {"simulation": "/tmp/simulation.json"}, {"seed": 0}, {"seed": False}])
def test_a_daemon_that_is_sent_a_seed_or_a_simulation_refuses(home: Path, run: dict[str, Any]) -> None:
    with pytest.raises(SeedRefused):
        app.open_site(context({"site-home": str(home)}, run))
    answer = refusal(ask(request(PLAN), context({"site-home": str(home)}, run)))
    assert answer.reason == "SeedRefused"
    assert not (home / "ledger.sqlite").exists()


def test_a_daemon_has_no_seed_and_ignores_settings_that_say_nothing(home: Path) -> None:
    site = app.open_site(context({"site-home": str(home)}, {"simulation": "", "run-dir": "x"}))
    assert not site.simulated


@pytest.mark.parametrize(
    "node", [{}, {"partition-id": 0}, {"home": "x"}, {"partition-id": 0, "num-partitions": 1, "x": 1}]
)
def test_an_unknown_node_configuration_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(PlanRefused):
        app.open_site(context(node))
    assert refusal(ask(Hello(plan=PLAN.digest), context(node))).reason == "PlanRefused"


def test_a_site_home_wins_over_a_partition_id(home: Path, tmp_path: Path) -> None:
    setup = tmp_path / "simulation.json"
    SimulationSetup(seed=5, homes=(home,)).save(setup)
    node = {"partition-id": 0, "num-partitions": 1}
    assert app.open_site(context(node, {"simulation": str(setup)})).simulated
    with pytest.raises(SeedRefused):
        app.open_site(context({**node, "site-home": str(home)}, {"simulation": str(setup)}))


@pytest.mark.parametrize("index", [-1, 1])
def test_a_simulated_node_that_does_not_exist_is_refused(home: Path, tmp_path: Path, index: int) -> None:
    setup = tmp_path / "simulation.json"
    SimulationSetup(seed=5, homes=(home,)).save(setup)
    with pytest.raises(MessageRefused):
        app.open_site(context({"partition-id": index, "num-partitions": 2}, {"simulation": str(setup)}))


SECRET = "DOE^JANE 1970-01-01 /scans/doe.dcm"


@pytest.mark.parametrize("kind", [ValueError, OSError, MemoryError, PlanRefused, MessageRefused])
def test_only_the_type_of_an_error_leaves(home: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise kind(SECRET)

    monkeypatch.setattr(hospital, "train", fail)
    answer = ask(request(PLAN), context({"site-home": str(home)}))
    expected = kind.__name__ if kind in (PlanRefused, MessageRefused) else "WardroundError"
    expected = "LimitExceeded" if kind is MemoryError else expected
    assert refusal(answer).reason == expected
    assert "DOE" not in str(answer)
    assert "DOE" not in (home / "egress.jsonl").read_text()


@pytest.mark.parametrize("how", ["nobody was admitted", "another form", "one patient"])
def test_no_cohort_is_told_like_a_small_one_and_a_hello_that_is_refused_is_logged(home: Path, how: str) -> None:
    """An ingest that admits nobody leaves no cache: told apart from one that admits somebody, it answers a question."""
    if how == "nobody was admitted":
        shutil.rmtree(home / "cache")
    elif how == "another form":
        shutil.rmtree(home / "cache")
        fill_cache(home, tiny_plan(window="percentile"), [f"P{i}" for i in range(12)])
    else:
        fill_cache(home, PLAN, ["P1"])
    where = context({"site-home": str(home)})
    for question in (Hello(plan=PLAN.digest), request(PLAN)):
        assert refusal(ask(question, where)).reason == "CohortTooSmall"
    assert [(line["kind"], line["payload"]) for line in egress(home)] == [("refusal", "CohortTooSmall")] * 2


def test_what_left_is_logged_and_so_is_a_refusal(home: Path) -> None:
    where = context({"site-home": str(home)})
    ask(Hello(plan=PLAN.digest), where)
    ask(request(PLAN), where)
    ask(Hello(plan="0" * 64), where)
    hello, reply, refused = egress(home)
    assert (hello["kind"], hello["entry"]) == ("hello", 0)
    assert (reply["kind"], reply["keys"], reply["entry"]) == ("train", ["release"], 2)
    assert reply["bytes"] > 0
    assert (refused["kind"], refused["payload"], refused["bytes"]) == ("refusal", "PlanRefused", 0)


def test_a_refusal_of_a_site_that_could_not_be_opened_is_logged_too(home: Path) -> None:
    assert refusal(ask(request(PLAN), context({"site-home": str(home)}, {"seed": 3}))).reason == "SeedRefused"
    (home / "site.toml").write_text("broken")
    assert refusal(ask(request(PLAN), context({"site-home": str(home)}))).reason == "StateError"
    assert [(line["kind"], line["payload"]) for line in egress(home)] == [
        ("refusal", "SeedRefused"),
        ("refusal", "StateError"),
    ]


def test_a_record_of_no_known_kind_is_refused_and_the_daemon_goes_on(home: Path) -> None:
    where = context({"site-home": str(home)})
    for record in (RecordDict({}), Hello(plan=PLAN.digest).to_record()):
        assert refusal(ask(record, where, train=True)).reason == "MessageRefused"
    assert isinstance(read_reply(ask(request(PLAN), where), TrainReply), TrainReply)


def test_where_the_log_cannot_be_written_one_refusal_leaves_that_is_the_same_for_all(home: Path) -> None:
    (home / "egress.jsonl").mkdir()
    node = {"site-home": str(home)}
    answers = [
        ask(Hello(plan=PLAN.digest), context(node)),
        ask(request(PLAN), context(node)),
        ask(Hello(plan="0" * 64), context(node)),
        ask(request(PLAN), context(node, {"seed": 3})),
        ask(RecordDict({}), context(node)),
        ask(Hello(plan=PLAN.digest), context({"site-home": str(home / "gone")})),
    ]
    assert [refusal(answer) for answer in answers] == [Refused(plan="", site="", reason="StateError")] * len(answers)
