"""What a pull from a PACS is made of: the query, its limits, what the PACS announces, and how it fails.

PacsError (a SourceError, exit code 4)
├── PacsUnreachable      no connection, a broken one, or no answer in time; worth another try
├── PacsRefused          the PACS says no: credentials, AE title, certificate, status code
├── PacsAnswerInvalid    an answer that is not DICOM, not what was asked, or not well formed
├── PacsOverCap          an object, a study or an answer above the limits
└── StudyIncomplete      fewer instances than the PACS lists, or than it announces where its list has no end
"""

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, Self

from common.errors import SourceError

MIB = 2**20
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_AE_TITLE = re.compile(r"(?! )[ -\[\]-~]{1,16}(?<! )")
_DAY = r"\d{8}"
_OLD_DAY = re.compile(r"(\d{4})[-./ :]?(\d{2})[-./ :]?(\d{2})")
"""A day as archives hold it: YYYYMMDD, or YYYY.MM.DD of before 1993 (PS3.5 table 6.2-1, DA), or with other signs."""


class PacsError(SourceError):
    """A study, or the whole list of studies, could not be had from the PACS."""


class PacsUnreachable(PacsError):
    """No connection, a broken connection, or no complete answer in time; worth another try."""


class PacsRefused(PacsError):
    """The PACS said no; asking the same again changes nothing."""


class PacsAnswerInvalid(PacsError):
    """The answer is not DICOM, not well formed, or not what was asked for."""


class PacsOverCap(PacsError):
    """An object, a study or an answer is larger than the limits allow."""


class StudyIncomplete(PacsError):
    """The instances that came are not as many as the PACS announced."""


@dataclass(frozen=True, kw_only=True)
class PullLimits:
    """How much and how long a pull may take; every bound holds against a hostile PACS too.

    Attributes:
        instance_bytes: Largest single DICOM object.
        study_bytes: Largest sum of one study's objects.
        study_instances: Most objects of one study.
        studies: Most studies one query may announce.
        timeout_s: Longest silence on a connection, and longest wait for it to open.
        exchange_s: Longest time for one request and its whole answer, however steadily the bytes trickle:
            one object by DICOMweb, one series by DIMSE.
        attempts: Tries in a row that may bring nothing new before a study is given up.
        backoff_s: Wait before the second try; doubles with each further one, up to a minute.
        free_bytes: Space left on the disk below which nothing more is received.
    """

    instance_bytes: int = 512 * MIB
    study_bytes: int = 16 * 1024 * MIB
    study_instances: int = 20_000
    studies: int = 100_000
    timeout_s: float = 30.0
    exchange_s: float = 900.0
    attempts: int = 4
    backoff_s: float = 1.0
    free_bytes: int = 512 * MIB

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"`{field.name}` must be above 0, not {getattr(self, field.name)!r}")


@dataclass(frozen=True, kw_only=True)
class StudyQuery:
    """Which studies are wanted. Empty fields match everything.

    Attributes:
        modality: DICOM Modality code that the study must hold, such as CT.
        study_date: A day, YYYYMMDD, or a range, YYYYMMDD-YYYYMMDD, with one end left open at will.
        patient_id: PatientID; `*` and `?` are wildcards (PS3.4 C.2.2.2.4).
        limit: Most studies, in the order the PACS names them; None for all.
    """

    modality: str = ""
    study_date: str = ""
    patient_id: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.modality and not re.fullmatch(r"[A-Z0-9]{2,16}", self.modality):
            raise ValueError(f"modality must be a DICOM code such as CT, not {self.modality!r}")
        if self.study_date and not re.fullmatch(rf"{_DAY}(-({_DAY})?)?|-{_DAY}", self.study_date):
            raise ValueError(f"study date must be YYYYMMDD or YYYYMMDD-YYYYMMDD, not {self.study_date!r}")
        if len(self.patient_id) > 64 or not self.patient_id.isprintable() or "\\" in self.patient_id:
            raise ValueError("patient id must be at most 64 printable characters without a backslash")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be 1 or more, not {self.limit}")

    @property
    def keys(self) -> dict[str, str]:
        """Matching keys by DICOM keyword; only those that were asked for."""
        keys = {
            "ModalitiesInStudy": self.modality,
            "StudyDate": self.study_date,
            "PatientID": self.patient_id,
        }
        return {keyword: value for keyword, value in keys.items() if value}

    def admits(self, answer: Mapping[str, Collection[str]]) -> bool:
        """Say whether one announced study fits the query, as far as the answer tells.

        A PACS may ignore a key it does not support (PS3.4 C.1.3) and announce everything it has; what was not
        asked for is not pulled.

        Args:
            answer: Values by DICOM keyword; a key that the PACS left out, or whose value cannot be read, fits.
        """
        kinds = {value.strip(" \0").upper() for value in answer.get("ModalitiesInStudy", ())} - {""}
        if self.modality and kinds and self.modality not in kinds:
            return False
        days = [day for value in answer.get("StudyDate", ()) if (day := _day_of(value))]
        first, _, last = self.study_date.partition("-")
        last = last if "-" in self.study_date else first
        if not all((first or day) <= day <= (last or day) for day in days):
            return False
        people = {value.strip(" \0") for value in answer.get("PatientID", ())} - {""}
        if self.patient_id and not set(self.patient_id) & set("*?") and people:
            return self.patient_id.strip() in people
        return True


@dataclass(frozen=True, kw_only=True)
class AnnouncedStudy:
    """A study as the PACS announces it. Nothing in here has been checked.

    Attributes:
        uid: StudyInstanceUID, as sent.
        instances: NumberOfStudyRelatedInstances; None where the PACS does not say.
    """

    uid: str
    instances: int | None = None

    @classmethod
    def read(cls, answer: Mapping[str, Collection[str]]) -> Self:
        """Take the two values from an answer by DICOM keyword."""
        count = first_value(answer, "NumberOfStudyRelatedInstances")
        return cls(
            uid=first_value(answer, "StudyInstanceUID"),
            instances=int(count) if re.fullmatch(r"\d{1,9}", count) else None,
        )


@dataclass(frozen=True, kw_only=True)
class AnnouncedInstance:
    """One object of a study as the PACS announces it; the UIDs are well formed.

    Attributes:
        series: SeriesInstanceUID.
        sop: SOPInstanceUID.
        sop_class: SOPClassUID; empty where the PACS does not say.
    """

    series: str
    sop: str
    sop_class: str = ""

    @classmethod
    def read(cls, answer: Mapping[str, Collection[str]], *, series: str = "") -> Self:
        """Take the values from an answer by DICOM keyword.

        Args:
            answer: Values by keyword.
            series: SeriesInstanceUID that was asked for, where the answer need not repeat it.

        Raises:
            PacsAnswerInvalid: A UID is absent or not a UID.
        """
        return cls(
            series=checked_uid(series or first_value(answer, "SeriesInstanceUID"), what="SeriesInstanceUID"),
            sop=checked_uid(first_value(answer, "SOPInstanceUID"), what="SOPInstanceUID"),
            sop_class=first_value(answer, "SOPClassUID"),
        )


class Inbox(Protocol):
    """Where a source lays the objects of the one study it is asked for."""

    def expect(self, instances: Collection[AnnouncedInstance], *, closed: bool = True) -> None:
        """Take note of what the PACS announced; nothing else is accepted afterwards."""

    def holds(self, sop_uid: str) -> bool:
        """Say whether this object has already come, in this run or in one that was interrupted."""

    def accept(self, data: bytes) -> None:
        """Check one DICOM file and keep it, byte for byte; raises `PacsError` and keeps nothing otherwise."""


class PacsSource(Protocol):
    """A PACS that can be asked for studies and for their objects. Any method may raise `PacsError`."""

    def find(self, query: StudyQuery) -> list[AnnouncedStudy]:
        """List the studies that fit the query, each once."""

    def fetch(self, study: AnnouncedStudy, inbox: Inbox) -> None:
        """Announce the study's objects to the inbox, then bring those it does not hold."""


def _day_of(value: str) -> str:
    """Return a StudyDate as YYYYMMDD; empty where it is no day."""
    found = _OLD_DAY.match(value.strip(" \0"))
    return "".join(found.groups()) if found else ""


def first_value(answer: Mapping[str, Collection[str]], keyword: str) -> str:
    """Return the first value of a keyword without padding, or an empty string."""
    return next(iter(answer.get(keyword, ())), "").strip(" \0")


def checked_uid(uid: str, *, what: str) -> str:
    """Return `uid` if it is made like a UID; leading zeros pass, for real archives hold them.

    Raises:
        PacsAnswerInvalid: It is not; such a string would change the meaning of a URL it is put into.

    Source:
        DICOM PS3.5 section 9.1.
    """
    if not _UID.fullmatch(uid):
        raise PacsAnswerInvalid(
            f"the PACS sent a {what} that is not a UID (digits and dots, at most 64). Nothing was stored"
        )
    return uid


def checked_ae_title(title: str) -> str:
    """Return `title` if it is an AE title: 1 to 16 characters, no backslash, no blank at either end.

    Raises:
        ValueError: It is not.

    Source:
        DICOM PS3.5 table 6.2-1 (AE).
    """
    if not _AE_TITLE.fullmatch(title):
        raise ValueError(f"an AE title has 1 to 16 printable characters and no backslash, not {title!r}")
    return title


def hashed(uid: str) -> str:
    """Name a study or an object on disk: 40 hex digits of SHA-256.

    No string from the network becomes a path, and a listing of the folder shows no UID.
    """
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:40]


@contextlib.contextmanager
def time_limit(seconds: float, cut: Callable[[], None]) -> Iterator[threading.Event]:
    """Call `cut` from another thread when the block takes longer than `seconds`.

    Timeouts of sockets bound the silence between two bytes; this bounds the whole.

    Yields:
        The event that is set when the time ran out.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        cut()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
