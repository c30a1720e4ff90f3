"""A study's state on disk: the plan, one checkpoint a round, and the receipts of who took part."""

import csv
import dataclasses
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from common.errors import CheckpointCorrupt, OutputInUse
from common.host.files import sync_folder, write_atomically
from common.mechanism.mechanism import Reading
from common.mechanism.registry import RIDERS, mechanism
from common.model.array_table import shared_shapes
from common.model.study_model import initial
from common.model.weights import Weights, check, digest, read, write
from common.plan.schedule import Phase
from common.plan.study_plan import StudyPlan
from server.aggregation import strategies

SCHEMA = 2
KEPT = 3
"""Checkpoints kept, so that a corrupt last one does not end a study."""
MEMORY = "memory.safetensors"
"""What the server's strategy remembers, in a checkpoint; absent where it remembers nothing."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One site's part in one round, as the server saw it."""

    update: str
    epsilon: float
    ledger_head: str


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What happened in one round.

    Attributes:
        number: From 1.
        phase: Phase of the round.
        replied: Receipt by site name.
        missing: Reason by site name, a type name, for every site that is not in the round.
        utility: See `server.model.scores`.
        weights: Digest of the global weights after the round.
        seconds: Wall time of the round.
        readings: What the round's riders say, by rider (`common.mechanism.mechanism.Rider`).
    """

    number: int
    phase: Phase
    replied: dict[str, Receipt]
    missing: dict[str, str]
    utility: float
    weights: str
    seconds: float
    readings: dict[str, Reading] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The record as plain JSON types; a rider's figure has its column's name and is None where there is none."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "readings"}
        replied = {site: dataclasses.asdict(receipt) for site, receipt in self.replied.items()}
        return {**own, "replied": replied, **self.figures()}

    def figures(self) -> dict[str, float | None]:
        """Every rider's figure and its standard deviation, by column; None where the round has none."""
        found: dict[str, float | None] = {}
        for rider in RIDERS.values():
            reading = self.readings.get(rider.name)
            found[rider.column] = None if reading is None else reading.value
            found[f"{rider.column}_std"] = None if reading is None else reading.std
        return found

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """Read what `plain` made, of this version or of an earlier one that knew fewer riders."""
        rest = dict(entry)
        readings = {}
        for rider in RIDERS.values():
            value, std = rest.pop(rider.column, None), rest.pop(f"{rider.column}_std", None)
            if value is not None and std is not None:
                readings[rider.name] = Reading(value=value, std=std)
        rest["replied"] = {site: Receipt(**receipt) for site, receipt in rest["replied"].items()}
        return cls(**rest, readings=readings)


@dataclass
class Study:
    """A study under way. Its folder holds everything needed to go on after a crash.

    Attributes:
        folder: The study's folder.
        plan: The study plan.
        weights: The global weights that sites train from.
        records: What happened in each round.
        memory: What the server's strategy takes from round to round (`server.aggregation.strategies`).
    """

    folder: Path
    plan: StudyPlan
    weights: Weights
    records: list[RoundRecord] = field(default_factory=list)
    memory: Weights = field(default_factory=dict)

    @classmethod
    def begin(cls, folder: Path) -> Self:
        """Start the study whose `plan.toml` lies in `folder`; raises `OutputInUse` when it already has checkpoints."""
        if _finished(folder):
            raise OutputInUse(f"{folder} holds a study that has begun. Resume it with --resume, or name another folder")
        plan = StudyPlan.load(folder / "plan.toml")
        shared = shared_shapes(plan)
        return cls(folder, plan, {name: array for name, array in initial(plan).arrays().items() if name in shared})

    @classmethod
    def resume(cls, folder: Path) -> Self:
        """Go on from the last checkpoint, or from the beginning when there is none.

        Raises:
            CheckpointCorrupt: The last checkpoint is damaged, of another plan, or of another version's form.
        """
        if not (checkpoints := _finished(folder)):
            return cls.begin(folder)
        plan, last = StudyPlan.load(folder / "plan.toml"), checkpoints[-1]
        try:
            state = json.loads((last / "state.json").read_text(encoding="utf-8"))
            _require_schema(last, state["schema"])
            records = [RoundRecord.of(entry) for entry in state["rounds"]]
            right = (state["plan"], len(records)) == (plan.digest, int(last.name))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _corrupt(last, type(error).__name__) from error
        if not right:
            raise _corrupt(last, "it is of another plan")
        weights, _ = read(last / "weights.safetensors")
        check(weights, shared_shapes(plan), what=f"checkpoint {last}")
        if digest(weights) != records[-1].weights:
            raise _corrupt(last, "its weights are not the ones its state names")
        study = cls(folder, plan, weights, records)
        study.memory = _memory(study, last, str(state.get("memory")))
        study.write_table()  # a crash right after a checkpoint leaves the table one round behind
        return study

    @property
    def completed(self) -> int:
        """Number of rounds done."""
        return len(self.records)

    @property
    def gradient_rounds(self) -> int:
        """Number of gradient rounds done."""
        return sum(mechanism(record.phase).trains for record in self.records)

    @property
    def released(self) -> Weights:
        """The weights whose decoder is released, as far as the study has come."""
        return strategies.released(self.weights, self.memory)

    def save(self, record: RoundRecord, weights: Weights, memory: Weights | None = None) -> None:
        """Take the round's result over and make it durable.

        The checkpoint is written as a draft, whole, and renamed into place. If the process dies at
        any moment, the study resumes from this round or from the one before.

        Args:
            record: What happened in the round.
            weights: The new global weights.
            memory: What the strategy remembers; None for nothing.
        """
        self.weights, self.memory = weights, memory or {}
        self.records.append(record)
        folder = self.folder / "checkpoints" / f"{record.number:05d}"
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        write(weights, draft / "weights.safetensors")
        if self.memory:
            write(self.memory, draft / MEMORY)
        state = {
            "schema": SCHEMA,
            "plan": self.plan.digest,
            "memory": digest(self.memory),
            "rounds": [r.plain() for r in self.records],
        }
        write_atomically(draft / "state.json", json.dumps(state, indent=1).encode())
        draft.rename(folder)
        sync_folder(folder.parent)
        self.write_table()
        for old in _finished(self.folder)[:-KEPT]:
            doomed = old.with_name(f".{old.name}.old")  # never half a checkpoint under a checkpoint's name
            old.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def write_table(self) -> None:
        """Write `rounds.csv` from the receipts."""
        write_atomically(self.folder / "rounds.csv", self._table().encode())

    def epsilon(self, site: str) -> float:
        """Epsilon the study has cost a patient of `site`, as that site last stated it; 0.0 if it never replied."""
        stated = (record.replied[site].epsilon for record in reversed(self.records) if site in record.replied)
        return next(stated, 0.0)

    def last_head(self, site: str) -> str:
        """Head of `site`'s ledger in its last reply that made a round, "" before the first; the site checks it."""
        heads = (record.replied[site].ledger_head for record in reversed(self.records) if site in record.replied)
        return next(heads, "")

    def sites(self) -> list[str]:
        """Every site that was ever asked, by name."""
        return sorted({name for record in self.records for name in (*record.replied, *record.missing)})

    def joined(self) -> set[str]:
        """Every site that is in the model of at least one round, by name."""
        return {name for record in self.records for name in record.replied}

    def _table(self) -> str:
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        figures = [name for rider in RIDERS.values() for name in (rider.column, f"{rider.column}_std")]
        table.writerow(["round", "phase", "sites", "missing", "epsilon_max", "utility_rmse", *figures, "seconds",
                        "weights"])  # fmt: skip
        for r in self.records:
            missing = " ".join(f"{name}={reason}" for name, reason in sorted(r.missing.items()))
            table.writerow(
                [
                    r.number,
                    r.phase,
                    " ".join(sorted(r.replied)),
                    missing,
                    max(receipt.epsilon for receipt in r.replied.values()),
                    r.utility,
                    *r.figures().values(),
                    r.seconds,
                    r.weights,
                ]
            )
        return out.getvalue()


def _finished(folder: Path) -> list[Path]:
    """Checkpoints in a study's folder, oldest first."""
    return sorted((folder / "checkpoints").glob("[0-9]*"))


def _require_schema(checkpoint: Path, found: object) -> None:
    """Refuse another version's form by its own words: who removed such checkpoints would have hospitals pay again."""
    if found != SCHEMA:
        raise CheckpointCorrupt(
            f"{checkpoint}: the checkpoint has schema {found!r}, this version reads {SCHEMA}. Nothing is damaged; keep "
            "it, and finish the study with the version of wardround that began it"
        )


def _memory(study: Study, checkpoint: Path, stated: str) -> Weights:
    """Read what the server's strategy remembers; raises `CheckpointCorrupt` where it is not what the state names."""
    expected = strategies.memory_shapes(study.plan, study.weights, rounds=study.gradient_rounds)
    memory = read(checkpoint / MEMORY)[0] if expected else {}
    if {name: array.shape for name, array in memory.items()} != expected or digest(memory) != stated:
        raise _corrupt(checkpoint, "what the server's strategy remembers is not what its state names")
    return memory


def _corrupt(checkpoint: Path, why: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(
        f"{checkpoint}: the checkpoint cannot be used ({why}). Remove that folder to go on from the round before it"
    )
