"""What became of every file: the record that the next ingest builds on and that the steward looks into.

Kept in `home/admission/<form>.json` (mode 0600), in older homes in `home/admission.json`. It holds file names, which
may hold anything; it never leaves the site.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from client.admission.reasons import QUARANTINE, Reason
from client.cohort.forms import current_generation, forms, peek
from client.site import layout
from common.errors import CacheCorrupt
from common.host.files import PRIVATE, write_atomically

ADMISSION_FILE, ADMISSION_FOLDER = layout.ADMISSION, "admission"
SCHEMA = 2
LISTED = 500
"""File names that are kept of one concern."""
_OLD_COLUMNS = (
    "name", "stamp", "reason", "bare", "full", "uid", "digest", "label", "modality", "body_part", "view", "readable",
    "verdict", "first", "pictures", "cleared",
)  # fmt: skip
"""What a record of schema 1 holds, which named no columns."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file.

    Attributes:
        name: Path relative to the folder.
        stamp: Size, modification and change time (ns), inode.
        reason: What reading it alone came to: a reason code, "" for pictures that can be used.
        bare: Key of its PatientID alone; "" where the header is unreadable or names no patient.
        full: Key of PatientID and issuer; `bare` where no issuer is named.
        second: Key of the id and a second issuer that the header names; "" without one.
        was: Keys that earlier versions knew the same patient by (`client.cohort.identity.Keys`).
        loose: Key of what typing errors seldom change in the id.
        born: Key of the birth date; "" where none is named. So for sex.
        sex: Key of the sex.
        doubts: Doubts that hang on this header alone (`client.admission.doubts`).
        uid: SOP instance UID.
        digest: Digest of its pictures as the cache holds them; in quarantine, SHA-256 (hex) of its bytes.
        content: SHA-256 (hex) of its bytes, where its pictures could be read.
        label: Value of the attribute that the plan names as label.
        modality: Modality.
        body_part: BodyPartExamined.
        view: ViewPosition.
        readable: Whether the header could be read.
        verdict: What it came to within the cohort: a reason code, "" for admitted.
        first: Row of its first picture in the cache; -1 where it has none there.
        pictures: Number of its pictures.
        cleared: SHA-256 (hex) of its bytes where a human has cleared it of text.
    """

    name: str
    stamp: tuple[int, int, int, int]
    reason: str = ""
    bare: str = ""
    full: str = ""
    uid: str = ""
    digest: str = ""
    label: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    readable: bool = True
    verdict: str = ""
    first: int = -1
    pictures: int = 0
    cleared: str = ""
    content: str = ""
    second: str = ""
    was: tuple[str, ...] = ()
    loose: str = ""
    born: str = ""
    sex: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def decided_by(self) -> str:
        """SHA-256 (hex) of the bytes, which a human's decision is about."""
        return self.content or self.digest

    @classmethod
    def from_row(cls, columns: Sequence[str], row: Sequence[Any]) -> Self:
        """Undo `to_row`."""
        values: dict[str, Any] = dict(zip(columns, row, strict=True))
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def to_row(self) -> list[Any]:
        """Return the values in the order of the fields."""
        return [getattr(self, item.name) for item in dataclasses.fields(self)]


@dataclass(frozen=True, kw_only=True)
class Concern:
    """What one doubt is about.

    Attributes:
        patients: How many patients, or ids, it concerns.
        files: Names of the files, for the steward's eyes; not more than `LISTED`.
    """

    patients: int
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, whom: Mapping[str, Sequence[str]]) -> Self:
        """Return the concern about these patients, each with its files."""
        files = sorted({name for names in whom.values() for name in names})
        return cls(patients=len(whom), files=tuple(files[:LISTED]))


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """The account of one ingest: every file is in exactly one of admitted, refused and quarantined.

    Attributes:
        files: Files in the folder.
        admitted: Files whose images are in the cache.
        refused: Files left out.
        quarantined: Files that wait for a human.
        patients: Patients in the cache.
        reasons: Reason code -> number of files, refused and quarantined.
        refusals: Name (relative to the folder) and reason of each file not admitted; stays at the site.
        reused: Files that had not changed since the last ingest and were not read again.
        contradictory_patients: Patients with an image that has two labels.
        doubts: Doubt code -> number of patients or ids that the steward should look at.
        looked_for_text: Whether text was looked for in pictures that their header calls clean; None if unknown.
    """

    files: int
    admitted: int
    refused: int
    quarantined: int
    patients: int
    reasons: dict[str, int]
    refusals: list[tuple[str, str]] = field(default_factory=list, repr=False)
    reused: int = 0
    contradictory_patients: int = 0
    doubts: dict[str, int] = field(default_factory=dict)
    looked_for_text: bool | None = None

    @classmethod
    def of(
        cls,
        records: list[FileRecord],
        *,
        patients: int,
        reused: int,
        concerns: Mapping[str, Concern] | None = None,
        looked_for_text: bool | None = None,
    ) -> Self:
        """Count records that have their verdicts.

        Args:
            records: Record of every file.
            patients: Patients in the cache.
            reused: Files that were not read again.
            concerns: Concern by doubt code.
            looked_for_text: Whether text was looked for; None if unknown.
        """
        out = [(record.name, str(record.verdict)) for record in records if record.verdict]
        reasons: dict[str, int] = {}
        for _, reason in out:
            reasons[reason] = reasons.get(reason, 0) + 1
        waiting = sum(count for reason, count in reasons.items() if reason in QUARANTINE)
        torn = {record.full for record in records if record.verdict == Reason.CONTRADICTORY_LABEL}
        return cls(
            files=len(records), admitted=len(records) - len(out), refused=len(out) - waiting, quarantined=waiting,
            patients=patients, reasons=dict(sorted(reasons.items())), refusals=out, reused=reused,
            contradictory_patients=len(torn),
            doubts={str(code): concern.patients for code, concern in sorted((concerns or {}).items())},
            looked_for_text=looked_for_text,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON types, without file names."""
        plain = dataclasses.asdict(self)
        del plain["refusals"]
        return plain


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The record of the last ingest.

    Attributes:
        folder: What was ingested.
        generation: The cache generation that came of it.
        reading: Digest of all that the reading of a file depends on except the file.
        judging: Digest of all that outcomes depend on except the files.
        patients: Patients in the cache.
        records: Every file, sorted by name.
        concerns: Doubt code -> what it is about.
    """

    folder: str
    generation: str
    reading: str
    judging: str
    patients: int
    records: list[FileRecord]
    concerns: dict[str, Concern] = field(default_factory=dict)

    @property
    def stamps(self) -> list[tuple[str, tuple[int, int, int, int]]]:
        """Name and stamp of every file, sorted by name."""
        return [(record.name, record.stamp) for record in self.records]

    @classmethod
    def load(cls, home: Path, form: str = "") -> Self | None:
        """Return the record of the last ingest in a form ("": in any); None where there is none that can be used."""
        try:
            plain = json.loads(admission_file(home, form or _last_form(home)).read_bytes())
            if plain.pop("schema") not in (1, SCHEMA):
                return None
            columns = plain.pop("columns", _OLD_COLUMNS)
            records = [FileRecord.from_row(columns, row) for row in plain.pop("records")]
            concerns = {
                code: Concern(patients=item["patients"], files=tuple(item["files"]))
                for code, item in plain.pop("concerns", {}).items()
            }
            return cls(records=records, concerns=concerns, **plain)
        except (OSError, KeyError, TypeError, ValueError, AttributeError, CacheCorrupt):
            return None

    def save(self, home: Path, form: str = "") -> None:
        """Replace the record of the last ingest in a form; "" writes where earlier versions did."""
        plain = {
            "schema": SCHEMA, "folder": self.folder, "generation": self.generation, "reading": self.reading,
            "judging": self.judging, "patients": self.patients,
            "concerns": {code: dataclasses.asdict(concern) for code, concern in self.concerns.items()},
            "columns": [item.name for item in dataclasses.fields(FileRecord)],
            "records": [record.to_row() for record in self.records],
        }  # fmt: skip
        path = home / ADMISSION_FOLDER / f"{form}.json" if form else home / ADMISSION_FILE
        write_atomically(path, json.dumps(plain).encode(), mode=PRIVATE)
        if form:
            _forget_old(home)


def admission_file(home: Path, form: str) -> Path:
    """Where the record of a form lies: its own file, or that of a home from before there were forms."""
    own = home / ADMISSION_FOLDER / f"{form}.json"
    return own if form and own.exists() else home / ADMISSION_FILE


def admissions(home: Path) -> list[Admission]:
    """Return the record of every form that the home has a cache for, that of the last ingest first."""
    found = (Admission.load(home, form.digest) for form in forms(home))
    return [record for record in found if record is not None]


def forget(home: Path, form: str) -> None:
    """Remove the record of a form whose cache is gone."""
    (home / ADMISSION_FOLDER / f"{form}.json").unlink(missing_ok=True)
    _forget_old(home)


def _forget_old(home: Path) -> None:
    """Remove the record that an earlier version left, once the cache it is of is gone."""
    path = home / ADMISSION_FILE
    try:
        generation = json.loads(path.read_bytes()).get("generation")
        others = forms(home)
    except (OSError, ValueError, AttributeError, CacheCorrupt):
        return
    if all(form.generation != generation for form in others):
        path.unlink()


def _last_form(home: Path) -> str:
    last = current_generation(home)
    return str(peek(home, last).get("settings", "")) if last else ""
