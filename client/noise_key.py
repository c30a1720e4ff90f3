"""The key of a round under way, kept until its reply is stored, so that a crash costs a patient nothing.

Formal guarantee
    A reservation in the ledger pays for one draw of noise and samples. If the process dies before the reply is stored,
    nothing has been sent; the round is then computed again from the same key on the same weights and patients, which
    is the same draw, not a second one. So a crash needs no new booking, and what an observer can see is one output per
    reservation, whenever and however often the process died. The key is written (mode 0600) in the moment the round
    is booked and is removed, before the reply may leave, once the reply is stored. It lies beside the cache, which
    holds the images themselves: whoever can read it has no use for it.
"""

import hashlib
import json
from pathlib import Path

from client.randomness import SecureRandom
from common.errors import StateError
from common.files import PRIVATE, sync_folder, write_atomically

_BYTES = 32


def name_of(plan: str, number: int, request: str, cohort: str) -> str:
    """Name of the key of round `number`: one for each plan, round, weights (by digest) and data set (by identity)."""
    return hashlib.sha256(json.dumps([plan, number, request, cohort]).encode()).hexdigest()[:32]


def make(home: Path, name: str) -> None:
    """Draw a key and store it durably, in the place of an older one of that name.

    Raises:
        StateError: The disk refuses.
    """
    path = _path(home, name)
    try:
        write_atomically(path, SecureRandom.new_key(), mode=PRIVATE)
    except OSError as error:
        raise StateError(
            f"{path.parent} cannot be written ({error.strerror}). Free space or mend its rights"
        ) from error


def kept(home: Path, name: str) -> bytes | None:
    """Return the key of a round that was booked and is not stored yet, or None."""
    try:
        key = _path(home, name).read_bytes()
    except OSError:
        return None
    return key if len(key) == _BYTES else None


def destroy(home: Path, name: str) -> None:
    """Remove the key; call once the reply is stored and before it leaves. Nothing happens where there is none."""
    path = _path(home, name)
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def _path(home: Path, name: str) -> Path:
    return home / "keys" / f"{name}.key"
