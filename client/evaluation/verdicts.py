"""Verdicts that were settled and may be sent again as they are: one small JSON file a candidate."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from common.errors import SignatureInvalid, StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.plan.study_plan import StudyPlan
from common.wire.messages import Verdict
from common.wire.verdicts import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A verdict, the ledger entry that paid for it, and the cohort it was made on."""

    verdict: Verdict
    entry: int
    cohort: str


def find(home: Path, plan: StudyPlan, weights: str) -> Finished | None:
    """The verdict on these weights, None where there is none.

    Args:
        home: The site's home folder.
        plan: The plan that has the gate.
        weights: Digest of the candidate's weights.

    Raises:
        StateError: The file is there and cannot be read.
    """
    path = _path(home, plan, weights)
    try:
        with told(path):
            record = json.loads(path.read_text(encoding="utf-8"))
        return Finished(verdict=from_json(record["verdict"]), entry=int(record["entry"]), cohort=str(record["cohort"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, SignatureInvalid) as error:
        raise StateError(
            f"{path} is damaged ({type(error).__name__}). Put this one file back from its backup; nothing else is wrong"
        ) from error


def keep(home: Path, plan: StudyPlan, weights: str, finished: Finished) -> None:
    """Store a settled verdict durably.

    Args:
        home: The site's home folder.
        plan: The plan that has the gate.
        weights: Digest of the candidate's weights.
        finished: The verdict, with the booking that paid for it.

    Raises:
        StateError: The disk refuses.
    """
    path = _path(home, plan, weights)
    record = dataclasses.asdict(finished) | {"verdict": to_json(finished.verdict)}
    with told(path, so=", so the verdict is not stored and nothing was sent"):
        write_atomically(path, json.dumps(record, sort_keys=True).encode(), mode=PRIVATE)


def _path(home: Path, plan: StudyPlan, weights: str) -> Path:
    name = hashlib.sha256(f"{plan.digest} {weights}".encode()).hexdigest()[:32]
    return home / "verdicts" / f"{name}.json"
