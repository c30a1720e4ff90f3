"""From a folder of DICOM files to the training cache: list, read what changed, judge the cohort, write, switch.

Every file ends in exactly one of admitted, refused and quarantined. The result is a function of the files, the
settings, the site's secret and the decisions of humans. It does not depend on file order, on worker count, or on where
an earlier ingest was interrupted.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from client.admission.batch import Batch, Progress, Reading
from client.admission.cache_writer import Content, Spool, exclusive, write_generation
from client.admission.cohort import Judgement, judge
from client.admission.folder import list_folder
from client.admission.labels import LABELS_FILE, Labels
from client.admission.quarantine import QUARANTINE_FILE, Decisions
from client.admission.records import Admission, IngestSummary
from client.admission.settings import IngestSettings, reading_of
from client.approval.approvals import active_plans
from client.cohort.cache import Cache, is_remembered
from client.cohort.consent import met_before
from client.cohort.forms import missing
from client.cohort.identity import MERGES_FILE, SECRET_BYTES, Merges, cohort_identity, site_secret
from client.cohort.people import People, remember
from client.decoder.pool import Limits
from client.dicom import text_finder
from client.site import layout
from common.errors import CacheCorrupt, CacheMissing, DataError, NoUsableScans, StateError
from common.plan.study_plan import StudyPlan

__all__ = ["IngestSettings", "IngestSummary", "Limits", "ingest", "wanted"]

_log = logging.getLogger(__name__)
_JUDGED = "duplicates within a patient"
"""Changed whenever the same files would make another cohort than before; no file is read afresh for it."""


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What an ingest rests on in addition to the files.

    Attributes:
        folder: The folder.
        home: The site's home.
        settings: What the plan asks for.
        secret: The site's secret.
        labels: labels.csv; None where the plan has no labels or names an attribute.
        merges: merges.csv.
        decisions: What humans have decided on quarantined files.
        ocr: Look for text in the pictures.
        reading: Digest of all that the reading of one file depends on.
        judging: Digest of all that outcomes depend on except the files, taken before any file is read.
    """

    folder: Path
    home: Path
    settings: IngestSettings
    secret: bytes
    labels: Labels | None
    merges: Merges
    decisions: Decisions
    ocr: bool
    reading: str
    judging: str


def ingest(
    folder: Path,
    home: Path,
    settings: IngestSettings,
    *,
    workers: int = 2,
    dry_run: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
    ocr: bool | None = None,
) -> IngestSummary:
    """Bring a hospital's folder into its training cache.

    Args:
        folder: DICOM files at any depth; `labels.csv` and `merges.csv` at its top are read where they matter.
        home: The site's home; the cache comes to lie in `home/cache`.
        settings: What the plan asks for.
        workers: Decoder processes.
        dry_run: Look and count, write nothing.
        progress: Called with files done and files to do.
        limits: What one file may cost.
        ocr: Look for text in pictures that their header calls clean; None does where the extra `ocr` works.

    Returns:
        The account of all files.

    Raises:
        NoUsableScans: The folder is missing, empty, or nothing in it can be admitted; an old cache stays as it is.
        LabelsError: `labels.csv` is missing, malformed, or names what is in no file.
        DataError: `merges.csv` is malformed, or names an id that two issuers gave to different persons.
        StateError: The disk refuses, another ingest runs, decoder processes do not start, or what the site remembers of
            who is who is gone.
    """
    entries = list_folder(folder, leave_out=home)
    if not entries:
        raise NoUsableScans(f"{folder} holds no files. Give the folder that holds the DICOM files")
    context = _context(folder, home, settings, dry_run=dry_run, ocr=ocr)
    with contextlib.ExitStack() as stack:
        place = None if dry_run else stack.enter_context(exclusive(home))
        People.load(home, expected=is_remembered(home))
        prior, cache = _prior(context)
        stamps = [(entry.name, entry.stamp) for entry in entries]
        if prior is not None and prior.judging == context.judging and prior.stamps == stamps:
            return IngestSummary.of(prior.records, patients=prior.patients, reused=len(entries),
                                    concerns=prior.concerns, looked_for_text=context.ocr)  # fmt: skip
        scratch = stack.enter_context(_scratch(place))
        batch = Batch(old=cache)
        if place is not None:
            batch.spool = Spool(scratch, image_size=settings.image_size)
            stack.callback(batch.spool.close)
        changed = batch.carry_over(prior, entries, context.decisions)
        how = Reading(settings=settings, secret=context.secret, scratch=scratch, decisions=context.decisions,
                      ocr=context.ocr, workers=workers, limits=limits, progress=progress)  # fmt: skip
        with _told_of_the_disk():
            batch.read(changed, how)
        found = judge([batch.records[entry.name] for entry in entries], merges=context.merges,
                      labels=context.labels, names=settings.labels, decisions=context.decisions)  # fmt: skip
        _check(context, found)
        if place is not None:
            _write(context, place, batch, found)
    patients = len({item.patient for item in found.places})
    summary = IngestSummary.of(found.records, patients=patients, reused=len(entries) - len(changed),
                               concerns=found.concerns, looked_for_text=context.ocr)  # fmt: skip
    _log.info("ingest done: files=%s admitted=%s refused=%s quarantined=%s patients=%s reused=%s", summary.files,
              summary.admitted, summary.refused, summary.quarantined, summary.patients, summary.reused)  # fmt: skip
    return summary


def wanted(home: Path, folder: Path) -> list[IngestSettings]:
    """Return the forms that an ingest of `folder` without a plan makes: each that an active plan needs.

    A form that was made from another folder is left alone: that study's scans lie there. Without any active plan it is
    the form of a plan that says nothing.
    """
    plans = active_plans(home)
    if not plans:
        return [IngestSettings.from_plan(StudyPlan(name="default"))]
    settings = {item.digest: item for item in map(IngestSettings.from_plan, plans)}
    lacking = {IngestSettings.from_plan(plan).digest for plan in missing(home, plans)}
    of = {digest: Admission.load(home, digest) for digest in settings.keys() - lacking}
    here = str(folder.resolve())
    left = [digest for digest in settings if (known := of.get(digest)) is None or known.folder == here]
    if not left:
        raise DataError(
            f"every image form that an active plan needs was made from another folder than {folder}. Name the plan "
            "with `--plan` to make its form from this one"
        )
    return [settings[digest] for digest in left]


def _context(folder: Path, home: Path, settings: IngestSettings, *, dry_run: bool, ocr: bool | None) -> _Context:
    """Read everything that can be wrong before any file is opened."""
    if ocr and (reason := text_finder.why_not()):
        raise StateError(
            f"text detection was asked for, but {reason}. Install `wardround[ocr]`; see `wardround doctor`"
        )
    ocr = not text_finder.why_not() if ocr is None else ocr
    reading, judging = _digests(folder, home, settings, ocr=ocr)
    # a dry run at a fresh site must not leave a secret behind; counts do not depend on it
    secret = os.urandom(SECRET_BYTES) if dry_run and not (home / layout.SECRET).exists() else site_secret(home)
    labels = None
    if settings.labels and not settings.label_attribute:
        labels = Labels.read(folder / LABELS_FILE, settings.labels, secret)
    return _Context(
        folder=folder, home=home, settings=settings, secret=secret, labels=labels,
        merges=Merges.read(folder / MERGES_FILE, secret), decisions=Decisions.load(home),
        ocr=ocr, reading=reading, judging=judging,
    )  # fmt: skip


def _digests(folder: Path, home: Path, settings: IngestSettings, *, ocr: bool) -> tuple[str, str]:
    reading = reading_of(settings.digest, ocr=ocr)
    judging = hashlib.sha256(f"{reading} {_JUDGED}".encode())
    for path in (folder / LABELS_FILE, folder / MERGES_FILE, home / QUARANTINE_FILE):
        judging.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else bytes(32))
    return reading, judging.hexdigest()


def _prior(context: _Context) -> tuple[Admission, Cache] | tuple[None, None]:
    """Return the last ingest's record and cache when they are of this folder, read the same way, and whole."""
    form = context.settings.digest
    prior = Admission.load(context.home, form)
    if prior is None or prior.folder != str(context.folder.resolve()) or prior.reading != context.reading:
        return None, None
    try:
        cache = Cache.open(context.home, form)
    except CacheMissing:
        return None, None
    except CacheCorrupt:
        _log.warning("ingest: the old cache fails its check; every file is read again")
        return None, None
    return (prior, cache) if cache.generation == prior.generation else (None, None)


@contextlib.contextmanager
def _scratch(place: Path | None) -> Iterator[Path]:
    """Yield a folder for pictures on their way: next to the cache, or in a dry run the system's own."""
    with tempfile.TemporaryDirectory(prefix=".draft-scratch-", dir=place) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _told_of_the_disk() -> Iterator[None]:
    """Turn a disk that is full while pictures are spooled into a state error."""
    try:
        yield
    except OSError as error:
        raise StateError(
            f"pictures could not be spooled ({error.strerror}); the old cache stays in use. Free space and ingest again"
        ) from error


def _check(context: _Context, found: Judgement) -> None:
    """All that can be wrong with the cohort as a whole, before the first write."""
    records = found.records
    if context.labels is not None:
        hidden = sum(not record.readable for record in records)
        known = ((item.bare, item.full, item.uid, found.persons.key(item)) for item in records if item.bare)
        context.labels.check(known, hidden=hidden)
    if not found.places:
        counts = IngestSummary.of(records, patients=0, reused=0).reasons
        listed = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        raise NoUsableScans(
            f"{context.folder}: none of {len(records)} files can be admitted ({listed}). Compare plan and folder"
        )


def _write(context: _Context, place: Path, batch: Batch, found: Judgement) -> None:
    """Write the new generation, switch to it, and record what became of every file."""
    by_name = {record.name: record for record in found.records}
    keys: list[str] = []
    counts: list[int] = []
    labels: list[int] = []
    for item in found.places:
        record = by_name[item.name]
        if not keys or keys[-1] != item.patient:
            keys.append(item.patient)
            counts.append(0)
        by_name[item.name] = replace(record, first=len(labels))
        counts[-1] += record.pictures
        labels.extend([item.label] * record.pictures)
    # before the cache that was judged by it comes into use
    remember(context.home, met_before(context.home), found.persons.all(), expected=is_remembered(context.home))
    content = Content(
        image_size=context.settings.image_size, keys=keys, counts=counts, labels=labels,
        settings=context.settings.digest, identity=cohort_identity(context.secret, keys),
        remembered=True, form=context.settings.to_dict(),
    )  # fmt: skip
    images = (image for item in found.places for image in batch.pictures(item.name))
    generation = write_generation(place, content, images)
    Admission(
        folder=str(context.folder.resolve()), generation=generation, reading=context.reading, judging=context.judging,
        patients=len(keys), concerns=found.concerns,
        records=[by_name[record.name] for record in found.records],
    ).save(context.home, context.settings.digest)  # fmt: skip
