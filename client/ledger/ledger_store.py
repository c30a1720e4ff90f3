"""The ledger's file: an append-only chain of rows in SQLite, sealed as a whole after every write.

    ledger.sqlite   the rows; WAL, synchronous=FULL; each row carries the SHA-256 of its content and its predecessor's
    ledger.seal     number of rows, hash of the last one, SHA-256 of ledger.sqlite; replaced atomically
    ledger.lock     held alone by each reader or writer

Formal guarantee
    At rest the seal fixes every byte of the file, unused pages and header included. The seal itself has one valid form.
    So any altered byte of either, and an older copy of one of the two, is refused. A write has four steps: the seal
    says "writing" and names the hash to come; commit; fold the log into the file; the seal says "sealed". `append`
    returns only after the last step, and nothing is computed before `append` returns. A crash in between leaves
    "writing". The file then holds the old rows or the new ones, both checked by their chain, and nothing has been
    released on the new ones. An older copy of all files together looks sound from inside; `client.hospital` compares
    it with what was last sent. A disk that is full, locked, read-only, forbidden or without locks is no damage:
    `common.host.disk` names it, and the write resumes where it stopped. All files have mode 0600.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from common.errors import FileLocked, LedgerCorrupt
from common.host.disk import sqlite_refusal, told
from common.host.files import PRIVATE, keep_private, write_atomically
from common.host.locks import locked
from common.host.owner import require_owner

GENESIS = "0" * 64
"""Hash before the first row."""
KINDS = ("reserve", "settle", "cohort", "withdraw")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN {KINDS}),
    study TEXT NOT NULL, plan TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL,
    sigma REAL NOT NULL, rate REAL NOT NULL, steps INTEGER NOT NULL, cohort TEXT NOT NULL, note TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
_SEAL_SCHEMA = 1
_PATIENCE_S = 60.0
"""How long a write waits for another program that reads the file."""


@dataclass(frozen=True)
class Row:
    """One row, as it is hashed.

    Attributes:
        id: Its place, from 1.
        time: UTC, to the second.
        kind: One of `KINDS`; what the other fields mean is said in `client.ledger.ledger`.
        hash: SHA-256 (hex) of the predecessor's hash and every field above.
    """

    id: int
    time: str
    kind: str
    study: str
    plan: str
    round: int
    phase: str
    sigma: float
    rate: float
    steps: int
    cohort: str
    note: str
    hash: str


_COLUMNS = ", ".join(field.name for field in fields(Row))


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row to be: all but its place, time and hash."""

    kind: str
    study: str = ""
    plan: str = ""
    round: int = 0
    phase: str = ""
    sigma: float = 0.0
    rate: float = 0.0
    steps: int = 0
    cohort: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Seal:
    state: Literal["sealed", "writing"]
    rows: int
    head: str
    file: str = ""
    next: str = ""

    def to_bytes(self) -> bytes:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({"schema": _SEAL_SCHEMA, **values}, sort_keys=True, separators=(",", ":")).encode()


class LedgerStore:
    """The chained rows at one path. Safe to open from several processes and threads at once.

    While `append` asks its caller what to write it holds the lock; the caller must not open the ledger again then.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file and check it.

        Raises:
            LedgerCorrupt: The file, its seal or its chain is not what it was left as.
            DiskRefused: The disk does not let it be read or written, by its kind; nothing is damaged.
        """
        self._path = path
        self._seal_path = path.with_suffix(".seal")
        self._known: tuple[str, list[Row]] = ("", [])  # rows already walked, by the digest of the file they came from
        require_owner(path.parent)
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for file in (path, self._seal_path, path.with_suffix(".lock"), self._side("-wal"), self._side("-shm")):
                keep_private(file)
        self.rows()

    def rows(self) -> list[Row]:
        """Return every row, oldest first, after checking every byte.

        Raises:
            LedgerCorrupt: The file, its seal or its chain is not what it was left as.
        """
        with self._lock():
            return self._checked()

    def append(self, decide: Callable[[list[Row]], Sequence[Draft]]) -> list[Row]:
        """Append what `decide` makes of the rows so far; all of it durable on return, or none of it.

        Args:
            decide: Called under the lock. If it raises, the ledger stays as it was.

        Returns:
            The new rows.

        Raises:
            LedgerCorrupt: The file, its seal or its chain is not what it was left as, or it could not be sealed again.
        """
        with self._lock():
            rows = self._checked()
            head = rows[-1].hash if rows else GENESIS
            fresh = _chained(head, len(rows), decide(rows))
            if fresh:
                self._write_seal(_Seal(state="writing", rows=len(rows), head=head, next=fresh[-1].hash))
                self._insert(fresh)
                self._seal([*rows, *fresh])
            return fresh

    def _checked(self) -> list[Row]:
        """Bring an interrupted write to its end, then compare file, seal and chain."""
        seal = self._read_seal()
        if seal is None or seal.state == "writing":
            return self._recover(seal)
        if _present(self._side("-wal")) or _present(self._side("-journal")):
            raise self._corrupt("something wrote to it that is not wardround")
        if seal.file != self._file_digest():
            raise self._corrupt("its bytes are not the ones that were sealed")
        rows = self._known[1]
        if seal.file != self._known[0]:
            with self._connect(read_only=True) as database:
                rows = _chain(database)
        if seal.rows != len(rows) or seal.head != (rows[-1].hash if rows else GENESIS):
            raise self._corrupt("it does not end where its seal says")
        self._known = (seal.file, rows)
        return rows

    def _recover(self, seal: _Seal | None) -> list[Row]:
        """Finish or undo the write that a crash interrupted; `None` is a ledger that was never begun."""
        if seal is None:
            if _present(self._path):
                raise self._corrupt(f"its seal {self._seal_path.name} is gone")
            seal = _Seal(state="writing", rows=0, head=GENESIS, next=GENESIS)
            self._write_seal(seal)
        with self._connect() as database:
            if seal.rows == 0:
                database.executescript(_SCHEMA)
            if database.execute("PRAGMA integrity_check").fetchone()[0] != "ok" or not _schema_stands(database):
                raise self._corrupt("its tables are damaged")
            rows = _chain(database)
            _fold(database)
        head = rows[-1].hash if rows else GENESIS
        if (len(rows) < seal.rows) or (len(rows) == seal.rows and head != seal.head):
            raise self._corrupt("it ends before the last row that was sealed")
        if len(rows) > seal.rows and head != seal.next:
            raise self._corrupt("it holds rows that were never announced")
        self._seal(rows)
        return rows

    def _insert(self, rows: list[Row]) -> None:
        marks = ", ".join("?" * len(fields(Row)))
        with self._connect() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(f"INSERT INTO events ({_COLUMNS}) VALUES ({marks})", [astuple(row) for row in rows])
            database.execute("COMMIT")
            _fold(database)

    def _seal(self, rows: list[Row]) -> None:
        if _present(self._side("-wal")):
            raise FileLocked(
                f"ledger {self._path}: another program holds it open; close that program first. Nothing is damaged"
            )
        head = rows[-1].hash if rows else GENESIS
        self._write_seal(_Seal(state="sealed", rows=len(rows), head=head, file=self._file_digest()))

    def _write_seal(self, seal: _Seal) -> None:
        with told(self._seal_path):
            write_atomically(self._seal_path, seal.to_bytes(), mode=PRIVATE)

    def _read_seal(self) -> _Seal | None:
        try:
            with told(self._seal_path):
                raw = self._seal_path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            values: dict[str, Any] = json.loads(raw)
            schema = values.pop("schema")
            seal = _Seal(**values)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._corrupt("its seal cannot be read") from None
        if schema != _SEAL_SCHEMA or seal.state not in ("sealed", "writing") or seal.to_bytes() != raw:
            raise self._corrupt("its seal is not in the form it was written in")
        return seal

    def _file_digest(self) -> str:
        try:
            with told(self._path):
                return hashlib.sha256(self._path.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise self._corrupt("it is gone") from None

    def _side(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with ExitStack() as held:
            with told(self._path):
                held.enter_context(locked(self._path.with_suffix(".lock")))
            yield

    @contextmanager
    def _connect(self, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if read_only:  # the bytes have just been compared with the seal, and the lock is ours
                database = sqlite3.connect(f"{self._path.resolve().as_uri()}?immutable=1", uri=True)
            else:
                with told(self._path):  # SQLite would give it the umask's mode, and its two side files the same
                    os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
                database = sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None)
            try:
                if not read_only:
                    database.execute("PRAGMA journal_mode=WAL")
                    database.execute("PRAGMA synchronous=FULL")
                yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise (sqlite_refusal(error, self._path) or self._corrupt(str(error))) from error
        except (ValueError, TypeError, OverflowError) as error:  # what SQLite makes of damaged cells
            raise self._corrupt(str(error)) from error

    def _corrupt(self, why: str) -> LedgerCorrupt:
        return LedgerCorrupt(
            f"ledger {self._path}: {why}. Nothing is trained; restore the ledger from its newest backup and find out "
            "who touched it"
        )


def _chained(head: str, count: int, drafts: Sequence[Draft]) -> list[Row]:
    """Give drafts their place, time and hash."""
    rows: list[Row] = []
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for number, draft in enumerate(drafts, start=count + 1):
        content = (number, now, *astuple(draft))
        head = row_hash(head, content)
        values: tuple[Any, ...] = (*content, head)
        rows.append(Row(*values))
    return rows


def row_hash(previous: str, content: tuple[object, ...]) -> str:
    """SHA-256 (hex) of a row's content (every field of `Row` but its hash) on top of its predecessor's hash."""
    return hashlib.sha256(json.dumps([previous, *content]).encode()).hexdigest()


def _chain(database: sqlite3.Connection) -> list[Row]:
    """Read all rows and walk their chain."""
    rows: list[Row] = []
    previous = GENESIS
    for values in database.execute(f"SELECT {_COLUMNS} FROM events ORDER BY id"):
        row = Row(*values)
        if row.id != len(rows) + 1 or row.hash != row_hash(previous, tuple(values[:-1])):
            raise LedgerCorrupt(
                f"ledger: entry {len(rows) + 1} does not follow from its predecessor; it was altered or removed. "
                "Nothing is trained; restore the ledger from its newest backup and find out who touched it"
            )
        rows.append(row)
        previous = row.hash
    return rows


def _schema_stands(database: sqlite3.Connection) -> bool:
    with sqlite3.connect(":memory:") as fresh:
        fresh.executescript(_SCHEMA)
        wanted = fresh.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        fresh.rollback()
    fresh.close()
    return database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall() == wanted


def _fold(database: sqlite3.Connection) -> None:
    """Fold the write-ahead log into the file, so that the file alone is the ledger."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _present(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
