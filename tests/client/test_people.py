"""Who is set aside, and who withdrew, is a person: it does not move when ids, merges or issuers do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from client import hospital
from client.admission.ingest import IngestSettings, ingest
from client.admission.records import Admission
from client.cohort import consent
from client.cohort.cache import Cache, generation_name
from client.cohort.held_out import VERDICT, is_held_out, trained_in
from client.cohort.identity import patient_key, site_secret
from client.cohort.people import PEOPLE_FILE, People, Person
from client.ledger.ledger import Entry, Ledger
from client.site import policy
from client.site.site import Site
from common.accountant.accounting import GaussianEvent
from common.errors import StateError
from common.plan.study_plan import StudyPlan
from tests.client.hospitals import request, set_policy
from tests.client.scans import save, scan

SHARE = 0.4
COUNT = 16
PLAN = StudyPlan.parse(
    f"""
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
"""
)
SETTINGS = IngestSettings.from_plan(PLAN)
NAMES = [f"P{i}" for i in range(COUNT)]


class Archive:
    """A hospital and its folder; a patient's files are named by the patient, `P3.dcm`."""

    def __init__(self, place: Path) -> None:
        self.folder, self.home = place / "in", place / "home"
        self.home.mkdir()
        (self.home / "secret.key").write_bytes(bytes(range(32)))
        set_policy(self.home, minimum=1)
        for number, name in enumerate(NAMES):
            self.put(name, number + 1)
        self.ingest()
        policy.approve(self.home, PLAN, approved_by="steward")

    def put(self, name: str, seed: int, *, patient: str = "", issuer: str = "") -> None:
        values = {"IssuerOfPatientID": issuer} if issuer else {}
        save(scan(seed=seed, patient=patient or name, **values), self.folder / f"{name}.dcm")

    def rename(self, spell: Callable[[str], str] = str, issuer: str = "") -> None:
        """Send every patient's file again, with the id spelt so and this issuer."""
        for number, name in enumerate(NAMES):
            self.put(name, number + 1, patient=spell(name), issuer=issuer)

    def merge(self, *lines: str) -> None:
        path = self.folder / "merges.csv"
        path.unlink(missing_ok=True)
        if lines:
            path.write_text("\n".join(["patient_id,same_as", *lines]) + "\n")

    def ingest(self) -> None:
        ingest(self.folder, self.home, SETTINGS, workers=1, ocr=False)

    def ledger(self) -> Ledger:
        return Ledger(self.home / "ledger.sqlite")

    def files(self, keys: tuple[str, ...], cache: Cache) -> set[str]:
        """Files, without their ending, of the patients of these keys."""
        admission = Admission.load(self.home)
        assert admission is not None
        rows = {cache.patient_keys[i]: cache.patient_rows(i) for i in range(cache.patients)}
        return {r.name[:-4] for r in admission.records for key in keys if r.first in rows[key]}

    def split(self) -> tuple[set[str], set[str]]:
        """Files of those who train, and of those who are set aside."""
        train, apart = Site.open(self.home).cohorts(PLAN)
        whole = Cache.open(self.home)
        return self.files(train.patient_keys, whole), self.files(apart.patient_keys, whole)

    def cohort(self) -> set[str]:
        """Files of everybody who has not withdrawn."""
        return self.files(Site.open(self.home).cache.patient_keys, Cache.open(self.home))

    def train(self) -> None:
        hospital.train(Site.open(self.home), request(PLAN, 1))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("people")
    Archive(place)
    return place


@pytest.fixture
def archive(template: Path, tmp_path: Path) -> Archive:
    shutil.copytree(template, tmp_path / "copy")
    again = Archive.__new__(Archive)
    again.folder, again.home = tmp_path / "copy" / "in", tmp_path / "copy" / "home"
    return again


def old(name: str) -> str:
    """An id that is the smaller key of the two, so that a merge would keep the patient under it."""
    mine = patient_key(bytes(range(32)), name)
    return next(new for i in range(1000) if patient_key(bytes(range(32)), new := f"OLD{i}-{name}") < mine)


CHANGES: dict[str, Callable[[Archive], None]] = {
    "a line in merges.csv": lambda a: a.merge(*(f"{name},{old(name)}" for name in NAMES)),
    "an issuer that the archive begins to send": lambda a: a.rename(issuer="HOSP"),
    "an id spelt as an HL7 CX": lambda a: a.rename(lambda name: f"{name}^^^HOSP"),
    "a new id, and a line that says so": lambda a: (
        a.rename(lambda name: f"N{name}"), a.merge(*(f"N{name},{name}" for name in NAMES)))[0],
    "an issuer's other case": lambda a: (a.rename(issuer="HOSP"), a.ingest(), a.rename(issuer=" hosp "))[0],
    "a line in merges.csv that is taken back": lambda a: (
        a.merge(*(f"{name},{old(name)}" for name in NAMES)), a.ingest(), a.merge())[0],
    "an issuer that comes and goes": lambda a: (a.rename(issuer="HOSP"), a.ingest(), a.rename())[0],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("trained", [False, True])
def test_who_is_set_aside_stays_so_whatever_the_ids_become(archive: Archive, change: str, *, trained: bool) -> None:
    before = archive.split()
    assert min(map(len, before)) >= 3
    if trained:
        archive.train()
    CHANGES[change](archive)
    archive.ingest()
    assert archive.split() == before


def test_the_old_id_that_was_merged_stays_with_the_person_when_the_line_is_taken_back(archive: Archive) -> None:
    train, apart = archive.split()
    inside, outside = min(train), min(apart)
    archive.merge(f"{outside},LATER1", f"{inside},LATER2")
    archive.ingest()
    archive.merge()
    archive.put("LATER1", 901)
    archive.put("LATER2", 902)
    archive.ingest()
    now = archive.split()
    assert "LATER1" in now[1]
    assert "LATER2" in now[0]


def test_two_ids_of_one_person_of_whom_one_was_set_aside_and_one_trained_leave_that_plan(archive: Archive) -> None:
    train, apart = archive.split()
    archive.train()
    archive.merge(f"{min(train)},{min(apart)}")
    archive.ingest()
    assert archive.split() == (train - {min(train)}, apart - {min(apart)})
    other = StudyPlan.parse(f'name = "other"\n[data]\nimage_size = 28\n[evaluation]\nheld_out_share = {SHARE}\n')
    trains, held = Site.open(archive.home).cohorts(other)
    assert len(train) - 1 == trains.patients
    assert len(apart) == held.patients  # one who never trained in it is set aside there, by either id


def test_one_who_was_set_aside_before_any_round_takes_the_joined_person_with_him(archive: Archive) -> None:
    train, apart = archive.split()
    archive.merge(f"{min(train)},{min(apart)}")
    archive.ingest()
    assert archive.split() == (train - {min(train)}, apart | {min(train)})


def test_a_new_patient_is_drawn_by_its_own_key_and_nobody_moves(archive: Archive) -> None:
    train, apart = archive.split()
    secret = site_secret(archive.home)
    for number in range(6):
        archive.put(f"NEW{number}", 800 + number, issuer="HOSP")
    archive.ingest()
    expected = {f"NEW{i}" for i in range(6) if is_held_out(secret, patient_key(secret, f"NEW{i}", "HOSP"), SHARE)}
    assert 0 < len(expected) < 6
    assert archive.split() == (train | {f"NEW{i}" for i in range(6)} - expected, apart | expected)


def without_memory(home: Path) -> None:
    """Make the home what an earlier version left: no memory of anybody, and a record without the newer columns."""
    (home / PEOPLE_FILE).unlink()
    (index,) = (home / "cache").glob("*/index.json")
    plain = json.loads(index.read_bytes())
    del plain["remembered"]
    raw = json.dumps(plain, sort_keys=True).encode()
    index.write_bytes(raw)
    name = generation_name(raw)
    index.parent.rename(index.parent.with_name(name))
    (home / "cache" / "CURRENT").write_text(name)
    shutil.rmtree(home / "cache" / "forms")
    (path,) = (home / "admission").glob("*.json")
    record = json.loads(path.read_bytes())
    shutil.rmtree(home / "admission")
    columns = record.pop("columns")
    record |= {"schema": 1, "generation": name, "reading": "of an older version"}
    del record["concerns"]
    kept = [columns.index(column) for column in columns if column not in
            ("content", "second", "was", "loose", "born", "sex", "doubts")]  # fmt: skip
    record["records"] = [[row[i] for i in kept] for row in record["records"]]
    (home / "admission.json").write_text(json.dumps(record))


@pytest.mark.parametrize("change", CHANGES)
def test_a_home_from_before_there_was_a_memory_opens_as_it_is_and_goes_on_as_it_was(
    archive: Archive, change: str
) -> None:
    without_memory(archive.home)
    before = archive.split()
    CHANGES[change](archive)
    archive.ingest()
    assert archive.split() == before


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_memory_that_is_lost_stops_the_site_and_is_not_made_anew(archive: Archive, how: str) -> None:
    path = archive.home / PEOPLE_FILE
    assert path.stat().st_mode & 0o077 == 0
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    archive.put("NEW", 700)
    for use in (lambda: archive.split(), archive.ingest, archive.train,
                lambda: consent.withdraw(archive.home, archive.ledger(), "P1")):  # fmt: skip
        with pytest.raises(StateError, match=r"people\.json"):
            use()
    assert how == "damaged" or not path.exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_withdrawal_follows_the_person_whatever_the_ids_become(archive: Archive, change: str) -> None:
    assert consent.withdraw(archive.home, archive.ledger(), "P3").known
    everybody = set(NAMES) - {"P3"}
    assert archive.cohort() == everybody
    CHANGES[change](archive)
    archive.ingest()
    assert archive.cohort() == everybody


def test_a_withdrawal_under_any_id_of_a_group_takes_the_whole_group_out_for_good(archive: Archive) -> None:
    archive.merge("P1,P2", "P2,P3", "P3,GONE")
    archive.ingest()
    assert consent.withdraw(archive.home, archive.ledger(), "P2").known
    archive.merge()
    archive.put("GONE", 600)
    archive.ingest()
    assert archive.cohort() == set(NAMES) - {"P1", "P2", "P3"}


def test_a_withdrawal_before_the_merge_takes_the_other_id_along_even_when_the_first_ones_files_are_gone(
    archive: Archive,
) -> None:
    consent.withdraw(archive.home, archive.ledger(), "P1")
    archive.merge("P1,P2")
    (archive.folder / "P1.dcm").unlink()
    archive.ingest()
    assert archive.cohort() == set(NAMES) - {"P1", "P2"}
    archive.merge()
    archive.ingest()
    assert archive.cohort() == set(NAMES) - {"P1", "P2"}


def test_a_withdrawal_with_an_issuer_holds_when_the_files_name_none_later_and_only_for_that_issuer(
    archive: Archive,
) -> None:
    archive.put("A", 501, patient="77", issuer="A")
    archive.put("B", 502, patient="77", issuer="B")
    archive.ingest()
    assert consent.withdraw(archive.home, archive.ledger(), "77", issuer="a").known
    assert archive.cohort() == {*NAMES, "B"}
    archive.put("A", 501, patient="77")
    (archive.folder / "B.dcm").unlink()
    archive.ingest()
    assert archive.cohort() == set(NAMES)


def test_a_withdrawal_of_somebody_never_met_holds_whatever_issuer_comes(archive: Archive) -> None:
    assert not consent.withdraw(archive.home, archive.ledger(), "88", issuer="HOSP").known
    archive.put("X", 503, patient="88")
    archive.ingest()
    assert archive.cohort() == set(NAMES)


def test_a_patient_who_left_is_known_by_the_id_alone_and_needs_no_issuer(archive: Archive) -> None:
    archive.put("A", 501, patient="77", issuer="A")
    archive.ingest()
    archive.train()
    (archive.folder / "A.dcm").unlink()
    archive.ingest()
    train_keys = archive.ledger().cohorts()
    known = consent.withdraw(archive.home, archive.ledger(), "77").known
    key = patient_key(site_secret(archive.home), "77", "A")
    assert known is any(key in members for members in train_keys.values())
    assert key in archive.ledger().withdrawn()
    assert not consent.withdraw(archive.home, archive.ledger(), "unheard-of").known


def test_what_is_remembered_survives_a_round_trip_and_knows_ids_apart(tmp_path: Path) -> None:
    people = People().learn([Person(key="a", ids={"a": "x", "b": "y"}, was=frozenset({"o"}))])
    people = people.learn([Person(key="c", ids={"c": "x"}), Person(key="z", ids={"z": "z"})])
    people.save(tmp_path)
    again = People.load(tmp_path)
    assert again == people
    assert again.draws("b") == {"a"}
    assert again.names("b") == {"a", "b", "o", "x", "y"}
    assert again.draws("c") == {"c"}  # two issuers' patients of one id are two
    assert again.of_id("x") == {"a", "c"}
    assert (again.draws("never met"), again.kin("never met")) == ({"never met"}, {"never met"})


def test_who_was_known_by_a_key_of_an_earlier_version_is_drawn_as_then() -> None:
    before = People().learn([Person(key="old", ids={"old": "old"})])
    now = before.learn([Person(key="new", ids={"new": "bare"}, was=frozenset({"old"}))])
    assert now.draws("new") == {"old"}


def test_who_was_judged_by_and_did_not_train_has_not_trained(tmp_path: Path) -> None:
    """Otherwise a verdict would make patients who are held out look like ones who trained."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.reserve(booked("sgd", "trained"), permit=lambda _: None)
    ledger.reserve(booked(VERDICT, "held out"), permit=lambda _: None)
    assert trained_in(ledger, "plan") == {"trained"}


def booked(phase: str, patient: str) -> Entry:
    event = GaussianEvent(sigma=1.0, sample_rate=1.0, steps=1)
    return Entry(study="s", plan="plan", round=1, phase=phase, event=event, cohort=phase, patients=(patient,))
