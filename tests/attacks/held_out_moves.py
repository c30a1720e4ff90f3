"""A patient whom a study set aside comes under another id: does the study train on that patient now?

    python -m tests.attacks.held_out_moves

A hospital answers a round of a plan that sets patients aside. Then every patient's id changes in one of the ways that
happen in archives: a line in `merges.csv`, an issuer that the PACS begins to send, another spelling, a line taken back.
After each, whoever was set aside must not train, and whoever trained must not be set aside. A patient who withdrew
before must be in neither.

Prints how many moved; exit code 1 if anybody did.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client import hospital
from client.admission.ingest import IngestSettings, ingest
from client.admission.records import Admission
from client.cohort import consent
from client.cohort.cache import Cache
from client.cohort.identity import patient_key
from client.ledger.ledger import Ledger
from client.site import policy
from client.site.site import Site
from common.plan.study_plan import StudyPlan
from tests.client.hospitals import request, set_policy
from tests.client.scans import save, scan

PATIENTS, WITHDRAWN, SHARE = 16, "P3", 0.4
SECRET = bytes(range(32))
PLAN = StudyPlan.parse(f"""
name = "apart"
[data]
image_size = 28
min_patients = 2
[model]
latent = 3
channels = [4, 8]
base = 4
[privacy]
phases = ["moments"]
[evaluation]
held_out_share = {SHARE}
""")


@dataclass(frozen=True)
class Archive:
    """A hospital and its folder; a patient's file is named by the patient's first id."""

    place: Path

    @property
    def home(self) -> Path:
        """The site's home."""
        return self.place / "home"

    def send(self, spell: Callable[[str], str] = str, *, issuer: str = "") -> None:
        """Let the archive send every patient, the id spelt so, with this issuer."""
        for number in range(PATIENTS):
            values = {"IssuerOfPatientID": issuer} if issuer else {}
            save(scan(seed=number + 1, patient=spell(f"P{number}"), **values), self.place / "in" / f"P{number}.dcm")

    def merge(self, spell: Callable[[str], str] | None) -> None:
        """Write a line of merges.csv for every patient, or remove the file."""
        path = self.place / "in" / "merges.csv"
        path.unlink(missing_ok=True)
        if spell is not None:
            path.write_text("patient_id,same_as\n" + "".join(f"P{n},{spell(f'P{n}')}\n" for n in range(PATIENTS)))

    def ingest(self) -> None:
        """Bring the folder into the cache."""
        ingest(self.place / "in", self.home, IngestSettings.from_plan(PLAN), workers=1, ocr=False)

    def parts(self) -> tuple[set[str], set[str]]:
        """First ids of those who train in the plan, and of those it sets aside."""
        cache, admission = Cache.open(self.home), Admission.load(self.home)
        assert admission is not None
        rows = {key: cache.patient_rows(i) for i, key in enumerate(cache.patient_keys)}
        first, second = (
            {r.name[:-4] for r in admission.records for key in part.patient_keys if r.first in rows[key]}
            for part in Site.open(self.home).cohorts(PLAN)
        )
        return first, second


def elder(name: str) -> str:
    """An old id whose key is the smaller one, so that a merge keeps the patient under it."""
    mine = patient_key(SECRET, name)
    return next(old for i in range(1000) if patient_key(SECRET, old := f"OLD{i}-{name}") < mine)


def _new_ids(archive: Archive) -> None:
    archive.send(lambda name: f"N{name}")
    archive.merge(lambda name: f"N{name}")


def _taken_back(archive: Archive) -> None:
    archive.merge(elder)
    archive.ingest()
    archive.merge(None)


def _comes_and_goes(archive: Archive) -> None:
    archive.send(issuer="HOSP")
    archive.ingest()
    archive.send()


CHANGES: dict[str, Callable[[Archive], None]] = {
    "merges.csv names an older id": lambda archive: archive.merge(elder),
    "the line is there and taken back": _taken_back,
    "the PACS begins to send IssuerOfPatientID": lambda archive: archive.send(issuer="HOSP"),
    "the issuer comes and goes": _comes_and_goes,
    "the id comes as an HL7 CX": lambda archive: archive.send(lambda name: f"{name}^^^HOSP"),
    "every patient has a new id, and merges.csv says so": _new_ids,
}


def main() -> int:
    """Try every change and say what came of it."""
    moved = sum(moves(what, change) for what, change in CHANGES.items())
    print(f"\n{moved} of {len(CHANGES)} changes move a patient")
    return 1 if moved else 0


def moves(what: str, change: Callable[[Archive], None]) -> bool:
    """Whether anybody moves between those who train, those set aside and those who withdrew."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder))
        archive.home.mkdir()
        (archive.home / "secret.key").write_bytes(SECRET)
        set_policy(archive.home, minimum=1)
        archive.send()
        archive.ingest()
        policy.approve(archive.home, PLAN, approved_by="steward")
        consent.withdraw(archive.home, Ledger(archive.home / "ledger.sqlite"), WITHDRAWN)
        train, apart = archive.parts()
        hospital.train(Site.open(archive.home), request(PLAN, 1))
        change(archive)
        archive.ingest()
        trains_now, apart_now = archive.parts()
    back = WITHDRAWN in trains_now | apart_now
    print(
        f"{what}: of {len(apart)} set aside {len(apart & trains_now)} train now, of {len(train)} who trained "
        f"{len(train & apart_now)} are set aside, the patient who withdrew is {'BACK' if back else 'out'}"
    )
    worked = bool(apart & trains_now or train & apart_now or back)
    print(f"  -> {'THE ATTACK WORKS' if worked else 'nobody moved'}")
    return worked


if __name__ == "__main__":
    sys.exit(main())
