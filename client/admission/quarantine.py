"""Pictures that wait for a human: what waits, what was decided, and who decided it when.

A decision is about the bytes of a file (SHA-256): a changed file waits again. It takes effect at the next ingest.
"""

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from client.admission.reasons import NOTICED, QUARANTINE
from client.admission.records import Admission, FileRecord, admissions
from client.site import layout
from common.errors import DataError, StateError
from common.host.files import PRIVATE, write_atomically
from common.host.owner import user_name

QUARANTINE_FILE = layout.QUARANTINE
SHORT = 12
"""Letters of a digest that stand for a file in commands."""
_SCHEMA = 1

Choice = Literal["admit", "drop"]


@dataclass(frozen=True)
class Decisions:
    """What humans have decided.

    Attributes:
        taken: SHA-256 (hex) of a file -> {"decision": "admit" or "drop", "by": user, "at": time}.
    """

    taken: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read the decisions; none where nothing was decided.

        Raises:
            StateError: The file is damaged. Admitting on a guess is not an option.
        """
        path = home / QUARANTINE_FILE
        try:
            plain: dict[str, Any] = json.loads(path.read_bytes())
            taken = plain["taken"]
            right = plain["schema"] == _SCHEMA and all(item["decision"] in ("admit", "drop") for item in taken.values())
        except FileNotFoundError:
            return cls()
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(
                f"{path} is damaged ({type(error).__name__}). Restore it, or remove it and decide again"
            ) from None
        if not right:
            raise StateError(f"{path} holds an unknown decision. Restore it, or remove it and decide again")
        return cls(taken)

    def of(self, digest: str) -> Choice | None:
        """Return the decision on a file's bytes, None where there is none."""
        found = self.taken.get(digest)
        if found is None:
            return None
        return "admit" if found["decision"] == "admit" else "drop"


def waiting(home: Path) -> list[FileRecord]:
    """Return the files without a decision after the last ingest: in quarantine, or noticed (`NOTICED`)."""
    decisions = Decisions.load(home)
    found: dict[tuple[str, str], FileRecord] = {}
    for admission in admissions(home):
        for record in _to_decide(admission):
            if decisions.of(record.decided_by) is None:
                found.setdefault((record.name, record.decided_by), record)
    return list(found.values())


def _to_decide(admission: Admission) -> Iterable[FileRecord]:
    noticed = {name: code for code in NOTICED if code in admission.concerns for name in admission.concerns[code].files}
    for record in admission.records:
        if record.verdict in QUARANTINE:
            yield record
        elif not record.verdict and record.name in noticed:
            yield replace(record, verdict=noticed[record.name])


def find(home: Path, short: str) -> FileRecord:
    """Return the waiting file whose digest starts with `short`.

    Raises:
        DataError: None or several do.
    """
    waits = {record.decided_by: record for record in waiting(home)}
    found = [record for digest, record in waits.items() if short and digest.startswith(short.lower())]
    if len(found) != 1:
        raise DataError(
            f"{len(found)} files in quarantine are called {short[:64]!r}. See `wardround site quarantine list`"
        )
    return found[0]


def decide(home: Path, digests: list[str], decision: Choice) -> None:
    """Write a decision down, with the name of the user and the time.

    Args:
        home: The site's home folder.
        digests: SHA-256 of each file that it is about.
        decision: "admit" or "drop".
    """
    note = {
        "decision": decision, "by": user_name(),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    taken = {**Decisions.load(home).taken, **dict.fromkeys(digests, note)}
    write_atomically(
        home / QUARANTINE_FILE, json.dumps({"schema": _SCHEMA, "taken": taken}, sort_keys=True).encode(), mode=PRIVATE
    )
