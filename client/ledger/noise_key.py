"""The noise key of a round under way, kept until its reply is stored, so that a crash costs a patient nothing.

Formal guarantee
    A reservation in the ledger pays for one draw of noise and samples. If the process dies before the reply is stored,
    nothing has been sent. The round is then computed again from the same key, on the same weights and patients. That is
    the same draw, not a second one. So a crash needs no new booking, and an observer can see one output for each
    reservation, after any number of crashes. The key is written (mode 0600) when the round is booked. It is removed
    once the reply is stored, before the reply may leave. It lies next to the cache, which holds the images themselves:
    a reader of the home has no use for the key.

    A key names its reservation and its images. If the booking failed, the ledger has no such reservation. An earlier
    reservation of the same round does not replace it, and other images of the same patients are another query. Such a
    key is never computed with: a new one takes its place with the next booking.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from client.site import layout
from common.host.disk import told
from common.host.files import PRIVATE, sync_folder, write_atomically

_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class RoundKey:
    """A key and what it may be used for.

    Attributes:
        key: 32 bytes.
        entry: Number of the one reservation that pays for what is made with it.
        generation: Cache generation (`client.cohort.cache`) that the reservation was booked for.
    """

    key: bytes
    entry: int
    generation: str


def name_of(plan: str, number: int, request: str, cohort: str, *, attempt: int = 0) -> str:
    """Name of the key of round `number`: one for each plan, round, weights (by digest) and data set (by identity).

    Args:
        plan: Digest of the plan.
        number: Number of the round.
        request: Digest of the weights that were sent.
        cohort: Identity of the data set.
        attempt: Attempt at a secure round, which is another sum and needs noise of its own; 0 for a plain round.
    """
    what = [plan, number, request, cohort, *([attempt] if attempt else [])]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def make(home: Path, name: str, *, entry: int, generation: str) -> None:
    """Draw a key and store it durably, in the place of an older one of that name.

    Args:
        home: The site's home.
        name: See `name_of`.
        entry: Number of the reservation that is being booked.
        generation: Cache generation it is booked for.

    Raises:
        DiskRefused: The disk refuses, by its kind.
    """
    from client.mechanism.randomness import SecureRandom  # PyTorch takes seconds, and other callers make no key

    path = _path(home, name)
    content = {"key": SecureRandom.new_key().hex(), "entry": entry, "generation": generation}
    with told(path.parent):
        write_atomically(path, json.dumps(content).encode(), mode=PRIVATE)


def kept(home: Path, name: str) -> RoundKey | None:
    """Return the key of a round that is not stored yet, whether or not its booking came about; None without one."""
    try:
        content = json.loads(_path(home, name).read_bytes())
        found = RoundKey(key=bytes.fromhex(content["key"]), entry=content["entry"], generation=content["generation"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = len(found.key) == _BYTES and type(found.entry) is int and type(found.generation) is str
    return found if whole else None


def destroy(home: Path, name: str) -> None:
    """Remove the key; call once the reply is stored and before it leaves. Nothing happens where there is none."""
    path = _path(home, name)
    if path.exists():
        with told(path.parent, so=", so the reply is kept and nothing was sent"):
            path.unlink()
            sync_folder(path.parent)


def destroy_all(home: Path) -> None:
    """Remove every key of a home that may be a copy: another copy may have sent what was made with one."""
    if (home / layout.KEYS).exists():
        with told(home / layout.KEYS):
            shutil.rmtree(home / layout.KEYS)
            sync_folder(home)


def _path(home: Path, name: str) -> Path:
    return home / layout.KEYS / f"{name}.key"
