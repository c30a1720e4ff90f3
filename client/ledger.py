"""The hospital's privacy ledger: every mechanism ever run on its patients, append-only, hash-chained, durable.

Formal guarantee
    An event is on disk (SQLite, WAL, synchronous=FULL) before the first gradient of what it pays for is computed. A
    crash after that over-counts; nothing under-counts. Events are stored, never sums: epsilon is derived from all of
    them, whatever the study, because all studies here compose on the same patients. Rows cannot be changed or removed
    through SQL, and each carries the SHA-256 of its content and its predecessor's, so that an edit made past SQL is
    noticed at the next opening.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import LedgerCorrupt
from common.privacy import GaussianEvent, epsilon

GENESIS = "0" * 64
_COLUMNS = (
    "id",
    "time",
    "kind",
    "study",
    "plan",
    "round",
    "phase",
    "sigma",
    "rate",
    "steps",
    "cohort",
    "note",
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('reserve', 'settle')),
    study TEXT NOT NULL, plan TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL,
    sigma REAL NOT NULL, rate REAL NOT NULL, steps INTEGER NOT NULL, cohort TEXT NOT NULL, note TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one reservation pays for.

    Attributes:
        study: Name of the study.
        plan: Digest of its plan.
        round: Round number.
        phase: Phase of that round.
        event: The mechanism.
        cohort: Identity of the data set it runs on.
    """

    study: str
    plan: str
    round: int
    phase: str
    event: GaussianEvent
    cohort: str


class Ledger:
    """One file per hospital data set; safe to open from several processes at once."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger at `path` and check its chain.

        Raises:
            LedgerCorrupt: The file is not a ledger, or its chain is broken.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as database:
            database.executescript(_SCHEMA)
        self.head()

    def reserve(self, entry: Entry, *, permit: Callable[[list[GaussianEvent], list[GaussianEvent]], None]) -> int:
        """Book `entry` durably and return its number. Call before the first gradient; a retry books anew.

        Args:
            entry: What is about to run.
            permit: Called under the ledger's write lock with the events of this plan and of all plans so far; whatever
                it raises leaves the ledger as it was. Two studies can therefore not both take the last of the budget.
        """
        event = entry.event

        def allowed(database: sqlite3.Connection) -> None:
            permit(_events(database, entry.plan), _events(database, None))

        return self._append("reserve", entry, event.sigma, event.sample_rate, event.steps, note="", before=allowed)

    def settle(self, number: int, entry: Entry, *, reply_digest: str) -> int:
        """Note that reservation `number` ended in a reply of this digest. Costs nothing and frees nothing."""
        return self._append("settle", entry, 0.0, 0.0, 0, note=f"{number}:{reply_digest}", before=None)

    def events(self, *, plan: str | None = None) -> list[GaussianEvent]:
        """Every reserved mechanism, oldest first; of one plan alone when its digest is given."""
        with self._connect() as database:
            return _events(database, plan)

    def epsilon(self, *, delta: float, plan: str | None = None, extra: tuple[GaussianEvent, ...] = ()) -> float:
        """Epsilon at `delta` of everything booked (of one plan alone if given), `extra` counted as if booked too."""
        return epsilon([*self.events(plan=plan), *extra], delta=delta)

    def head(self) -> str:
        """Check the whole chain and return the hash of its last row (`GENESIS` when empty)."""
        with self._connect() as database:
            return _checked_head(database)

    def _append(
        self,
        kind: str,
        entry: Entry,
        sigma: float,
        rate: float,
        steps: int,
        *,
        note: str,
        before: Callable[[sqlite3.Connection], None] | None,
    ) -> int:
        with self._connect() as database:
            database.execute("BEGIN IMMEDIATE")
            previous = _checked_head(database)
            if before is not None:
                before(database)
            number = database.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM events").fetchone()[0]
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            row = (
                number,
                now,
                kind,
                entry.study,
                entry.plan,
                entry.round,
                entry.phase,
                float(sigma),
                float(rate),
                steps,
                entry.cohort,
                note,
            )
            marks = ", ".join("?" * (len(row) + 1))
            database.execute(
                f"INSERT INTO events ({', '.join(_COLUMNS)}, hash) VALUES ({marks})",
                (*row, _row_hash(previous, row)),
            )
            database.execute("COMMIT")
        return int(number)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            try:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=FULL")
                yield database
            finally:
                database.close()
        except sqlite3.DatabaseError as error:
            raise LedgerCorrupt(
                f"ledger {self._path}: {error}. Nothing is trained until it is readable; restore it from its backup"
            ) from error


def _events(database: sqlite3.Connection, plan: str | None) -> list[GaussianEvent]:
    rows = database.execute("SELECT sigma, rate, steps, plan FROM events WHERE kind = 'reserve' ORDER BY id")
    return [
        GaussianEvent(sigma=sigma, sample_rate=rate, steps=steps)
        for sigma, rate, steps, digest in rows
        if plan in (None, digest)
    ]


def _checked_head(database: sqlite3.Connection) -> str:
    """Walk the chain; return the last hash or raise `LedgerCorrupt`."""
    previous = GENESIS
    rows = database.execute(f"SELECT {', '.join(_COLUMNS)}, hash FROM events ORDER BY id")
    for expected, (*row, stored) in enumerate(rows, start=1):
        if row[0] != expected or stored != _row_hash(previous, tuple(row)):
            raise LedgerCorrupt(
                f"ledger: entry {expected} does not follow from its predecessor; it was altered or removed. "
                "Nothing is trained; restore the ledger from its backup and find out who touched it"
            )
        previous = stored
    return previous


def _row_hash(previous: str, row: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps([previous, *row]).encode()).hexdigest()
