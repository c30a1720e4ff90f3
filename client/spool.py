"""Finished replies on disk: written before they are sent, so that asking again costs a patient nothing."""

import dataclasses
import json
from pathlib import Path

from common.errors import CheckpointCorrupt
from common.messages import TrainReply, TrainRequest
from common.weights import digest, read, write


def find(home: Path, request: TrainRequest) -> TrainReply | None:
    """Return the reply this very request (plan, round, weights) already got, or None.

    A spool file that cannot be read counts as absent: the round is then trained, and booked, anew.
    """
    try:
        arrays, metadata = read(_path(home, request))
        return TrainReply(arrays=arrays, **json.loads(metadata["reply"]))
    except (CheckpointCorrupt, KeyError, TypeError, ValueError):
        return None


def keep(home: Path, request: TrainRequest, reply: TrainReply) -> None:
    """Store `reply` durably as the answer to `request`."""
    scalars = {f.name: getattr(reply, f.name) for f in dataclasses.fields(reply) if f.name != "arrays"}
    write(reply.arrays, _path(home, request), metadata={"reply": json.dumps(scalars)})


def _path(home: Path, request: TrainRequest) -> Path:
    return home / "spool" / request.plan / f"{request.round:05d}-{digest(request.arrays)[:32]}.safetensors"
