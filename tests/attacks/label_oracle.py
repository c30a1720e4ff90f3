"""A coordinator asks, by plans of its own making, whether a named person's scans are in a hospital's archive.

    python -m tests.attacks.label_oracle

There are two archives that differ in one patient. A plan names that patient: as the value of a label attribute, by a
class that nobody else has, or by filters that nobody else passes. It is ingested and approved at both hospitals, which
are then asked over real messages: a Hello, and round 1 as often as the attacker likes. Where one answer differs between
the two hospitals, the attack works: it is exact, costs no budget and stands in no ledger.

Prints each plan, both hospitals' answers and what they tell; exit code 1 if a plan tells whether the patient is there.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from client.admission.ingest import ingest
from client.admission.settings import IngestSettings
from client.site import policy
from common.errors import NoUsableScans
from common.model.study_model import initial
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, read_reply
from tests.client.besieged import Daemon
from tests.client.scans import save, scan, write_labels

PATIENTS, LEAST = 12, 8
"""Patients of the larger archive, and the hospital's own minimum."""
TARGET = PATIENTS - 1
"""Number of the patient who is asked for, and is in one archive only."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One plan.

    Attributes:
        what: What it asks, in words.
        labels: Its classes.
        attribute: Where they come from; "" is labels.csv.
        body_parts: Its filter.
        target: DICOM values of the target; everybody else has `other`.
        other: See there.
        listed: Class of the target in labels.csv; everybody else has the first one. "" writes no such file.
        allowed: Attributes that the hospital allows in site.toml.
    """

    what: str
    labels: tuple[str, ...] = ()
    attribute: str = ""
    body_parts: tuple[str, ...] = ()
    target: dict[str, str] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    listed: str = ""
    allowed: tuple[str, ...] = ()

    def plan(self) -> StudyPlan:
        """The plan as the coordinator writes it: it asks for one patient at least."""
        return StudyPlan.parse(f"""
name = "who"
[data]
image_size = 28
min_patients = 1
label_attribute = {json.dumps(self.attribute)}
labels = {json.dumps(self.labels)}
body_parts = {json.dumps(self.body_parts)}
[model]
latent = 3
channels = [4, 8]
base = 4
[privacy]
phases = ["moments"]
""")


TRIES = (
    Try(
        what="the PatientID as a label",
        attribute="PatientID",
        labels=("P0", f"P{TARGET}"),
    ),
    Try(
        what="the birth date as a label",
        attribute="PatientBirthDate",
        labels=("19610412", "19700101"),
        target={"PatientBirthDate": "19610412"},
        other={"PatientBirthDate": "19700101"},
    ),
    Try(
        what="a study description of the patient's alone, which the site allows as a label",
        attribute="StudyDescription",
        labels=("THORAX", "RARE DISEASE"),
        target={"StudyDescription": "RARE DISEASE"},
        other={"StudyDescription": "THORAX"},
        allowed=("StudyDescription",),
    ),
    Try(
        what="the only patient of her sex",
        attribute="PatientSex",
        labels=("M", "F"),
        target={"PatientSex": "F"},
        other={"PatientSex": "M"},
    ),
    Try(what="a class of labels.csv that the patient alone has", labels=("normal", "rare"), listed="rare"),
    Try(
        what="a body part that the patient alone has",
        body_parts=("BIGTOE",),
        target={"BodyPartExamined": "BIGTOE"},
        other={"BodyPartExamined": "CHEST"},
    ),
)


def main() -> int:
    """Try every plan and say what came of it."""
    told = 0
    for attempt in TRIES:
        answers = {there: list(asked(attempt, there=there)) for there in (True, False)}
        told += tells(attempt, answers)
    print(f"\n{told} of {len(TRIES)} plans tell whether the patient is in the archive")
    return 1 if told else 0


def tells(attempt: Try, answers: dict[bool, list[str]]) -> bool:
    """Print both hospitals' answers; whether they differ."""
    differ = answers[True] != answers[False]
    print(f"{attempt.what}\n  with the patient:    {answers[True]}\n  without the patient: {answers[False]}")
    print(f"  -> {'THE ATTACK WORKS: the answers differ' if differ else 'the same; nothing is told'}")
    return differ


def asked(attempt: Try, *, there: bool) -> Iterator[str]:
    """What a hospital answers to a Hello and to round 1, by type alone."""
    plan = attempt.plan()
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(hospital(Path(folder), attempt, plan, there=there))
        hello = read_reply(daemon.ask(Hello(plan=plan.digest).to_record(), kind="query"), HelloReply)
        yield kind_of(hello)
        request = TrainRequest(plan=plan.digest, round=1, arrays=initial(plan).arrays())
        yield kind_of(read_reply(daemon.ask(request.to_record()), TrainReply))


def kind_of(answer: object) -> str:
    """The type of an answer, and of its reason: a round's sums are noised and booked, so they are no part of this."""
    return answer.reason if isinstance(answer, Refused) else type(answer).__name__


def hospital(place: Path, attempt: Try, plan: StudyPlan, *, there: bool) -> Path:
    """Make the hospital of an archive with, or without, the target, as its steward would; return its home."""
    present = [number for number in range(PATIENTS) if there or number != TARGET]
    for number in present:
        values = attempt.target if number == TARGET else attempt.other
        save(scan(seed=100 * number + 1, patient=f"P{number}", **values), place / "in" / f"p{number}.dcm")
    if attempt.listed:
        lines = (f"P{n},,{attempt.listed if n == TARGET else attempt.labels[0]}" for n in present)
        write_labels(place / "in", *lines)
    home = place / "home"
    home.mkdir()
    allowed = f"label_attributes = {json.dumps(attempt.allowed)}\n" if attempt.allowed else ""
    resources = '[resources]\ndevice = "cpu"\nthreads = 1\n'
    (home / "site.toml").write_text(f'name = "north"\n[limits]\nmin_patients = {LEAST}\n{allowed}{resources}')
    with contextlib.suppress(NoUsableScans):  # the steward is told, and may approve the plan all the same
        ingest(place / "in", home, IngestSettings.from_plan(plan), workers=1)
    policy.approve(home, plan, approved_by="steward")
    return home


if __name__ == "__main__":
    sys.exit(main())
