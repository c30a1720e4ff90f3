"""`labels.csv`: which class each image has, matched by patient key so that no id is kept.

Columns `patient_id,sop_instance_uid,label`; an empty UID means all images of that patient, and a line with a UID
outweighs it.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from client.admission.reasons import Reason
from client.cohort.identity import patient_key
from common.display.texts import NotText, read_text, why
from common.errors import LabelsError
from common.plan.label_rule import as_label

LABELS_FILE = "labels.csv"
_HEADER = ["patient_id", "sop_instance_uid", "label"]
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Labels:
    """The lines of one label file.

    Attributes:
        classes: (patient key, SOP instance UID or "") -> the classes its lines name.
        lines: The same -> number of the first line that names it.
    """

    classes: dict[tuple[str, str], frozenset[int]] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, names: tuple[str, ...], secret: bytes) -> Self:
        """Read and check a label file.

        Args:
            path: The file.
            names: The plan's classes, in order.
            secret: The site's secret, for patient keys.

        Raises:
            LabelsError: The file is missing, not UTF-8 CSV with the right header, or a line is short or names a class
                that the plan does not have. The message has line numbers, never a value.
        """
        classes: dict[tuple[str, str], frozenset[int]] = {}
        lines: dict[tuple[str, str], int] = {}
        known = [as_label(name) for name in names]
        for number, (patient, uid, label) in enumerate(_rows(path), start=2):
            if not patient.strip():
                raise LabelsError(f"{path.name}: line {number} names no patient")
            if as_label(label) not in known:
                raise LabelsError(
                    f"{path.name}: line {number} has a label that the plan does not know. "
                    f"The plan has: {', '.join(names)}"
                )
            place = (patient_key(secret, patient), uid.strip())
            classes[place] = classes.get(place, frozenset()) | {known.index(as_label(label))}
            lines.setdefault(place, number)
        return cls(classes, lines)

    def of(self, patient: Iterable[str], uid: str) -> int | Reason:
        """Return the class of an image, or why it has none.

        Args:
            patient: Keys that a line may name the patient by; the first that one does counts.
            uid: SOP instance UID.
        """
        keys = tuple(patient)
        named = [(key, uid) for key in keys if uid] + [(key, "") for key in keys]
        found = next((self.classes[place] for place in named if place in self.classes), None)
        if not found:
            return Reason.UNLABELLED
        return next(iter(found)) if len(found) == 1 else Reason.CONTRADICTORY_LABEL

    def check(self, known: Iterable[tuple[str, str, str, str]], *, hidden: int) -> None:
        """Compare the label file with what lies in the folder.

        Args:
            known: Of every readable header the key of the PatientID alone, that with the issuer, the SOP instance UID,
                and the key of the person.
            hidden: Files whose header could not be read; as many unknown places are forgiven.

        Raises:
            LabelsError: More places than `hidden` are in no file, or a PatientID without UID belongs to patients of
                two issuers.
        """
        places: set[tuple[str, str]] = set()
        persons: dict[str, set[str]] = {}
        for bare, full, uid, person in known:
            for key in (bare, full):
                places.update(((key, uid), (key, "")))
                persons.setdefault(key, set()).add(person)
        lost = sorted(line for place, line in self.lines.items() if place not in places)
        if len(lost) > hidden:
            patients = len({place[0] for place in self.lines if place[0] not in persons})
            raise LabelsError(
                f"{LABELS_FILE}: {len(lost)} lines name an image that is in no file ({patients} unknown patients). "
                f"Look at {_shown(lost)}, or bring the files back"
            )
        shared = sorted(line for (key, uid), line in self.lines.items() if not uid and len(persons.get(key, ())) > 1)
        if shared:
            raise LabelsError(
                f"{LABELS_FILE}: {len(shared)} ids belong to patients of two issuers. "
                f"Name their images by SOP instance UID, or the issuer as in `id^^^ISSUER`: {_shown(shared)}"
            )


def _shown(lines: list[int]) -> str:
    tail = " ..." if len(lines) > _SHOWN_LINES else ""
    return "line " + ", ".join(map(str, lines[:_SHOWN_LINES])) + tail


def _rows(path: Path) -> Iterable[list[str]]:
    """Yield the lines below the header."""
    try:
        text = read_text(path)
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        raise LabelsError(
            f"the plan has labels, but {path} is missing. Write it with the columns {','.join(_HEADER)}"
        ) from None
    except (OSError, NotText) as error:
        raise LabelsError(f"{path.name}: {why(error)}") from None
    except csv.Error as error:
        raise LabelsError(f"{path.name}: not a CSV file ({type(error).__name__}). Save it as such") from None
    if not rows or [cell.strip() for cell in rows[0]] != _HEADER:
        raise LabelsError(f"{path.name}: the first line must be `{','.join(_HEADER)}`")
    for number, row in enumerate(rows[1:], start=2):
        if row and len(row) != len(_HEADER):
            raise LabelsError(f"{path.name}: line {number} has {len(row)} columns in place of {len(_HEADER)}")
        if row:
            yield row
