"""Withdrawal of consent: a patient marked withdrawn is in no later round, under any id or merge.

The mark is a row of the ledger (key, time) with a receipt (`client.ledger.receipt`), so it is as durable, and as hard
to undo unnoticed, as what was spent. The cache is not rewritten: training sees it through `ConsentingCohort`, which has
another data-set identity. What left before is listed by `releases_with`; noise cannot be taken back, and the patient's
bound keeps covering it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.admission.records import Admission, FileRecord, admission_file
from client.cohort.cache import Cache, Everything, is_remembered
from client.cohort.identity import Keys, cohort_identity, site_secret
from client.cohort.people import People, Person, remember
from client.ledger import receipt
from client.ledger.ledger import Ledger, rides
from common.errors import CacheCorrupt, CacheMissing, IssuerNeeded

if TYPE_CHECKING:  # see `client.cohort.cache`
    import torch
    from torch import Tensor


class ConsentingCohort(Cache):
    """A cache seen without some of its patients; indices run over those who remain.

    It opens no files of its own. Each question to the `Cache` goes to the whole one, by the whole one's indices.
    """

    def __init__(self, whole: Cache, kept: list[int], *, secret: bytes) -> None:
        self._whole = whole
        self._kept = kept
        self.settings_digest = whole.settings_digest
        self.generation = whole.generation
        self.remembered = whole.remembered
        self.patient_keys = tuple(whole.patient_keys[i] for i in kept)
        self.identity = cohort_identity(secret, self.patient_keys)

    @property
    def patients(self) -> int:
        """Number of patients who remain."""
        return len(self._kept)

    @property
    def images(self) -> int:
        """Number of their images."""
        return sum(len(self._whole.patient_rows(i)) for i in self._kept)

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self._whole.image_size

    def patient_labels(self, i: int) -> set[int]:
        """Return the labels that images of one patient have, see `Cache.patient_labels`."""
        return self._whole.patient_labels(self._at(i))

    def patient(self, i: int) -> "tuple[Tensor, Tensor]":
        """Return all images and labels of one patient, see `Cache.patient`."""
        return self._whole.patient(self._at(i))

    def at(self, rows: NDArray[np.int64]) -> "tuple[Tensor, Tensor]":
        """Return the images and labels in rows that `every_row` named, see `Cache.at`."""
        return self._whole.at(rows)

    def patients_images(
        self, indices: "list[int] | Tensor", k: int, generator: "torch.Generator | None" = None
    ) -> "tuple[Tensor, Tensor, Tensor]":
        """Return at most `k` images of each patient, see `Cache.patients_images`.

        Args:
            indices: Patients, as indices of this cohort.
            k: Most images of one patient, above 0.
            generator: Draws the images of patients who have more than `k`; None takes torch's own.
        """
        return self._whole.patients_images([self._at(int(i)) for i in indices], k, generator)

    def patient_rows(self, i: int) -> range:
        """Return the rows of one patient's images in the whole cache."""
        return self._whole.patient_rows(self._at(i))

    def _at(self, i: int) -> int:
        if not 0 <= i < len(self._kept):
            raise IndexError(f"patient {i} asked for, the cohort has {len(self._kept)}")
        return self._kept[i]


@dataclass(frozen=True, kw_only=True)
class SentReply:
    """One reply that a patient's scans went into.

    Attributes:
        entry: Number of the reservation in the ledger.
        time: When it was booked.
        study: Name of the study.
        plan: Digest of its plan.
        round: Round number.
        phase: Phase of that round.
        finished: Whether it ended in a reply; otherwise it was booked and nothing left.
    """

    entry: int
    time: str
    study: str
    plan: str
    round: int
    phase: str
    finished: bool


def consenting(whole: Cache, home: Path, withdrawn: Iterable[str]) -> Cache:
    """Return the cache as training may see it: without the patients who were ever known by a key in `withdrawn`.

    Args:
        whole: The cache with all admitted patients.
        home: The site's home folder.
        withdrawn: Patient keys under which consent was withdrawn.

    Raises:
        CacheCorrupt: The record that leads from PatientIDs to cached patients is of another generation.
        StateError: What the site remembers of who is who cannot be read.
    """
    out = _patients_of(whole, home, set(withdrawn))
    if not out:
        return whole
    return ConsentingCohort(whole, sorted(set(range(whole.patients)) - out), secret=site_secret(home))


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A withdrawal that was booked.

    Attributes:
        known: Whether the patient is in a cache or in any earlier cohort. A wrong id is marked, too, and is in neither.
        damaged: How many of the site's caches are damaged. No round reads those, and the mark holds for new ones.
    """

    known: bool
    damaged: int


def withdraw(home: Path, ledger: Ledger, patient_id: str, *, issuer: str | None = None) -> Marked:
    """Mark the patient of this PatientID withdrawn, under every key it is known by at this moment.

    The state of no cache keeps a withdrawal from being booked: of one that is damaged, the keys that its index names
    are taken as they stand.

    Args:
        home: The site's home.
        ledger: Its ledger.
        patient_id: PatientID as in the DICOM files.
        issuer: IssuerOfPatientID; "" is every patient of that id, of any issuer, as far as it is known by the id
            alone; None is the same, but refused where that may pass over a patient who has left the cache.

    Raises:
        IssuerNeeded: No patient has the id alone, but one who left the cache may have this id and an issuer.
        LedgerCorrupt: The ledger is an older copy.
        StateError: The disk refuses, or what the site remembers of who is who cannot be read.
    """
    ledger.require(receipt.last_head(home))
    keys = Keys.read(site_secret(home), patient_id, issuer or "")
    met_now = [Person(key=keys.full, ids={keys.full: keys.bare})] if keys.full != keys.bare else []
    people = remember(home, met_now, expected=is_remembered(home))
    named = {keys.full, *keys.was} | (people.of_id(keys.bare) if keys.full == keys.bare else set())
    everything = Everything.of(home)
    here = everything.named.union(*(whole.patient_keys for whole in everything.caches))
    found = named.union(
        (key for key in everything.named if not people.names(key).isdisjoint(named)),
        *(_met(whole, home, named) for whole in everything.caches),
    )
    met = set[str]().union(*(people.kin(key) for key in found))
    trained = frozenset[str]().union(*ledger.cohorts().values())
    known = bool(met & (here | trained))
    if issuer is None and not known and trained - here - ledger.withdrawn() - people.of_told_id():
        raise IssuerNeeded(
            "no patient in the cache or in an earlier round is known by this id alone, but patients of earlier rounds "
            "have left the cache, and this may be one who was kept under id and issuer; no patient was marked. Name "
            "the IssuerOfPatientID with `--issuer`, or, where the files name none, `--issuer ''`"
        )
    ledger.withdraw([keys.full, *sorted(met)])
    receipt.keep(home, ledger)
    return Marked(known=known, damaged=everything.damaged)


def _met(whole: Cache, home: Path, named: set[str]) -> set[str]:
    """Keys of the patients of one cache that a withdrawal names."""
    try:
        return {whole.patient_keys[i] for i in _patients_of(whole, home, named)}
    except CacheCorrupt:  # its record is of another cache: no round trains on it from here on
        return named & set(whole.patient_keys)


def releases_with(ledger: Ledger, keys: Iterable[str]) -> list[SentReply]:
    """Every booked round whose cohort held a patient of one of these keys, oldest first."""
    rows = ledger.rows()
    finished = {int(row.note.partition(":")[0]) for row in rows if row.kind == "settle"}
    containing = {identity for identity, members in ledger.cohorts().items() if members & set(keys)}
    return [
        SentReply(entry=row.id, time=row.time, study=row.study, plan=row.plan, round=row.round, phase=row.phase,
                finished=row.id in finished)
        for row in rows
        if row.kind == "reserve" and row.cohort in containing and not rides(row)
    ]  # fmt: skip


def _patients_of(whole: Cache, home: Path, keys: set[str]) -> set[int]:
    """Indices of the cached patients that any of `keys` leads to, by all that is remembered of them.

    Of a cache from before anything was remembered: by their own key, or by that of one of their files.
    """
    if not keys:
        return set()
    people = People.load(home, expected=whole.remembered)
    found = {i for i, key in enumerate(whole.patient_keys) if not people.names(key).isdisjoint(keys)}
    if whole.remembered:
        return found
    admission = Admission.load(home, whole.settings_digest)
    if admission is None and not admission_file(home, whole.settings_digest).exists():
        return found
    if admission is None or admission.generation != whole.generation:
        raise CacheCorrupt(
            "the last ingest's record is of another cache, so it is unknown who withdrew. Run `wardround site ingest`"
        )
    return found | {i for i, record in _cached(whole, admission) if record.bare in keys or record.full in keys}


def _cached(whole: Cache, admission: Admission) -> Iterator[tuple[int, FileRecord]]:
    """Each record of a file whose image is in the cache, with the index of its patient there."""
    starts = [whole.patient_rows(i).start for i in range(whole.patients)]
    for record in admission.records:
        if record.first >= 0:
            yield bisect_right(starts, record.first) - 1, record


def met_before(home: Path) -> list[Person]:
    """Return the patients of a cache from before anything was remembered, by all that its records tell.

    Where no record tells the id alone of a key, the key may be of an id with issuer: that stays untold. Empty if there
    is no cache, or none that can be read: the patients of before are then unknown.
    """
    if is_remembered(home):
        return []
    try:
        whole = Cache.open(home)
    except (CacheCorrupt, CacheMissing):
        return []
    ids = {key: {key: ""} for key in whole.patient_keys}
    admission = Admission.load(home)
    if admission is not None and admission.generation == whole.generation:
        for i, record in _cached(whole, admission):
            ids[whole.patient_keys[i]][record.full] = record.bare
    return [Person(key=key, ids=known) for key, known in ids.items()]
