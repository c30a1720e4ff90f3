"""Weights as they travel and rest: named float32 arrays with one digest, in safetensors, never pickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.errors import CheckpointCorrupt, MessageRefused
from common.host.files import write_atomically

Weights = dict[str, NDArray[np.float32]]


def digest(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 (hex) over names, shapes and little-endian float32 bytes, in name order.

    A sum may send uint64 (`common.mechanism.sums`), of which float32 would hold some digits only: its own bytes count.
    """
    seal = hashlib.sha256()
    for name in sorted(weights):
        whole = weights[name].dtype == np.uint64
        array = np.ascontiguousarray(weights[name], dtype="<u8" if whole else "<f4")
        seal.update(json.dumps([name, list(array.shape), *(["uint64"] if whole else [])]).encode())
        seal.update(array.tobytes())
    return seal.hexdigest()


def check(
    weights: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    what: str,
    dtype: str = "float32",
) -> None:
    """Refuse arrays that are not exactly the named arrays asked for, all of one type and finite.

    Args:
        weights: The arrays to check.
        shapes: Every name that must be there, with its shape.
        what: Named in the message, e.g. "reply of site north".
        dtype: Their type.

    Raises:
        MessageRefused: A name is missing or unknown, or an array has another shape or type or holds NaN or infinity.
    """
    if odd := sorted(set(weights) ^ set(shapes)):
        raise MessageRefused(f"{what}: array {odd[0]!r} is {'unknown' if odd[0] in weights else 'missing'}")
    for name, shape in shapes.items():
        array = weights[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise MessageRefused(
                f"{what}: array {name!r} is {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}"
            )
        if not np.isfinite(array).all():
            raise MessageRefused(f"{what}: array {name!r} holds a value that is not finite")


def write(
    weights: Mapping[str, NDArray[np.float32]],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    mode: int | None = None,
) -> str:
    """Write a safetensors file so that a crash leaves the old file or the new one; return the weights' digest.

    Args:
        weights: The arrays.
        path: The file; its folder is made where it is missing.
        metadata: Kept with the arrays.
        mode: Permissions, as in `common.host.files.write_atomically`.

    Raises:
        OSError: The disk refuses; the old file stays.
    """
    sealed = digest(weights)
    contiguous = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    write_atomically(path, save(contiguous, metadata={**(metadata or {}), "digest": sealed}), mode=mode)
    return sealed


def read(path: Path) -> tuple[Weights, dict[str, str]]:
    """Read what `write` wrote and check its digest.

    Returns:
        The arrays and the metadata given to `write`, with the key "digest" added.

    Raises:
        CheckpointCorrupt: The file is absent, truncated, altered, or not safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointCorrupt(
            f"{path}: not a readable safetensors file ({type(error).__name__}). Restore it, or start the study again"
        ) from error
    if metadata.get("digest") != digest(weights):
        raise CheckpointCorrupt(f"{path}: its content does not have the digest it states. Restore it from a copy")
    return weights, metadata
