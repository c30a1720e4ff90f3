"""What a coordinator keeps of an attempt at a secure round, so that it goes on with the same set after any end.

    secure/ROUND-ATTEMPT/   book.json        round keys and boxes, once the first leg is closed
                            NN.safetensors   each masked reply, by place
                            members.json     the set U, written before the first hospital is asked to sign it
                            signatures.json reveals.json   what came of the last two legs
                            asked-again.json shares did not fit once, and were asked for again
                            failed           this attempt cannot be finished; the next one is begun

The folder is removed once the round's checkpoint is saved: reveals open keys, and are needed no longer.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import CheckpointCorrupt, PlanError
from common.host.files import PRIVATE, write_atomically
from common.model.weights import read, write
from common.plan.study_plan import StudyPlan
from common.secure.attempt import Table
from common.secure.roster import Roster
from common.wire.messages import TrainReply

FOLDER, ROSTER = "secure", "roster.json"
BOOK, MEMBERS, SIGNATURES, REVEALS = "book", "members", "signatures", "reveals"
ASKED_AGAIN, _FAILED = "asked-again", "failed"


@dataclass(frozen=True)
class AttemptFiles:
    """The files of one attempt.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @classmethod
    def latest(cls, study: Path, number: int) -> tuple["AttemptFiles", int]:
        """The attempt at a round that goes on, or the next one where the last one failed; with its number."""
        found = [int(path.name[6:]) for path in (study / FOLDER).glob(f"{number:05d}-[0-9][0-9]")]
        last = max(found, default=1)
        files = cls(study / FOLDER / f"{number:05d}-{last:02d}")
        if (files.folder / _FAILED).exists():
            last += 1
            files = cls(study / FOLDER / f"{number:05d}-{last:02d}")
        return files, last

    def fail(self) -> None:
        """Note that this attempt cannot be finished."""
        write_atomically(self.folder / _FAILED, b"", mode=PRIVATE)

    def tables(self, name: str) -> dict[str, Table] | None:
        """Tables by name of one file; None where it is not there yet.

        Raises:
            CheckpointCorrupt: It cannot be read.
        """
        path = self.folder / f"{name}.json"
        try:
            content: dict[str, dict[str, str]] = json.loads(path.read_bytes())
            return {
                key: {int(place): bytes.fromhex(piece) for place, piece in table.items()}
                for key, table in content.items()
            }
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise CheckpointCorrupt(
                f"{path} cannot be read ({type(error).__name__}). Restore it, or write an empty file `failed` next to "
                "it: the next attempt is then begun, and booked anew by every hospital"
            ) from error

    def keep(self, name: str, tables: dict[str, Table]) -> None:
        """Write tables durably as one file."""
        content = {key: {str(place): piece.hex() for place, piece in table.items()} for key, table in tables.items()}
        write_atomically(self.folder / f"{name}.json", json.dumps(content, sort_keys=True).encode(), mode=PRIVATE)

    def drop(self, name: str) -> None:
        """Remove one file of tables; hospitals give the same again."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def replies(self) -> dict[int, TrainReply]:
        """Every reply that was kept, by place; raises `CheckpointCorrupt` where one is damaged."""
        found = {}
        for path in sorted(self.folder.glob("[0-9]*.safetensors")):
            arrays, metadata = read(path)
            scalars: dict[str, Any] = json.loads(metadata["reply"])
            found[int(path.stem)] = TrainReply(arrays=arrays, **scalars)
        return found

    def keep_reply(self, place: int, reply: TrainReply) -> None:
        """Write a reply durably."""
        scalars = {f.name: getattr(reply, f.name) for f in dataclasses.fields(reply) if f.name != "arrays"}
        path = self.folder / f"{place:02d}.safetensors"
        write(reply.arrays, path, metadata={"reply": json.dumps(scalars)}, mode=PRIVATE)


def forget(study: Path, number: int) -> None:
    """Remove what was kept of every attempt at this round and those before; its checkpoint is saved."""
    for path in (study / FOLDER).glob("[0-9]*-[0-9][0-9]"):
        if int(path.name[:5]) <= number:
            shutil.rmtree(path, ignore_errors=True)


def keep_roster(study: Path, plan: StudyPlan, given: Path | None) -> None:
    """Put the roster that a plan names into its study's folder.

    Args:
        study: The study's folder.
        plan: A plan that shares its noise.
        given: The roster's file; None where it lies in the folder already.

    Raises:
        PlanError: None is there, or it is not the plan's.
        StateError: It cannot be read.
    """
    if given is None and not (study / ROSTER).exists():
        raise PlanError(f"plan {plan.name!r} shares its noise. Give the roster that it names: --roster roster.json")
    roster = _right(Roster.load(given or study / ROSTER), plan, given or study / ROSTER)
    if not plan.aggregation.roster:
        raise PlanError(f"plan {plan.name!r} names no roster; only a simulation may. Set `aggregation.roster`")
    roster.save(study / ROSTER)


def roster_of(study: Path, plan: StudyPlan) -> Roster:
    """The roster of a study whose plan shares noise.

    Raises:
        PlanError: It is not the plan's.
        StateError: It cannot be read.
    """
    return _right(Roster.load(study / ROSTER), plan, study / ROSTER)


def _right(roster: Roster, plan: StudyPlan, path: Path) -> Roster:
    rules = plan.aggregation
    if rules.roster not in ("", roster.digest) or len(roster.members) != rules.hospitals:
        raise PlanError(f"{path} is not the roster of plan {plan.name!r}. Give the one with digest {rules.roster[:16]}")
    return roster
