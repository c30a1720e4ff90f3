"""Finished replies on disk: written before they are sent, so that asking again costs a patient nothing."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from common.errors import CheckpointCorrupt
from common.host.disk import told
from common.host.files import PRIVATE
from common.model.weights import digest, read, write
from common.wire.messages import TrainReply, TrainRequest


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A stored reply.

    Attributes:
        reply: What was sealed.
        entry: Ledger entry that paid for it.
        cohort: Identity of the data set it was computed on.
    """

    reply: TrainReply
    entry: int
    cohort: str


def find(home: Path, request: TrainRequest) -> Finished | None:
    """Return what this very request (plan, round, weights) already got, or None.

    A spool file that is damaged counts as absent: the round is then trained, and booked, anew.

    Raises:
        DiskRefused: It is there, and the disk does not let it be read: what it holds was paid for.
    """
    path = _path(home, request)
    if path.exists():
        with told(path):
            path.open("rb").close()
    try:
        arrays, metadata = read(path)
        reply = TrainReply(arrays=arrays, **json.loads(metadata["reply"]))
        return Finished(reply=reply, entry=int(metadata["entry"]), cohort=metadata["cohort"])
    except (CheckpointCorrupt, KeyError, TypeError, ValueError):
        return None


def keep(home: Path, request: TrainRequest, finished: Finished) -> None:
    """Store a reply durably as the answer to `request`.

    Args:
        home: The site's home folder.
        request: What was asked.
        finished: The reply, with the booking that paid for it.

    Raises:
        DiskRefused: The disk refuses, by its kind.
    """
    reply = finished.reply
    scalars = {f.name: getattr(reply, f.name) for f in dataclasses.fields(reply) if f.name != "arrays"}
    metadata = {"reply": json.dumps(scalars), "entry": str(finished.entry), "cohort": finished.cohort}
    path = _path(home, request)
    with told(path, so=", so the reply is not stored and nothing was sent"):
        write(reply.arrays, path, metadata=metadata, mode=PRIVATE)


def _path(home: Path, request: TrainRequest) -> Path:
    return home / "spool" / request.plan / f"{request.round:05d}-{digest(request.arrays)[:32]}.safetensors"
