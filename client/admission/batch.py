"""What an ingest gathers: records of all files, pictures of the freshly read ones, and the old cache for the rest."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.nn import functional

from client.admission.cache_writer import Spool, Stored
from client.admission.doubts import Doubt
from client.admission.folder import Entry
from client.admission.quarantine import Decisions
from client.admission.reasons import QUARANTINE, Reason
from client.admission.records import Admission, FileRecord
from client.admission.scan import Facts, Job, Outcome
from client.admission.settings import IngestSettings
from client.cohort.cache import Cache
from client.cohort.identity import Keys, trait_key
from client.cohort.patient_ids import PatientId
from client.decoder.pool import QUEUE, DecodePool, Limits, Picture
from common.images.pixels import fit_square, unit_to_uint16

Progress = Callable[[int, int], None]

_COHORT_VERDICTS = frozenset({Reason.DUPLICATE, Reason.UNLABELLED, Reason.CONTRADICTORY_LABEL})
_NO_DICOM = frozenset({Reason.NOT_DICOM, Reason.POLYGLOT, Reason.NOT_REGULAR, Reason.SYMLINK})
_SQUARE_PIXEL = 0.01
"""Aspect ratios within this of 1 are square."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are to be read.

    Attributes:
        settings: What the plan asks for.
        secret: The site's secret, for patient keys.
        scratch: Folder for what decoders put on disk for a moment.
        decisions: What humans have decided on quarantined files.
        ocr: Look for text in the pictures.
        workers: Decoder processes.
        limits: What one file may cost.
        progress: Called with files done and files to do.
    """

    settings: IngestSettings
    secret: bytes
    scratch: Path
    decisions: Decisions
    ocr: bool
    workers: int
    limits: Limits | None = None
    progress: Progress | None = None


@dataclass(kw_only=True)
class Batch:
    """What an ingest has gathered so far.

    Attributes:
        records: Records by file name.
        rows: Spool rows of the pictures of freshly read files, by file name.
        seals: Running digests of the same pictures.
        spool: Where those pictures lie; None in a dry run.
        old: The cache that unchanged files' pictures come from.
    """

    records: dict[str, FileRecord] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    seals: dict[str, "hashlib._Hash"] = field(default_factory=dict)
    spool: Spool | None = None
    old: Cache | None = None

    def pictures(self, name: str) -> Iterator[Stored]:
        """Yield the stored pictures of one admitted file."""
        if name in self.rows:
            assert self.spool is not None
            for row in self.rows[name]:
                yield self.spool.read(row)
        else:
            assert self.old is not None
            record = self.records[name]
            yield from self.old.stored(record.first, record.first + record.pictures)

    def carry_over(self, prior: Admission | None, entries: list[Entry], decisions: Decisions) -> list[Entry]:
        """Take over what is known of unchanged files.

        Args:
            prior: The last ingest's record, which belongs to `old`; None for none.
            entries: What lies in the folder now.
            decisions: What humans have decided on quarantined files.

        Returns:
            The files to read.
        """
        records = () if prior is None else prior.records
        known = {record.name: record for record in records if _still_valid(record, decisions)}
        changed: list[Entry] = []
        for entry in entries:
            record = known.get(entry.name)
            if entry.reason is not None:
                self.records[entry.name] = FileRecord(name=entry.name, stamp=entry.stamp, reason=entry.reason)
            elif record is not None and record.stamp == entry.stamp:
                self.records[entry.name] = record
            else:
                changed.append(entry)
        return changed

    def read(self, changed: list[Entry], how: Reading) -> None:
        """Decode files and keep their records and pictures.

        Raises:
            StateError: Decoder processes do not start.
            OSError: The disk is full.
        """
        if not changed:
            return
        # a process takes QUEUE files before the next one gets any, so more processes would start for nothing
        workers = min(how.workers, math.ceil(len(changed) / QUEUE))
        with (
            _one_thread(),
            DecodePool(how.settings, scratch=how.scratch, workers=workers, limits=how.limits, ocr=how.ocr) as pool,
        ):
            jobs = [Job(number=number, path=entry.path) for number, entry in enumerate(changed)]
            cleared = self._run(pool, jobs, changed, how)
            self._run(pool, cleared, changed, how)

    def _run(self, pool: DecodePool, jobs: list[Job], changed: list[Entry], how: Reading) -> list[Job]:
        """Read files; return those that wait in quarantine although a human has cleared them, to be read as such."""
        cleared: list[Job] = []

        def keep(number: int, picture: Picture, aspect: float) -> None:
            stored, name = to_stored(picture, aspect=aspect, size=how.settings.image_size), changed[number].name
            self.seals.setdefault(name, hashlib.sha256()).update(stored.data)
            self.rows.setdefault(name, []).append(-1 if self.spool is None else self.spool.append(stored))

        by_number = {job.number: job for job in jobs}
        for done, (number, outcome) in enumerate(pool.run(jobs, keep), start=1):
            entry, job = changed[number], by_number[number]
            decision = how.decisions.of(outcome.digest) if outcome.quarantined else None
            if decision == "admit" and not job.cleared:
                cleared.append(Job(number=number, path=entry.path, cleared=outcome.digest))
            elif decision == "drop":
                outcome = Outcome(reason=Reason.DROPPED, facts=outcome.facts, digest=outcome.digest)
            seal, content = self.seals.pop(entry.name, None), outcome.digest
            if outcome.reason is not None:
                self.rows.pop(entry.name, None)
            elif seal is None:
                outcome = Outcome(reason=Reason.CRASHED)  # no honest decoder admits a file without a picture
            else:
                outcome = Outcome(reason=None, facts=outcome.facts, digest=seal.hexdigest())
            pictures = len(self.rows.get(entry.name, ()))
            self.records[entry.name] = _record(entry, outcome, how.secret, pictures=pictures, cleared=job.cleared,
                                                content=content)  # fmt: skip
            if how.progress is not None:
                how.progress(done, len(jobs))
        return cleared


def to_stored(picture: Picture, *, aspect: float, size: int) -> Stored:
    """Bring a decoded picture to the cache's form.

    Args:
        picture: [height, width] float32 in [-1, 1]; not a number counts as black.
        aspect: Height of a pixel over its width.
        size: Side of the result, pixels.
    """
    image = torch.from_numpy(picture)
    if abs(aspect - 1.0) > _SQUARE_PIXEL:
        height, width = image.shape[0] * aspect, image.shape[1]
        scale = size / max(height, width)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = functional.interpolate(image[None, None], size=target, mode="area")[0, 0]
    fitted = fit_square(image, size=size) if image.shape != (size, size) else image
    return unit_to_uint16(torch.nan_to_num(fitted, nan=-1.0).clamp(-1.0, 1.0))


def _still_valid(record: FileRecord, decisions: Decisions) -> bool:
    """Whether an unchanged file's record can be taken over: its verdict hung on nothing but the file itself."""
    if record.verdict in _COHORT_VERDICTS:
        return False
    if record.verdict in QUARANTINE:
        return decisions.of(record.digest) is None
    if record.verdict == Reason.DROPPED:
        return decisions.of(record.decided_by) == "drop"
    return not record.cleared or decisions.of(record.cleared) == "admit"


def _record(entry: Entry, outcome: Outcome, secret: bytes, *, pictures: int, cleared: str, content: str) -> FileRecord:
    """Build the record of a freshly read file; from here on there is no PatientID."""
    facts = outcome.facts
    reason = "" if outcome.reason is None else str(outcome.reason)
    if facts is None:
        return FileRecord(name=entry.name, stamp=entry.stamp, reason=reason, readable=outcome.reason in _NO_DICOM)
    patient = PatientId.read(facts.patient_id, facts.issuer)
    record = FileRecord(
        name=entry.name, stamp=entry.stamp, reason=reason, uid=facts.sop_uid, digest=outcome.digest, content=content,
        label=facts.label, modality=facts.modality, body_part=facts.body_part, view=facts.view, pictures=pictures,
        readable=bool(patient.id or facts.sop_class), cleared=cleared,
    )  # fmt: skip
    return _named(record, facts, patient, secret) if patient.id and not patient.damaged else record


def _named(record: FileRecord, facts: Facts, patient: PatientId, secret: bytes) -> FileRecord:
    """Add the keys that its patient is known by, and the doubts about its id."""
    keys = Keys.read(secret, facts.patient_id, facts.issuer)
    found = {
        Doubt.TWO_ISSUERS: bool(patient.second),
        Doubt.PLACEHOLDER_ID: patient.placeholder,
        Doubt.UNDECODABLE_ID: patient.undecodable,
    }
    return replace(
        record, bare=keys.bare, full=keys.full, second=keys.second, was=keys.was,
        loose=trait_key(secret, "loose", patient.loose or patient.id),
        born=trait_key(secret, "born", facts.born), sex=trait_key(secret, "sex", facts.sex),
        doubts=tuple(code for code, there in found.items() if there),
    )  # fmt: skip


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch from starting threads next to the decoder processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
