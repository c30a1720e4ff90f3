"""Weights made to hurt: refused where they are not exactly right, and otherwise worth one clipped, noised sum each."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from common.model.study_model import initial
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.wire.messages import Refused, TrainReply
from tests.client.besieged import INITIAL, PLAN, SGD, Daemon, copy_of, make_hospital, request, with_array


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def daemon(template: Path, tmp_path: Path) -> Daemon:
    return copy_of(template, tmp_path)


def weights_with(value: float) -> Weights:
    return {name: np.full_like(array, value) for name, array in INITIAL.items()}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("number", [1, SGD])
def test_weights_that_are_not_finite_are_refused(daemon: Daemon, number: int, value: float) -> None:
    spoilt = initial(PLAN).arrays()
    next(iter(spoilt.values())).flat[-1] = value
    assert daemon.refusal(request(number, spoilt).to_record()) == "MessageRefused"


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("value", [1e30, -3.4e38])
def test_huge_weights_in_a_moments_round_get_the_clipped_noised_sum_alone(
    daemon: Daemon, number: int, value: float
) -> None:
    reply = daemon.train(number, weights=weights_with(value))
    assert isinstance(reply, TrainReply)
    assert all(np.isfinite(array).all() for array in reply.arrays.values())
    # Ten patients at a sensitivity of at most 1.5 each, and noise of a standard deviation below 10 on each value.
    assert np.abs(reply.arrays["release"]).max() < 100
    assert daemon.events() == [schedule(PLAN)[number - 1].event]


@pytest.mark.parametrize("value", [1e4, 1e15, 1e30, -3.4e38])
def test_huge_weights_in_a_gradient_round_move_by_noise_alone_or_nothing_leaves(daemon: Daemon, value: float) -> None:
    """Gradients overflow and count as zero, so noise is all there is. The budget is spent, which over-counts."""
    reply = daemon.train(SGD, weights=weights_with(value))
    assert daemon.events() == [schedule(PLAN)[SGD - 1].event]
    if isinstance(reply, Refused):
        assert reply.reason == "EgressRefused"
        assert "train" not in (daemon.home / "egress.jsonl").read_text().replace('"kind": "refusal"', "")
        assert not list((daemon.home / "spool").rglob("*.safetensors"))
    else:
        assert all(np.isfinite(array).all() for array in reply.arrays.values())
        furthest = max(
            float(np.abs(array.astype(np.float64) - np.float32(value)).max()) for array in reply.arrays.values()
        )
        assert furthest <= abs(value) * 1e-6 + 10 * PLAN.training.local_steps * PLAN.training.learning_rate
    assert daemon.serves()


def test_a_trainer_whose_weights_overflow_sends_nothing_and_stays_booked(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst a server can reach with its weights: the budget is spent and nothing was learnt (an over-count)."""
    overflowing = {name: np.full(array.shape, np.inf, np.float32) for name, array in INITIAL.items()}
    with monkeypatch.context() as patch:
        patch.setattr("common.model.vae.Vae.arrays", lambda _: overflowing)
        reply = daemon.train(SGD, weights=INITIAL)
    assert isinstance(reply, Refused)
    assert reply.reason == "EgressRefused"
    assert daemon.events() == [schedule(PLAN)[SGD - 1].event]
    assert not list((daemon.home / "spool").rglob("*.safetensors"))
    assert daemon.serves()


NAME = "start.mean"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def raw(data: bytes, *, shape: tuple[int, ...] = (784,), dtype: str = "float32") -> Array:
    return Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)


def announcing(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


TEN_GB = 10 * 1024**3 // 4


@pytest.mark.parametrize(
    "array",
    [
        Array(np.zeros(783, np.float32)),
        Array(np.zeros((28, 28), np.float32)),
        Array(np.zeros((784, 0), np.float32)),
        Array(np.zeros((), np.float32)),
        Array(np.zeros(784, np.float64)),
        Array(np.zeros(784, np.float16)),
        Array(np.zeros(784, np.int32)),
        Array(np.zeros(784, np.complex64)),
        raw(npy(np.array([{"code": "x"}] * 784, dtype=object))),
        raw(npy(np.zeros(3, np.float32))),
        raw(announcing((TEN_GB,))),
        raw(announcing((784, 2**40))),
        raw(announcing((784,))),
        raw(b""),
        raw(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
        raw(b"\x93NUMPY\x01\x00\xff\xff{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': ()}"),
    ],
)
def test_arrays_of_other_shape_type_or_size_are_refused(daemon: Daemon, array: Array) -> None:
    assert daemon.refusal(with_array(NAME, array)) == "MessageRefused"


def test_ten_gigabytes_announced_are_refused_without_being_allocated(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = [0]
    original: Callable[..., np.ndarray] = np.frombuffer

    def watched(data: bytes, *arguments: Any, **options: Any) -> np.ndarray:
        array = original(data, *arguments, **options)
        largest[0] = max(largest[0], array.nbytes)
        return array

    monkeypatch.setattr(np, "frombuffer", watched)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("an array was read without a check"))
    for shape in ((TEN_GB,), (TEN_GB, 1), (2, TEN_GB)):
        answer = daemon.ask(with_array(NAME, raw(announcing(shape), shape=shape)))
        assert answer["message"]["reason"] == "MessageRefused"
    assert largest[0] < 2**20


def test_more_bytes_than_a_message_may_hold_are_refused(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.wire.messages.MAX_BYTES", 10_000)
    answer = daemon.ask(with_array("padding", raw(bytes(20_000))))
    assert answer["message"]["reason"] == "MessageRefused"


def without(name: str) -> RecordDict:
    record = request().to_record()
    del record["arrays"][name]
    return record


@pytest.mark.parametrize(
    "name", ["extra", "", "start", "start.mean ", "model.start.mean", "../start.mean", "__class__", "a" * 10_000]
)
def test_a_tensor_too_many_is_refused(daemon: Daemon, name: str) -> None:
    assert daemon.refusal(with_array(name, Array(np.zeros(784, np.float32)))) == "MessageRefused"


def test_a_missing_tensor_is_refused(daemon: Daemon) -> None:
    for name in (NAME, next(reversed(INITIAL))):
        assert daemon.refusal(without(name)) == "MessageRefused"
    record = request().to_record()
    record["arrays"] = ArrayRecord({})
    assert daemon.refusal(record) == "MessageRefused"
