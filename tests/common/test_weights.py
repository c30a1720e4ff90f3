"""Weights keep their digest on disk; anything altered, missing, misshapen or not finite is refused."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import CheckpointCorrupt, MessageRefused
from common.model.weights import Weights, check, digest, read, write


def some() -> Weights:
    return {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(4, np.float32)}


SHAPES = {"a": (4,), "b": (2, 3)}


def test_weights_come_back_as_they_were_written(tmp_path: Path) -> None:
    sealed = write(some(), tmp_path / "w.safetensors", metadata={"note": "x"})
    weights, metadata = read(tmp_path / "w.safetensors")
    assert digest(weights) == sealed == digest(some()) == metadata["digest"]
    assert metadata["note"] == "x"


def test_digest_sees_names_shapes_and_values() -> None:
    base = digest(some())
    assert digest({**some(), "a": np.zeros(4, np.float32)}) != base
    assert digest({**some(), "b": some()["b"].reshape(3, 2)}) != base
    assert digest({"c": some()["b"], "a": some()["a"]}) != base


def test_every_single_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write(some(), path)
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        try:
            weights, _ = read(path)
        except CheckpointCorrupt:
            continue
        assert digest(weights) == digest(some()), f"byte {position} changed the weights unnoticed"


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", bytes(100)])
def test_what_is_not_safetensors_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CheckpointCorrupt):
        read(tmp_path / "w")


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.array([1, 2, np.nan, 4], np.float32)},
        {"a": np.array([1, 2, np.inf, 4], np.float32)},
        {"a": np.ones(5, np.float32)},
        {"a": np.ones(4, np.float64)},
        {"extra": np.ones(1, np.float32)},
    ],
)
def test_odd_arrays_are_refused(change: Weights) -> None:
    check(some(), SHAPES, what="reply")
    with pytest.raises(MessageRefused, match="reply"):
        check({**some(), **change}, SHAPES, what="reply")


def test_missing_array_is_refused() -> None:
    with pytest.raises(MessageRefused, match="'b' is missing"):
        check({"a": some()["a"]}, SHAPES, what="reply")
