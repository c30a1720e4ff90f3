"""What a pull remembers of each study: done or not, how many objects it had, and how many the PACS announced."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from common.errors import StateError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (
    name TEXT PRIMARY KEY,
    done INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    error TEXT NOT NULL
) STRICT
"""
_ADDED = {"announced": "INTEGER", "walked": "INTEGER NOT NULL DEFAULT 0"}
"""Columns that the first version did not have."""


@dataclass(frozen=True, kw_only=True)
class DoneStudy:
    """What is recorded of a study that an earlier run finished.

    Attributes:
        instances: Objects it had.
        announced: NumberOfStudyRelatedInstances then; None where the PACS gave none.
        walked: Each of its objects was walked to its end; versions before did not.
    """

    instances: int
    announced: int | None
    walked: bool


class PullState:
    """The table of studies of one folder.

    Args:
        path: Its SQLite file; made where it is missing.

    Raises:
        StateError: The file is no such table, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._table = sqlite3.connect(path, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            raise StateError(
                f"{path}: not a pull's state ({error}). Move it away; finished studies are recognised by their folders"
            ) from error

    def _prepare(self) -> None:
        """Make the table, or bring one of an older version up to date."""
        try:
            self._table.execute("PRAGMA synchronous = EXTRA")
            self._table.execute(_SCHEMA)
            present = {row[1] for row in self._table.execute("PRAGMA table_info(study)")}
            for column, kind in _ADDED.items():
                if column not in present:
                    self._table.execute(f"ALTER TABLE study ADD COLUMN {column} {kind}")
        except sqlite3.Error:
            self._table.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        self._table.close()

    def done(self, name: str) -> DoneStudy | None:
        """Return what is recorded of a study; None where it was never finished."""
        row = self._table.execute(
            "SELECT instances, announced, walked FROM study WHERE name = ? AND done = 1", (name,)
        ).fetchone()
        if row is None:
            return None
        instances, announced, walked = row
        if announced is None and not walked:
            announced = instances  # the first version finished a study only where the two were one number
        return DoneStudy(instances=instances, announced=announced, walked=bool(walked))

    def record_done(self, name: str, *, instances: int, size: int, announced: int | None) -> None:
        """Remember that a study is finished and whole.

        Args:
            name: Its hashed StudyInstanceUID.
            instances: Objects that the PACS lists.
            size: Bytes of those that lie here.
            announced: NumberOfStudyRelatedInstances, where the PACS gives it.
        """
        self._table.execute(
            "INSERT OR REPLACE INTO study (name, done, instances, bytes, error, announced, walked) "
            "VALUES (?, 1, ?, ?, '', ?, 1)",
            (name, instances, size, announced),
        )

    def record_failure(self, name: str, error: str) -> None:
        """Remember by which kind of error the last try failed; a study that was done once stays done."""
        self._table.execute(
            "INSERT INTO study (name, done, instances, bytes, error) VALUES (?, 0, 0, 0, ?) "
            "ON CONFLICT (name) DO UPDATE SET error = excluded.error",
            (name, error),
        )

    def failures(self) -> dict[str, int]:
        """Count the studies whose last try failed, by error type."""
        return dict(
            self._table.execute("SELECT error, count(*) FROM study WHERE error != '' GROUP BY error").fetchall()
        )
