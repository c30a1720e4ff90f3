"""Finished answers on disk: written before they are sent, so that asking again costs a patient nothing.

A reply to a round is a safetensors file, a verdict is a small JSON file. Both follow one rule on damage: an answer that
is there and cannot be read is not sent, and it is not made again either. To make it again is a second booking on the
same patients, and a bad disk must not spend their budget without a person who decides. The site refuses that one
question until the steward puts the file back from a backup, or removes it: that says the answer may be paid for again.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from client.site import layout
from common.errors import CheckpointCorrupt, SignatureInvalid, StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.model.weights import digest, read, write
from common.wire.messages import EvaluateRequest, TrainReply, TrainRequest, Verdict
from common.wire.secure_messages import MaskedRequest
from common.wire.verdicts import from_json, to_json

Request = TrainRequest | EvaluateRequest
Answer = TrainReply | Verdict


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A stored answer.

    Attributes:
        answer: What was sealed or signed.
        entry: Ledger entry that paid for it.
        cohort: Identity of the data set it was computed on.
    """

    answer: Answer
    entry: int
    cohort: str

    @property
    def digest(self) -> str:
        """What the ledger notes that its entry ended in: the reply's arrays, or the candidate that was judged."""
        return digest(self.answer.arrays) if isinstance(self.answer, TrainReply) else self.answer.candidate


def attempt_of(request: Request) -> int:
    """Attempt at a round whose noise is shared, from 1; 0 for any other request."""
    return request.attempt if isinstance(request, MaskedRequest) else 0


def find(home: Path, request: Request) -> Finished | None:
    """Return what this very request (plan, round, weights, attempt) already got; None where there is nothing.

    Raises:
        DiskRefused: It is there, and the disk does not let it be read: what it holds was paid for.
        StateError: It is there, and it is damaged.
    """
    path = _path(home, request)
    try:
        with told(path):
            path.open("rb").close()
            return _verdict(path) if isinstance(request, EvaluateRequest) else _reply(path)
    except FileNotFoundError:
        return None
    except (CheckpointCorrupt, SignatureInvalid, ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"{path} is a finished answer and is damaged ({type(error).__name__}). Nothing was sent or booked. Put "
            "this one file back from its backup. Where there is none, remove it: the answer is then computed again "
            "and booked once more"
        ) from error


def keep(home: Path, request: Request, finished: Finished) -> None:
    """Store an answer durably as the one to a request.

    Args:
        home: The site's home.
        request: What was asked.
        finished: What it comes to.

    Raises:
        DiskRefused: The disk refuses, by its kind.
    """
    path, answer = _path(home, request), finished.answer
    with told(path, so=", so the answer is not stored and nothing was sent"):
        if isinstance(answer, Verdict):
            record = {"verdict": to_json(answer), "entry": finished.entry, "cohort": finished.cohort}
            write_atomically(path, json.dumps(record, sort_keys=True).encode(), mode=PRIVATE)
            return
        scalars = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer) if f.name != "arrays"}
        metadata = {"reply": json.dumps(scalars), "entry": str(finished.entry), "cohort": finished.cohort}
        write(answer.arrays, path, metadata=metadata, mode=PRIVATE)


def _reply(path: Path) -> Finished:
    arrays, metadata = read(path)
    reply = TrainReply(arrays=arrays, **json.loads(metadata["reply"]))
    return Finished(answer=reply, entry=int(metadata["entry"]), cohort=metadata["cohort"])


def _verdict(path: Path) -> Finished:
    record = json.loads(path.read_text(encoding="utf-8"))
    return Finished(answer=from_json(record["verdict"]), entry=int(record["entry"]), cohort=str(record["cohort"]))


def _path(home: Path, request: Request) -> Path:
    weights = digest(request.arrays)
    if isinstance(request, TrainRequest):
        asked = attempt_of(request)
        attempt = f"-{asked:02d}" if asked else ""
        return home / layout.SPOOL / request.plan / f"{request.round:05d}-{weights[:32]}{attempt}.safetensors"
    return home / layout.VERDICTS / f"{hashlib.sha256(f'{request.plan} {weights}'.encode()).hexdigest()[:32]}.json"
