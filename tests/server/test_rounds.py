"""A round ends by quorum and deadline; one bad site costs that site the round and nobody else anything."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict

from common.errors import QuorumLost
from common.mechanism import utility
from common.wire.messages import Hello, Refused, TrainRequest
from server.protocol import rounds
from server.study.study import Study
from tests.server.sites import PLAN, Fault, ScriptedExchange, ledger_head, tiny_plan

NAMES = ("hill", "north", "river")


def begin(tmp_path: Path) -> Study:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "plan.toml").write_text(PLAN)
    return Study.begin(tmp_path)


def during_training(change: object) -> Fault:
    """A fault that leaves the greeting alone."""

    def fault(question: Hello | TrainRequest, record: RecordDict) -> object:
        return record if isinstance(question, Hello) else change(record)  # type: ignore[operator]

    return fault  # type: ignore[return-value]


def changed(record: RecordDict, **scalars: object) -> RecordDict:
    record["message"] = ConfigRecord({**record["message"], **scalars})
    return record


def with_metric(record: RecordDict) -> RecordDict:
    record["metrics"] = MetricRecord({"loss": 1.0})
    return record


def with_value(value: float) -> object:
    def change(record: RecordDict) -> RecordDict:
        name = next(iter(record["arrays"]))
        spoiled = record["arrays"][name].numpy().copy()
        spoiled.flat[0] = value
        record["arrays"][name] = Array(spoiled)
        return record

    return change


def without_an_array(record: RecordDict) -> RecordDict:
    del record["arrays"][next(iter(record["arrays"]))]
    return record


def with_an_array_more(record: RecordDict) -> RecordDict:
    record["arrays"]["counts"] = Array(np.zeros(1, np.float32))
    return record


def with_another_shape(record: RecordDict) -> RecordDict:
    record["arrays"][next(iter(record["arrays"]))] = Array(np.zeros((1, 1), np.float32))
    return record


def test_a_study_runs_to_its_end_and_every_round_has_its_receipts(tmp_path: Path) -> None:
    study = begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    assert [r.phase for r in study.records] == ["mean", "subspace", "prior", "sgd", "sgd"]
    assert all(sorted(r.replied) == list(NAMES) and not r.missing for r in study.records)
    assert study.epsilon("north") == pytest.approx(study.plan.privacy.epsilon, abs=0.02)
    assert (tmp_path / "rounds.csv").read_text().count("\n") == 6


def test_a_paid_error_is_read_from_the_sum_of_the_sites_and_stays_out_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN + "[privacy]\nutility_share = 0.2\n")
    study = Study.begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    errors = [record.readings.get(utility.NAME) for record in study.records]
    assert errors[:3] == [None] * 3
    assert errors[3] is not None
    assert errors[3].value == pytest.approx(0.2)  # 20 over 100 at every site
    assert 0 < errors[3].std < 0.1
    assert utility.NAME not in study.weights
    assert Study.resume(tmp_path).records == study.records


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (during_training(lambda _: None), "NodeFailed"),
        (during_training(lambda _: "silent"), "NoReply"),
        (during_training(with_metric), "ExtraKey"),
        (during_training(with_value(float("nan"))), "NotFinite"),
        (during_training(with_value(float("inf"))), "NotFinite"),
        (during_training(with_value(1e30)), "NormOverBound"),
        (during_training(without_an_array), "MissingArray"),
        (during_training(with_an_array_more), "ExtraKey"),
        (during_training(with_another_shape), "WrongShape"),
        (during_training(lambda r: changed(r, round=9)), "WrongRound"),
        (during_training(lambda r: changed(r, plan="0" * 64)), "WrongRound"),
        (during_training(lambda r: changed(r, site="north")), "WrongSite"),
        (during_training(lambda r: changed(r, epsilon=99.0)), "WrongCost"),
        (during_training(lambda r: changed(r, count=412)), "ExtraKey"),
        (during_training(lambda r: changed(r, schema=99)), "MalformedReply"),
        (
            during_training(lambda _: Refused(plan="", site="hill", reason="BudgetExhausted").to_record()),
            "BudgetExhausted",
        ),
        (lambda _q, _r: Refused(plan="", site="hill", reason="PlanRefused").to_record(), "PlanRefused"),
    ],
)
def test_a_site_that_misbehaves_is_left_out_by_name_and_the_study_goes_on(
    tmp_path: Path, fault: Fault, reason: str
) -> None:
    study = begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, NAMES, {"hill": fault}))
    assert len(study.records) == 5
    for record in study.records:
        assert sorted(record.replied) == ["north", "river"]
        assert record.missing == {"hill": reason}
    assert all(np.isfinite(array).all() for array in study.weights.values())


def test_a_round_below_quorum_is_asked_again_then_the_study_stops_and_can_be_resumed(tmp_path: Path) -> None:
    study = begin(tmp_path)

    def dies_in_round_3(question: Hello | TrainRequest, record: RecordDict) -> RecordDict | None:
        return None if isinstance(question, TrainRequest) and question.round == 3 else record

    exchange = ScriptedExchange(study.plan, NAMES, dict.fromkeys(("hill", "north"), dies_in_round_3))
    with pytest.raises(QuorumLost, match=r"round 3 got 1 usable replies.*hill: NodeFailed.*2 rounds are saved"):
        rounds.run(study, exchange)
    assert exchange.asked.count(("hill", 3)) == 2
    assert exchange.asked.count(("river", 3)) == 1

    resumed = Study.resume(tmp_path)
    assert resumed.completed == 2
    rounds.run(resumed, ScriptedExchange(study.plan, NAMES))
    undisturbed = begin(tmp_path / "other")
    rounds.run(undisturbed, ScriptedExchange(study.plan, NAMES))
    assert [r.weights for r in resumed.records] == [r.weights for r in undisturbed.records]


def test_too_few_sites_at_the_start_stop_the_study_before_any_round(tmp_path: Path) -> None:
    study = begin(tmp_path)
    refuse = dict.fromkeys(
        ("hill", "north"), lambda _q, _r: Refused(plan="", site="", reason="PlanRefused").to_record()
    )
    exchange = ScriptedExchange(study.plan, NAMES, refuse)
    with pytest.raises(QuorumLost, match="needs 2 sites; 1 of 3"):
        rounds.run(study, exchange)
    assert exchange.asked == []
    assert study.completed == 0


def test_two_nodes_that_claim_one_name_do_not_count_twice(tmp_path: Path) -> None:
    study = begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, ("north", "north", "river")))
    assert all(sorted(r.replied) == ["north", "river"] for r in study.records)
    assert all(r.missing == {"node-2": "DuplicateName"} for r in study.records)


def test_a_finished_study_asks_nobody(tmp_path: Path) -> None:
    study = begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    exchange = ScriptedExchange(tiny_plan(), NAMES)
    rounds.run(Study.resume(tmp_path), exchange)
    assert exchange.asked == []


def test_each_site_is_told_the_head_of_its_own_ledger_in_its_last_counted_reply(tmp_path: Path) -> None:
    study = begin(tmp_path)
    exchange = ScriptedExchange(study.plan, NAMES, {"hill": during_training(fails_in_round_two)})
    rounds.run(study, exchange)
    told = {name: [head for other, head in exchange.heads if other == name] for name in NAMES}
    assert told["north"] == ["", *(ledger_head("north", n) for n in (1, 2, 3, 4))]
    assert told["hill"] == [
        "",
        ledger_head("hill", 1),
        ledger_head("hill", 1),
        *(ledger_head("hill", n) for n in (3, 4)),
    ]
    assert Study.resume(tmp_path).last_head("north") == ledger_head("north", 5)


def fails_in_round_two(record: RecordDict) -> RecordDict | None:
    return None if record["message"]["round"] == 2 else record
