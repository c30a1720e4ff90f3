"""What a decoder process tells about one file: plain facts of its header, and the outcome."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from client.admission.reasons import QUARANTINE, Reason

_LONGEST = 1024
"""Characters of one text fact that are kept; DICOM's own limits are far below."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The header values that admission decides on; text is empty where the header is silent.

    Attributes:
        patient_id: PatientID as it stands, or its bytes (`client.cohort.patient_ids.of_bytes`); stays in memory and is
            turned into a key.
        issuer: IssuerOfPatientID.
        born: PatientBirthDate; stays in memory and is turned into a key, as sex is.
        sex: PatientSex, upper case.
        sop_uid: SOPInstanceUID.
        sop_class: SOPClassUID.
        modality: Modality.
        body_part: BodyPartExamined, upper case.
        view: ViewPosition, upper case.
        label: Value of the attribute that the plan names as label.
        rows: Rows.
        columns: Columns.
        frames: NumberOfFrames; 1 where absent.
    """

    patient_id: str = ""
    issuer: str = ""
    born: str = ""
    sex: str = ""
    sop_uid: str = ""
    sop_class: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    label: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Undo `to_dict`; a value of another type than declared raises `ValueError` (the sender is not trusted)."""
        facts = cls(**plain)
        for item in fields(cls):
            value = getattr(facts, item.name)
            if type(value) is not type(item.default) or (isinstance(value, str) and len(value) > _LONGEST):
                raise ValueError(f"fact {item.name} of a wrong type or length")
        return facts


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file to read.

    Attributes:
        number: What its outcome is told by.
        path: Where it lies.
        cleared: SHA-256 (hex) of the content that a human has cleared of text; empty for none.
    """

    number: int
    path: Path
    cleared: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the decoding of one file ended.

    Attributes:
        reason: Why it is not admitted; None when its images were handed over.
        facts: Its header, as far as it could be read; None where it could not.
        digest: SHA-256 (hex) of the bytes of a file that can be used or is in quarantine, which is what a human decides
            on; else empty.
    """

    reason: Reason | None
    facts: Facts | None = None
    digest: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether the file waits for a human."""
        return self.reason in QUARANTINE
