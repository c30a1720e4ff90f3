"""From single files to a cohort: who is one person, what counts once, which label applies, in which order."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from client.admission.labels import Labels
from client.admission.reasons import Reason
from client.admission.records import FileRecord
from client.identity import Merges


@dataclass(frozen=True, kw_only=True)
class Place:
    """One admitted file and where it stands.

    Attributes:
        name: The file.
        patient: Key it is kept under.
        label: Class of its images.
    """

    name: str
    patient: str
    label: int


def judge(
    records: Iterable[FileRecord], *, merges: Merges, labels: Labels | None, names: tuple[str, ...]
) -> tuple[list[FileRecord], list[Place]]:
    """Give every record its verdict.

    A picture that two patients share is kept with the smaller key: it must not count against both, and which one
    keeps it may not depend on file names.

    Args:
        records: Every file of the folder, sorted by name.
        merges: Ids that are one person.
        labels: The label file; None where the plan has no labels or names an attribute.
        names: The plan's classes; empty gives every image label 0.

    Returns:
        The same records with their verdicts, and the admitted files in the cache's order.
    """
    verdicts: dict[str, str] = {}
    usable: list[tuple[str, FileRecord]] = []
    for record in records:
        verdicts[record.name] = record.reason
        if not record.reason:
            usable.append((merges.key(record.bare, record.full), record))
    usable.sort(key=lambda pair: (pair[0], pair[1].uid, pair[1].digest, pair[1].name))
    uids: set[str] = set()
    pictures: set[str] = set()
    places: list[Place] = []
    for patient, record in usable:
        label = _label(record, labels, names)
        if isinstance(label, Reason):
            verdicts[record.name] = label
        elif record.uid in uids or record.digest in pictures:
            verdicts[record.name] = Reason.DUPLICATE
        else:
            places.append(Place(name=record.name, patient=patient, label=label))
            uids.update({record.uid} - {""})
            pictures.add(record.digest)
    return [replace(record, verdict=verdicts[record.name]) for record in records], places


def _label(record: FileRecord, labels: Labels | None, names: tuple[str, ...]) -> int | Reason:
    if not names:
        return 0
    if labels is not None:
        return labels.of(record.bare, record.uid)
    lowered = [name.casefold() for name in names]
    value = record.label.casefold()
    return lowered.index(value) if value in lowered else Reason.UNLABELLED
