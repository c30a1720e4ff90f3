"""Messages round-trip through Flower records; whatever is not exactly right is refused by type."""

import dataclasses
import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import save

from common.errors import MessageRefused
from common.model.weights import digest
from common.wire import messages
from common.wire.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, pack, read_reply

PLAN = "a" * 64


def request() -> TrainRequest:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    return TrainRequest(plan=PLAN, round=3, last_head="c" * 64, arrays={"w": weights})


def reply() -> TrainReply:
    return TrainReply(
        plan=PLAN,
        round=3,
        phase="sgd",
        site="north",
        epsilon=1.5,
        delta=1e-5,
        ledger_head="b" * 64,
        arrays={"w": np.zeros(2, np.float32)},
    )


def test_messages_come_back_as_they_were_sent() -> None:
    back = TrainRequest.from_record(request().to_record())
    assert (back.plan, back.round, back.last_head) == (PLAN, 3, "c" * 64)
    np.testing.assert_array_equal(back.arrays["w"], request().arrays["w"])
    assert Hello.from_record(Hello(plan=PLAN).to_record()) == Hello(plan=PLAN)
    answer = read_reply(reply().to_record(), TrainReply)
    assert isinstance(answer, TrainReply)
    assert (answer.site, answer.epsilon) == ("north", 1.5)


@pytest.mark.parametrize("packed", [False, True])
def test_whole_numbers_of_a_sum_come_back_to_the_last_digit(packed: bool) -> None:
    numbers = np.array([2**64 - 1, 2**53 + 1, 0], np.uint64)
    record = dataclasses.replace(reply(), arrays={"w": numbers}).to_record()
    back = read_reply(pack(record) if packed else record, TrainReply)
    assert isinstance(back, TrainReply)
    assert back.arrays["w"].dtype == np.uint64
    np.testing.assert_array_equal(back.arrays["w"], numbers)
    assert digest(back.arrays) != digest({"w": numbers - 1})


def test_a_refusal_carries_a_known_type_and_no_text() -> None:
    refused = read_reply(Refused(plan=PLAN, site="north", reason="BudgetExhausted").to_record(), HelloReply)
    assert isinstance(refused, Refused)
    assert refused.reason == "BudgetExhausted"
    assert Refused(plan=PLAN, site="n", reason="patient Jane Doe").reason == "WardroundError"


def with_scalars(**changes: object) -> RecordDict:
    record = request().to_record()
    record["message"] = ConfigRecord({**record["message"], **changes})
    return record


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"kind": "hello"},
        {"round": "3"},
        {"round": True},
        {"round": 3.0},
        {"plan": 7},
        {"sigma": 0.1},
        {"seed": 1},
        {"local_steps": 1000},
        {"clip_norm": 100.0},
        {"plan": "x" * 5000},
        {"last_head": 7},
        {"last_head": "x" * 257},
    ],
)
def test_scalars_that_are_unknown_or_of_another_type_are_refused(changes: dict[str, object]) -> None:
    TrainRequest.from_record(with_scalars())
    with pytest.raises(MessageRefused):
        TrainRequest.from_record(with_scalars(**changes))


def test_unknown_and_missing_parts_are_refused() -> None:
    extra = request().to_record()
    extra["metrics"] = MetricRecord({"loss": 1.0})
    missing = request().to_record()
    del missing["arrays"]
    for record in (extra, missing, RecordDict({}), RecordDict({"message": MetricRecord({"schema": 1})})):
        with pytest.raises(MessageRefused):
            TrainRequest.from_record(record)


def test_epsilon_that_is_not_a_number_is_refused() -> None:
    record = reply().to_record()
    record["message"] = ConfigRecord({**record["message"], "epsilon": float("nan")})
    with pytest.raises(MessageRefused, match="epsilon"):
        TrainReply.from_record(record)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def announcing(shape: tuple[int, ...], payload: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        npy(np.zeros(3))[:20],
        npy(np.zeros(3, np.float64)),
        npy(np.zeros(3, np.int64)),
        npy(np.asfortranarray(np.ones((2, 3), np.float32))),
        announcing((2_684_354_560,), bytes(8)),
        announcing((4,), bytes(8)),
        announcing((1,), bytes(8)),
    ],
)
def test_arrays_that_are_not_what_they_announce_are_refused_before_they_are_allocated(data: bytes) -> None:
    record = request().to_record()
    record["arrays"] = ArrayRecord({"w": Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=data)})
    with pytest.raises(MessageRefused, match="array 'w'"):
        TrainRequest.from_record(record)


def packed(data: bytes) -> RecordDict:
    record = request().to_record()
    array = Array(dtype="uint8", shape=(len(data),), stype="wardround.safetensors", data=data)
    record["arrays"] = ArrayRecord({"packed": array})
    return record


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_that_are_too_large_together_are_refused_before_they_are_read(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = pack(request().to_record()) if packed else request().to_record()
    size = sum(len(array.data) for array in record["arrays"].values())
    monkeypatch.setattr(messages, "MAX_BYTES", size)
    TrainRequest.from_record(record)
    monkeypatch.setattr(messages, "MAX_BYTES", size - 1)
    with pytest.raises(MessageRefused, match="more than"):
        TrainRequest.from_record(record)


def test_packed_arrays_mean_the_same_and_are_one_array() -> None:
    record = request().to_record()
    assert list(pack(record)["arrays"]) == ["packed"]
    sent, read = TrainRequest.from_record(record), TrainRequest.from_record(pack(record))
    assert digest(sent.arrays) == digest(read.arrays)
    assert pack(Hello(plan="p").to_record()) == Hello(plan="p").to_record()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        save({"w": np.zeros(3, np.float32)})[:-1],
        save({"w": np.zeros(3, np.float64)}),
        save({"w": np.zeros(3, np.int64)}),
        (2**40).to_bytes(8, "little") + b"{}",
        save({"w": np.zeros(3, np.float32)}).replace(b'"shape":[3]', b'"shape":[9]'),
    ],
)
def test_packed_arrays_that_are_not_what_they_announce_are_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        TrainRequest.from_record(packed(data))
