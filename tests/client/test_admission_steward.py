"""What the steward sees and decides: quarantine, the overview, inclusion by plan, durability."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom.uid import BasicTextSRStorage, SecondaryCaptureImageStorage, UltrasoundImageStorage

from client.admission.doubts import TOLD, Doubt
from client.admission.ingest import IngestSettings, ingest
from client.admission.overview import look, write_page
from client.admission.persons import Persons
from client.admission.quarantine import QUARANTINE_FILE
from client.admission.reasons import EXPLAINED, Reason
from client.admission.records import FileRecord
from client.cli.site import site
from client.cohort.cache import Cache
from client.cohort.identity import Merges, cohort_identity, patient_key, site_secret
from client.dicom.text_finder import identifies
from client.ledger.ledger import Ledger
from common.errors import CacheMissing, DataError, StateError
from common.plan.study_plan import StudyPlan
from tests.benchmarks.kill_ingest import run
from tests.client.scans import cohort, save, scan, write_labels

SETTINGS = IngestSettings(image_size=32)


def wardround(*arguments: str, home: Path) -> dict[str, object]:
    result = CliRunner().invoke(site, [*arguments, "--home", str(home), "--json"])
    assert result.exit_code == 0, result.output
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A home with two patients, one of whom has two pictures in quarantine."""
    cohort(tmp_path / "in", patients=1, images=1)
    for seed in (7, 8):
        save(scan(seed=seed, patient="US", BurnedInAnnotation="YES"), tmp_path / "in" / f"us{seed}.dcm")
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).quarantined == 2
    return tmp_path / "home"


def test_a_human_lets_a_picture_in_and_another_stays_out(waiting: Path) -> None:
    rows = wardround("quarantine", "list", home=waiting)["waiting"]
    assert isinstance(rows, list)
    ids = {row["file"]: row["id"] for row in rows}
    assert sorted(ids) == ["us7.dcm", "us8.dcm"]
    picture = Path(str(wardround("quarantine", "show", ids["us7.dcm"], home=waiting)["picture"]))
    assert np.asarray(Image.open(picture)).shape == (40, 48)
    assert picture.stat().st_mode & 0o077 == 0
    wardround("quarantine", "admit", ids["us7.dcm"], home=waiting)
    wardround("quarantine", "drop", ids["us8.dcm"], home=waiting)
    summary = ingest(waiting.parent / "in", waiting, SETTINGS)
    assert (summary.admitted, summary.patients, summary.reasons) == (2, 2, {"dropped": 1})
    assert summary.reused == 1
    assert wardround("quarantine", "list", home=waiting) == {"waiting": []}
    again = ingest(waiting.parent / "in", waiting, SETTINGS)
    assert (again.reused, again.admitted) == (3, 2)


def test_a_decision_is_about_the_bytes_and_not_the_name(waiting: Path) -> None:
    wardround("quarantine", "admit", "--all", home=waiting)
    save(scan(seed=9, patient="US", BurnedInAnnotation="YES"), waiting.parent / "in" / "us7.dcm")
    summary = ingest(waiting.parent / "in", waiting, SETTINGS)
    assert (summary.admitted, summary.quarantined) == (2, 1)


def test_a_decision_taken_back_takes_the_picture_out(waiting: Path) -> None:
    wardround("quarantine", "admit", "--all", home=waiting)
    assert ingest(waiting.parent / "in", waiting, SETTINGS).admitted == 3
    (waiting / QUARANTINE_FILE).unlink()
    summary = ingest(waiting.parent / "in", waiting, SETTINGS)
    assert (summary.admitted, summary.quarantined) == (1, 2)


def test_a_damaged_decision_file_lets_nothing_in(waiting: Path) -> None:
    for text in ("{", '{"schema": 1, "taken": {"a": {"decision": "maybe"}}}', '{"schema": 2, "taken": {}}'):
        (waiting / QUARANTINE_FILE).write_text(text)
        with pytest.raises(StateError, match=r"quarantine\.json"):
            ingest(waiting.parent / "in", waiting, SETTINGS)


def test_unknown_or_ambiguous_ids_are_refused(waiting: Path) -> None:
    for arguments in (["admit", "zz"], ["show", ""], ["admit"], ["drop", "zz", "--all"]):
        result = CliRunner().invoke(site, ["quarantine", *arguments, "--home", str(waiting)])
        assert result.exit_code in (2, DataError.exit_code)
    assert not (waiting / QUARANTINE_FILE).exists()


@pytest.mark.parametrize(
    ("values", "settings", "reason"),
    [
        ({"Modality": "MR"}, {"modality": ("CT", "CR")}, "wrong_modality"),
        ({"BodyPartExamined": "HEAD"}, {"body_parts": ("CHEST",)}, "wrong_body_part"),
        ({}, {"body_parts": ("CHEST",)}, "wrong_body_part"),
        ({"ViewPosition": "LL"}, {"views": ("PA", "AP")}, "wrong_view"),
        ({}, {"min_side": 41}, "too_small"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, {}, "secondary_capture"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, {}, "secondary_capture"),
        ({"SyntheticData": "YES"}, {}, "synthetic"),
        ({"SOPClassUID": "1.2.3.4"}, {}, "unsupported_object"),
        ({"SOPClassUID": BasicTextSRStorage, "PixelData": None}, {}, "unsupported_object"),
        ({"PixelData": None, "Rows": None}, {}, "no_pixels"),
        ({"SOPClassUID": UltrasoundImageStorage, "Modality": "US"}, {}, "burned_in"),
        ({"ConversionType": "DF"}, {}, "burned_in"),
        ({"Manufacturer": "Vidar Systems"}, {}, "burned_in"),
        ({"BurnedInAnnotation": "YES"}, {}, "burned_in"),
    ],
)
def test_what_the_plan_does_not_want_or_a_human_must_see_is_left_out(
    tmp_path: Path, values: dict[str, object], settings: dict[str, object], reason: str
) -> None:
    good = {"BodyPartExamined": "CHEST", "ViewPosition": "PA"}
    save(scan(np.tile(np.arange(64, dtype=np.uint16), (64, 1)), seed=1, **good), tmp_path / "in" / "good.dcm")
    save(scan(seed=2, **values), tmp_path / "in" / "bad.dcm")
    summary = ingest(tmp_path / "in", tmp_path / "home", IngestSettings(image_size=32, **settings))  # type: ignore[arg-type]
    assert summary.refusals == [("bad.dcm", reason)]


def test_derived_slices_are_images_like_others(tmp_path: Path) -> None:
    save(scan(seed=1, ImageType=["DERIVED", "SECONDARY", "MPR"]), tmp_path / "in" / "a.dcm")
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).admitted == 1


def test_overview_counts_the_cohort_and_compares_it_with_the_plan(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=3)
    (tmp_path / "in" / "<b>note.txt").write_text("a")
    write_labels(tmp_path / "in", "P0,,no", "P1,,no", "P2,,no")
    text = 'name = "s"\n[data]\nimage_size = 32\nmodality = ["CT"]\nlabels = ["no", "yes"]\nmin_patients = 4\n'
    (tmp_path / "plan.toml").write_text(text)
    plan = StudyPlan.parse(text)
    ingest(tmp_path / "in", tmp_path / "home", IngestSettings.from_plan(plan))
    view = look(tmp_path / "home", plan)
    tables = dict(view.tables)
    assert (view.patients, view.images, view.files) == (3, 6, 7)
    assert tables["files by modality"] == {"CT": 6}
    assert tables["patients by images"] == {"2": 3}
    assert tables["patients by label"] == {"no": 3}
    assert [demand.met for demand in view.demands] == [False, True, True, True, False]
    assert "note" not in json.dumps(view.to_dict())
    write_page(view, tmp_path / "home", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;note.txt" in page
    assert "<b>note" not in page
    assert (tmp_path / "page.html").stat().st_mode & 0o077 == 0
    plan_file = str(tmp_path / "plan.toml")
    assert wardround("inspect", "--plan", plan_file, home=tmp_path / "home")["patients"] == 3
    spoken = CliRunner().invoke(site, ["inspect", "--home", str(tmp_path / "home"), "--plan", plan_file])
    assert "at least 4 patients" in spoken.output


def test_overview_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CacheMissing, match="ingest"):
        look(tmp_path)


def test_every_reason_is_explained() -> None:
    assert set(EXPLAINED) == set(Reason)


def test_the_secret_is_private_made_once_and_checked(tmp_path: Path) -> None:
    secret = site_secret(tmp_path / "home")
    assert len(secret) == 32
    assert site_secret(tmp_path / "home") == secret
    assert (tmp_path / "home" / "secret.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "home" / "secret.key").write_bytes(b"short")
    with pytest.raises(StateError, match="32 bytes"):
        site_secret(tmp_path / "home")


def test_another_secret_in_the_place_of_the_first_is_noticed(tmp_path: Path) -> None:
    first = site_secret(tmp_path)
    (tmp_path / "secret.key").write_bytes(bytes(32))
    with pytest.raises(StateError, match="not the secret this home was used with"):
        site_secret(tmp_path)
    (tmp_path / "secret.key").write_bytes(first)
    assert site_secret(tmp_path) == first
    assert (tmp_path / "secret.check").stat().st_mode & 0o777 == 0o600
    assert first.hex() not in (tmp_path / "secret.check").read_text()


@pytest.mark.parametrize("kept", ["the ledger", "the commitment", "the ledger's seal"])
def test_a_lost_secret_is_not_replaced_in_a_home_that_was_used_with_it(tmp_path: Path, kept: str) -> None:
    site_secret(tmp_path)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    if kept != "the commitment":
        ledger.withdraw(["k"])
        (tmp_path / "secret.check").unlink()
    if kept == "the ledger's seal":
        (tmp_path / "ledger.sqlite").unlink()
    (tmp_path / "secret.key").unlink()
    for _ in range(2):
        with pytest.raises(StateError, match=r"is gone\b"):
            site_secret(tmp_path)
        assert not (tmp_path / "secret.key").exists()


def test_a_home_from_before_the_commitment_goes_on_and_gets_one(tmp_path: Path) -> None:
    first = site_secret(tmp_path)
    Ledger(tmp_path / "ledger.sqlite").withdraw(["k"])
    (tmp_path / "secret.check").unlink()
    assert site_secret(tmp_path) == first
    (tmp_path / "secret.key").write_bytes(bytes(32))
    with pytest.raises(StateError, match="not the secret"):
        site_secret(tmp_path)


def test_keys_say_nothing_without_the_secret_and_the_identity_follows_the_cohort() -> None:
    one, other = bytes(32), bytes([1]) * 32
    assert patient_key(one, "P1") == patient_key(one, " P1 ") != patient_key(other, "P1")
    assert patient_key(one, "P1", "A") != patient_key(one, "P1") != patient_key(one, "P1A")
    assert cohort_identity(one, ["b", "a"]) == cohort_identity(one, ["a", "b"]) != cohort_identity(one, ["a"])


def test_merges_form_chains(tmp_path: Path) -> None:
    (tmp_path / "merges.csv").write_text("patient_id,same_as\nb,a\nd,c\nc,b\n")
    merges = Merges.read(tmp_path / "merges.csv", bytes(32))
    keys = {name: patient_key(bytes(32), name) for name in "abcdx"}
    records = [FileRecord(name=name, stamp=(0, 0, 0, 0), bare=key, full=key) for name, key in keys.items()]
    persons = Persons(records, merges)
    assert {persons.key(record) for record in records[:4]} == {min(keys[name] for name in "abcd")}
    assert persons.key(records[4]) == keys["x"]
    (tmp_path / "merges.csv").write_text("patient_id,same_as\nonly-one,\n")
    with pytest.raises(DataError, match="line 2"):
        Merges.read(tmp_path / "merges.csv", bytes(32))
    (tmp_path / "merges.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="first line"):
        Merges.read(tmp_path / "merges.csv", bytes(32))


@pytest.mark.parametrize(
    ("text", "suspect"),
    [
        ("MEYER^ANNA", True), ("12.03.1961", True), ("00047431395", True), ("5/25/2011", True), ("L", False),
        ("PA", False), ("R 12", False), ("Bettaufnahme", False), ("liegeed", False), ("SUPINE", False),
        ("semi-erect", False),
    ],
)  # fmt: skip
def test_words_that_may_identify_are_told_from_markers(text: str, *, suspect: bool) -> None:
    assert identifies(text) is suspect


def test_kill_at_random_points_leaves_the_old_cache_or_the_new_one() -> None:
    counts = run(points=8, seed=1)
    assert counts["equal after the re-run"] == 8
    assert not {"DIFFERENT", "WRONG"} & set(counts)
    assert not counts.get("LOST")
    assert counts.get("killed at an event")


def test_patient_whose_files_vanish_leaves_and_the_identity_changes(tmp_path: Path) -> None:
    files = cohort(tmp_path / "in", patients=2)
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    before = Cache.open(tmp_path / "home").identity
    for path in files[2:]:
        path.unlink()
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).patients == 1
    assert Cache.open(tmp_path / "home").identity != before


def test_every_reason_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "admission.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def test_every_doubt_is_explained_and_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "admission.md").read_text()
    assert [doubt for doubt in Doubt if f"`{doubt}`" not in text or doubt not in TOLD] == []
