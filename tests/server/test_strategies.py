"""Each strategy does what Flower's own does, survives a crash to the bit, and stays out of the moments."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg
from flwr.supercore.task_identity import TaskIdentity

from common.errors import CheckpointCorrupt, PlanError, QuorumLost, StudyStopped
from common.model.array_table import PREFIX as START
from common.model.study_model import initial, trained
from common.model.synthesis import Decoder
from common.model.weights import Weights, digest
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, TrainReply, TrainRequest
from server.aggregation import strategies
from server.aggregation.plain_sum import PlainSum
from server.mechanism.half import Case, half_of
from server.protocol import gate, rounds
from server.study import release
from server.study.study import MEMORY, Study
from tests.server.sites import PLAN, ScriptedExchange, honest_reply, tiny_plan

NAMES = ("hill", "lake", "north", "river", "shore")
RULES = {
    "fedavg": "",
    "fedavgm": "server_learning_rate = 0.8\nserver_momentum = 0.7\n",
    "fedadam": "server_learning_rate = 0.01\nserver_momentum = 0.8\nadam_decay = 0.95\n",
    "median": "",
    "trimmed_mean": "trim_share = 0.34\n",
}


def text(strategy: str, *, ema: float = 0.0, count: int = 4) -> str:
    training = f"rounds = {count}\nema = {ema}\n"
    rules = f'[aggregation]\nstrategy = "{strategy}"\n{RULES[strategy]}min_sites = 3\n'
    plan = PLAN.replace("rounds = 2\n", training).replace("[aggregation]\nmin_sites = 2\n", rules)
    return plan + "[release]\nimages_per_label = 0\n"  # what is asserted here is not whether a toy passes the screening


def begin(folder: Path, strategy: str, **options: Any) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.toml").write_text(text(strategy, **options))
    return Study.begin(folder)


def replies(plan: StudyPlan, step: Round, weights: Weights) -> list[TrainReply]:
    request = TrainRequest(plan=plan.digest, round=step.number, arrays=weights)
    return [honest_reply(plan, name, request) for name in NAMES]


def joined(plan: StudyPlan, step: Round, weights: Weights, given: list[TrainReply], folder: Path) -> Weights:
    total = PlainSum(plan, step, weights, folder=folder)
    for reply in given:
        total.add(reply)
    return half_of(step.phase).absorb(Case.of_site(plan, step, weights), total.join())


def flowers_own(plan: StudyPlan) -> FedAvg:
    rules, options = plan.aggregation, {"weighted_by_key": "weight"}
    kinds: dict[str, Callable[[], FedAvg]] = {
        "fedavg": lambda: FedAvg(**options),
        "fedavgm": lambda: FedAvgM(
            server_learning_rate=rules.server_learning_rate, server_momentum=rules.server_momentum, **options
        ),
        "fedadam": lambda: FedAdam(
            eta=rules.server_learning_rate,
            beta_1=rules.server_momentum,
            beta_2=rules.adam_decay,
            tau=rules.adam_floor,
            **options,
        ),
        "median": lambda: FedMedian(**options),
        "trimmed_mean": lambda: FedTrimmedAvg(beta=rules.trim_share, **options),
    }
    return kinds[rules.strategy]()


def flowers_step(own: FedAvg, number: int, before: Weights, given: list[TrainReply]) -> Weights:
    """One round of Flower's strategy on the same replies, its round loop left out."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    if isinstance(own, FedAvgM):
        own.current_arrays = ArrayRecord({name: Array(value) for name, value in sorted(before.items())})
    elif isinstance(own, FedAdam):
        own.current_arrays = dict(before)
    messages = []
    for reply in given:
        arrays = ArrayRecord({name: Array(value) for name, value in sorted(reply.arrays.items())})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"weight": 1.0})})
        asked = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=1, message_type="train")
        messages.append(Message(content, reply_to=asked))
    result, _ = own.aggregate_train(number, messages)
    assert result is not None
    return {name: array.numpy() for name, array in result.items()}


@pytest.mark.parametrize("strategy", RULES)
def test_three_rounds_come_to_what_flowers_own_strategy_makes_of_them(tmp_path: Path, strategy: str) -> None:
    plan = StudyPlan.parse(text(strategy))
    own, weights, memory = flowers_own(plan), initial(plan).arrays(), {}
    for done, step in enumerate(step for step in schedule(plan) if step.phase == "sgd"):
        given = replies(plan, step, weights)
        # Flower's bias correction in FedAdam counts one round more than has been: it is told one less.
        theirs = flowers_step(own, done, trained(plan, weights), given)
        average = joined(plan, step, weights, given, tmp_path)
        weights, memory = strategies.advance(
            plan, step.phase, before=weights, average=average, memory=memory, rounds=done
        )
        assert set(theirs) == set(trained(plan, weights))
        for name, value in theirs.items():
            np.testing.assert_allclose(weights[name], value, rtol=2e-5, atol=2e-7, err_msg=name)
        assert {name: value.shape for name, value in memory.items()} == strategies.memory_shapes(
            plan, weights, rounds=done + 1
        )


@pytest.mark.parametrize("strategy", RULES)
def test_the_order_of_arrival_changes_no_bit(tmp_path: Path, strategy: str) -> None:
    plan = StudyPlan.parse(text(strategy))
    weights, step = initial(plan).arrays(), schedule(plan)[-1]
    given = replies(plan, step, weights)
    orders = (given, given[::-1], [given[i] for i in (2, 0, 4, 1, 3)])
    assert len({digest(joined(plan, step, weights, order, tmp_path)) for order in orders}) == 1


@pytest.mark.parametrize("strategy", ["median", "trimmed_mean"])
def test_one_wild_site_moves_a_robust_average_no_further_than_the_honest_ones_reach(
    tmp_path: Path, strategy: str
) -> None:
    plan = StudyPlan.parse(text(strategy))
    weights, step = initial(plan).arrays(), schedule(plan)[-1]
    *honest, wild = replies(plan, step, weights)
    wild = dataclasses.replace(wild, arrays={name: array + 0.5 for name, array in wild.arrays.items()})
    after = joined(plan, step, weights, [wild, *honest], tmp_path)
    for name in honest[0].arrays:
        values = np.stack([reply.arrays[name] for reply in honest])
        assert (after[name] >= values.min(axis=0)).all()
        assert (after[name] <= values.max(axis=0)).all()


@pytest.mark.parametrize("strategy", ["fedadam", "trimmed_mean"])
def test_the_moments_are_always_added_whatever_the_strategy(tmp_path: Path, strategy: str) -> None:
    ends = []
    for name in ("fedavg", strategy):
        study = begin(tmp_path / name / "study", name)
        shares = study.plan.digest  # the plans differ, and with them the random start of the nets
        rounds.run(study, ScriptedExchange(study.plan, NAMES))
        assert shares == study.plan.digest
        ends.append({key: value for key, value in study.weights.items() if key.startswith(START)})
    for key, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][key], value, err_msg=key)


@pytest.mark.parametrize(
    ("strategy", "fails_at"), [("fedavg", 6), ("fedavgm", 4), ("fedavgm", 6), ("fedadam", 6), ("median", 5)]
)
def test_a_resumed_study_equals_an_uninterrupted_one_momentum_average_and_all(
    tmp_path: Path, strategy: str, fails_at: int
) -> None:
    whole = begin(tmp_path / "whole", strategy, ema=0.6)
    rounds.run(whole, ScriptedExchange(whole.plan, NAMES))

    def fails(question: Hello | TrainRequest, record: RecordDict) -> RecordDict | None:
        return None if isinstance(question, TrainRequest) and question.round == fails_at else record

    cut = begin(tmp_path / "cut", strategy, ema=0.6)
    with pytest.raises(QuorumLost):
        rounds.run(cut, ScriptedExchange(cut.plan, NAMES, dict.fromkeys(NAMES, fails)))
    resumed = Study.resume(tmp_path / "cut")
    assert resumed.completed == fails_at - 1
    rounds.run(resumed, ScriptedExchange(resumed.plan, NAMES))
    assert digest(resumed.weights) == digest(whole.weights)
    assert digest(resumed.memory) == digest(whole.memory)
    assert digest(Study.resume(tmp_path / "cut").released) == digest(whole.released)
    assert [record.utility for record in resumed.records] == [record.utility for record in whole.records]


def test_the_released_decoder_is_the_corrected_average_over_rounds_and_sites_train_from_the_raw_weights(
    tmp_path: Path,
) -> None:
    study = begin(tmp_path, "fedavg", ema=0.6)
    after: list[Weights] = []
    sent: list[str] = []

    def heard(question: Hello | TrainRequest, record: RecordDict) -> RecordDict:
        sent.extend([digest(question.arrays)] if isinstance(question, TrainRequest) else [])
        return record

    exchange = ScriptedExchange(study.plan, NAMES, {"hill": heard})
    rounds.run(study, exchange, on_round=lambda _: after.append(study.weights))
    assert sent[1:] == [digest(weights) for weights in after[:-1]]

    decay, last = 0.6, after[-4:]
    shares = np.array([decay ** (3 - i) * (1 - decay) for i in range(4)]) / (1 - decay**4)
    assert shares.sum() == pytest.approx(1.0)
    for name in trained(study.plan, study.weights):
        expected = sum(share * weights[name].astype(np.float64) for share, weights in zip(shares, last, strict=True))
        np.testing.assert_allclose(study.released[name], expected, rtol=1e-5, atol=1e-8, err_msg=name)
    raw, averaged = (Decoder.of(study.plan, weights).digest for weights in (study.weights, study.released))
    assert gate.candidate_of(study) == averaged != raw
    release.publish(study, simulated=True)
    assert Decoder.load(tmp_path / "decoder.safetensors").digest == averaged
    assert json.loads((tmp_path / "card.json").read_text())["decoder_digest"] == averaged


def test_without_an_average_the_last_rounds_decoder_is_released_and_nothing_is_remembered(tmp_path: Path) -> None:
    study = begin(tmp_path, "fedavg")
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    assert study.memory == {}
    assert digest(study.released) == digest(study.weights)
    assert not list(tmp_path.rglob(MEMORY))


@pytest.mark.parametrize("harm", ["spoil", "remove", "exchange"])
def test_a_memory_that_is_damaged_or_of_another_round_is_refused(tmp_path: Path, harm: str) -> None:
    study = begin(tmp_path, "fedavgm")
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    path = tmp_path / "checkpoints" / "00007" / MEMORY
    if harm == "spoil":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    elif harm == "remove":
        path.unlink()
    else:
        shutil.copy(path.parents[1] / "00006" / MEMORY, path)
    with pytest.raises(CheckpointCorrupt):
        Study.resume(tmp_path)


def test_a_step_that_leaves_the_finite_numbers_stops_the_study_and_saves_nothing() -> None:
    plan = StudyPlan.parse(text("fedavgm"))
    before = initial(plan).arrays()
    high = {name: np.full_like(array, 3e38) for name, array in trained(plan, before).items()}
    memory = {strategies.MOMENTUM + name: value for name, value in high.items()}
    with pytest.raises(StudyStopped, match=r"not finite.*server_learning_rate"):
        strategies.advance(plan, "sgd", before=before, average=before | high, memory=memory, rounds=1)


@pytest.mark.parametrize(
    ("aggregation", "key"),
    [
        ('strategy = "krum"', "strategy"),
        ('strategy = "fedadam"', "server_learning_rate"),
        ("server_learning_rate = 0.0", "server_learning_rate"),
        ("server_momentum = 1.0", "server_momentum"),
        ("adam_decay = -0.1", "adam_decay"),
        ("adam_floor = 0.0", "adam_floor"),
        ("trim_share = 0.5", "trim_share"),
        ('strategy = "trimmed_mean"\nmin_sites = 4', "trim_share"),
        ('strategy = "median"\nmin_sites = 2', "min_sites"),
    ],
)
def test_rules_that_cannot_hold_are_refused_by_their_dotted_name(aggregation: str, key: str) -> None:
    with pytest.raises(PlanError, match=f"`aggregation.{key}`"):
        StudyPlan.parse(f'name = "a"\n[aggregation]\n{aggregation}\n')


@pytest.mark.parametrize(
    ("training", "key"),
    [
        ("ema = 1.0", "ema"),
        ("ema = -0.1", "ema"),
        ("proximal = -1.0", "proximal"),
        ("proximal = 101.0", "proximal"),
        ('optimizer = "sgd"\nlearning_rate = 0.5\nproximal = 3.0', "proximal"),
    ],
)
def test_averages_and_pulls_that_cannot_hold_are_refused(training: str, key: str) -> None:
    with pytest.raises(PlanError, match=f"`training.{key}`"):
        StudyPlan.parse(f'name = "a"\n[training]\n{training}\n')


def test_the_defaults_are_plain_federated_averaging() -> None:
    plan = tiny_plan()
    assert (plan.aggregation.strategy, plan.training.ema, plan.training.proximal) == ("fedavg", 0.0, 0.0)
