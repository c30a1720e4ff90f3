"""From single files to a cohort: who is one person, what counts once, which label applies, in which order."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from client.admission.doubts import Doubt
from client.admission.labels import Labels
from client.admission.persons import Persons, doubts_of
from client.admission.quarantine import Decisions
from client.admission.reasons import Reason
from client.admission.records import Concern, FileRecord
from client.cohort.identity import Merges
from common.plan.label_rule import as_label


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


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A folder's files with their verdicts.

    Attributes:
        records: Every file.
        places: The admitted files in the cache's order.
        persons: Who is who.
        concerns: Doubt code -> what the steward should look at.
    """

    records: list[FileRecord]
    places: list[Place]
    persons: Persons
    concerns: dict[str, Concern]


def judge(
    records: Iterable[FileRecord],
    *,
    merges: Merges,
    labels: Labels | None,
    names: tuple[str, ...],
    decisions: Decisions | None = None,
) -> Judgement:
    """Give every record its outcome.

    A SOP instance UID or a picture counts once within one patient, and for every patient that bears it. So no patient's
    rows depend on another patient's files. The files of both are shown to a human.

    Args:
        records: Every file of the folder, sorted by name.
        merges: Ids that are one person.
        labels: The label file; None where the plan has no labels or names an attribute.
        names: The plan's classes; empty gives every image label 0.
        decisions: What humans have decided on files; None for nothing.

    Raises:
        DataError: A line of `merges.csv` names an id of several issuers' persons.
    """
    everything, decided = list(records), decisions or Decisions()
    persons = Persons(everything, merges)
    verdicts: dict[str, str] = {}
    usable: list[tuple[str, FileRecord]] = []
    for record in everything:
        verdicts[record.name] = record.reason
        if not record.reason and decided.of(record.decided_by) == "drop":
            verdicts[record.name] = Reason.DROPPED
        elif not record.reason:
            usable.append((persons.key(record), record))
    usable.sort(key=lambda pair: (pair[0], pair[1].uid, pair[1].digest, pair[1].name))
    doubts = doubts_of([record for _, record in usable], persons)
    uids, pictures = set[tuple[str, str]](), set[tuple[str, str]]()
    places: list[Place] = []
    for patient, record in usable:
        label = _label(record, labels, names)
        if isinstance(label, Reason):
            verdicts[record.name] = label
        elif (patient, record.digest) in pictures or (patient, record.uid) in uids:
            verdicts[record.name] = Reason.DUPLICATE
        else:
            places.append(Place(name=record.name, patient=patient, label=label))
            uids.update({(patient, record.uid)} if record.uid else ())
            pictures.add((patient, record.digest))
    waiting = [pair for pair in usable if not verdicts[pair[1].name]]
    doubts[Doubt.UID_CLASH].update(_shared(waiting, decided, trait=lambda record: record.uid))
    doubts[Doubt.SHARED_PICTURE].update(_shared(waiting, decided, trait=lambda record: record.digest))
    concerns = {str(code): Concern.of(whom) for code, whom in sorted(doubts.items()) if whom}
    judged = [replace(record, verdict=verdicts[record.name]) for record in everything]
    return Judgement(records=judged, places=places, persons=persons, concerns=concerns)


def _shared(
    admitted: list[tuple[str, FileRecord]], decisions: Decisions, *, trait: Callable[[FileRecord], str]
) -> dict[str, list[str]]:
    """By patient, the admitted files that have a trait in common with another patient's and wait for a human."""
    bearers: dict[str, list[tuple[str, FileRecord]]] = defaultdict(list)
    for patient, record in admitted:
        if value := trait(record):
            bearers[value].append((patient, record))
    found: dict[str, list[str]] = defaultdict(list)
    for same in bearers.values():
        if len({patient for patient, _ in same}) > 1:
            for patient, record in same:
                if decisions.of(record.decided_by) is None:
                    found[patient].append(record.name)
    return found


def _label(record: FileRecord, labels: Labels | None, names: tuple[str, ...]) -> int | Reason:
    if not names:
        return 0
    if labels is not None:
        return labels.of((record.full, record.bare), record.uid)
    lowered = [as_label(name).casefold() for name in names]
    value = as_label(record.label).casefold()
    return lowered.index(value) if value in lowered else Reason.UNLABELLED
