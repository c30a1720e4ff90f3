"""One rule for who is who (docs/admission.md): what is one patient, what is two, what the steward is told."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset

from client.admission.doubts import Doubt
from client.admission.ingest import IngestSettings, ingest
from client.admission.overview import look, write_page
from client.admission.records import Admission, IngestSummary
from client.cli.site import site
from client.cohort.cache import Cache
from client.cohort.identity import Keys
from client.cohort.patient_ids import PatientId
from common.errors import DataError, LabelsError
from tests.client.scans import save, scan, write_labels

SETTINGS = IngestSettings(image_size=28)


def admitted(folder: Path, *scans: Dataset, merges: str = "") -> IngestSummary:
    """Ingest these scans, one file each."""
    for number, dataset in enumerate(scans):
        save(dataset, folder / "in" / f"{number}.dcm")
    if merges:
        (folder / "in" / "merges.csv").write_text(f"patient_id,same_as\n{merges}\n")
    return ingest(folder / "in", folder / "home", SETTINGS, workers=1)


def people(*ids: tuple[str, str]) -> list[Dataset]:
    """One scan for each (PatientID, IssuerOfPatientID)."""
    return [
        scan(seed=seed, patient=patient, **({"IssuerOfPatientID": issuer} if issuer else {}))
        for seed, (patient, issuer) in enumerate(ids, start=1)
    ]


@pytest.mark.parametrize(
    ("ids", "patients", "told"),
    [
        ([("4711", ""), ("4711", "HOSP")], 1, {"issuer_missing": 1}),
        ([("4711", "HOSP"), ("4711", " hosp ")], 1, {}),
        ([("4711", "A B"), ("4711", "a  b")], 1, {}),
        ([("4711", "HOSP"), ("4711^^^HOSP", "")], 1, {}),
        ([("4711^^^HOSP&1.2.3&ISO^MR", ""), ("4711", "HOSP")], 1, {}),
        ([("4711^^^HOSP", ""), ("4711", "")], 1, {"issuer_missing": 1}),
        ([("4711^^^HOSP", "X"), ("4711", "X"), ("4711", "HOSP")], 1, {"two_issuers": 1}),
        ([("4711", "A"), ("4711", "B")], 2, {}),
        ([("4711", "A"), ("4711", "B"), ("4711", "")], 1, {"issuers_joined": 1}),
        ([("DOE^JOHN^M^DR", ""), ("DOE^JANE^F^DR", "")], 2, {}),
        ([("abc", ""), ("ABC", ""), ("A-BC", "")], 3, {"alike_ids": 3}),
        ([("0012", ""), ("12", "")], 2, {"alike_ids": 2}),
        ([("ANONYMOUS", ""), ("0", ""), ("P1", "")], 3, {"placeholder_id": 2}),
    ],
)
def test_who_is_one_patient_and_what_the_steward_is_told(
    tmp_path: Path, ids: list[tuple[str, str]], patients: int, told: dict[str, int]
) -> None:
    summary = admitted(tmp_path, *people(*ids))
    assert (summary.admitted, summary.patients, summary.doubts) == (len(ids), patients, told)
    again = ingest(tmp_path / "in", tmp_path / "home", SETTINGS, workers=1)
    assert (again.reused, again.doubts) == (len(ids), told)


@pytest.mark.parametrize(("keyword", "values"), [("PatientBirthDate", ("19500101", "19610203")),
                                                 ("PatientSex", ("M", "F"))])  # fmt: skip
def test_one_id_with_several_birth_dates_or_sexes_is_told(
    tmp_path: Path, keyword: str, values: tuple[str, str]
) -> None:
    scans = [scan(seed=seed, patient="77", **{keyword: value}) for seed, value in enumerate(values, start=1)]
    summary = admitted(tmp_path, *scans, scan(seed=9, patient="78", **{keyword: values[0]}))
    assert (summary.patients, summary.doubts) == (2, {"several_people": 1})
    record = Admission.load(tmp_path / "home")
    assert record is not None
    assert record.concerns[Doubt.SEVERAL_PEOPLE].files == ("0.dcm", "1.dcm")
    assert not [path for path in (tmp_path / "home").rglob("*.json") if values[0].encode() in path.read_bytes()]


def test_ids_that_are_no_text_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    scans = people(("MXller", ""), ("MYller", ""), ("MXller", ""))
    for number, dataset in enumerate(scans):
        dataset.SpecificCharacterSet = "ISO_IR 192"
        path = save(dataset, tmp_path / "in" / f"{number}.dcm")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"MXller", b"M\xfcller").replace(b"MYller", b"M\xf6ller"))
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS, workers=1)
    assert (summary.patients, summary.doubts) == (2, {"undecodable_id": 2})


def test_an_id_whose_letters_were_lost_before_is_refused_as_it_may_be_of_two_people(tmp_path: Path) -> None:
    scans = people(("M\ufffdller7", ""), ("M\ufffdller7", ""), ("P1", ""))
    for dataset in scans:
        dataset.SpecificCharacterSet = "ISO_IR 192"
    summary = admitted(tmp_path, *scans)
    assert (summary.admitted, summary.patients, summary.reasons) == (1, 1, {"damaged_patient_id": 2})


def test_a_merge_of_an_id_that_two_issuers_gave_is_refused_by_its_line(tmp_path: Path) -> None:
    both = people(("4711", "A"), ("4711", "B"), ("4712", ""))
    with pytest.raises(DataError, match="line 3") as caught:
        admitted(tmp_path, *both, merges="1,2\n4711,4712")
    assert "4711" not in str(caught.value)
    assert not (tmp_path / "home" / "cache" / "CURRENT").exists()
    assert admitted(tmp_path, *both, merges="4711^^^A,4712").patients == 2
    assert admitted(tmp_path, *both, merges="4711^^^A,4711^^^b").patients == 2
    assert admitted(tmp_path, *both, merges="4711^^^A,4712\n4711^^^B,4712").patients == 1


def test_a_merge_of_an_id_that_one_issuer_gave_needs_no_issuer(tmp_path: Path) -> None:
    assert admitted(tmp_path, *people(("4711", "A"), ("4712", "A"), ("4713", "")), merges="4711,4712").patients == 2


def test_labels_follow_the_same_rule(tmp_path: Path) -> None:
    settings = IngestSettings(image_size=28, labels=("no", "yes"))
    for number, dataset in enumerate(people(("4711", "HOSP"), ("4711", ""), ("17", "A"), ("17", "B"))):
        save(dataset, tmp_path / "in" / f"{number}.dcm")
    write_labels(tmp_path / "in", "4711,,no", "17,,yes")
    with pytest.raises(LabelsError, match=r"two issuers.*line 3"):
        ingest(tmp_path / "in", tmp_path / "home", settings, workers=1)
    write_labels(tmp_path / "in", "4711^^^hosp,,no", "4711,,no", "17^^^A,,yes", "17^^^B,,no")
    summary = ingest(tmp_path / "in", tmp_path / "home", settings, workers=1)
    assert (summary.admitted, summary.patients) == (4, 3)


def test_the_files_of_one_person_part_and_join_nobody_else(tmp_path: Path) -> None:
    """Add any one person's files to the others': the others stay the persons that they were."""
    ids = [("1", "A"), ("1", "B"), ("2", "A"), ("2", ""), ("2", "B"), ("3^^^A", ""), ("3^^^A", "B"), ("4", "")]
    scans = people(*ids)

    def groups(where: Path, which: list[int]) -> set[frozenset[str]]:
        for number in which:
            save(scans[number], where / "in" / f"{number}.dcm")
        ingest(where / "in", where / "home", SETTINGS, workers=1)
        cached = Admission.load(where / "home")
        assert cached is not None
        starts = {record.name: record.first for record in cached.records}
        return _grouped(where / "home", starts)

    whole = groups(tmp_path / "all", list(range(len(ids))))
    assert whole == {
        frozenset({"0.dcm"}), frozenset({"1.dcm"}), frozenset({"2.dcm", "3.dcm", "4.dcm"}),
        frozenset({"5.dcm", "6.dcm"}), frozenset({"7.dcm"}),
    }  # fmt: skip
    for person in whole:
        rest = [number for number in range(len(ids)) if f"{number}.dcm" not in person]
        assert groups(tmp_path / min(person), rest) == whole - {person}


def _grouped(home: Path, starts: dict[str, int]) -> set[frozenset[str]]:
    cache = Cache.open(home)
    return {
        frozenset(name for name, first in starts.items() if first in cache.patient_rows(i))
        for i in range(cache.patients)
    }


def test_a_sop_uid_of_two_patients_takes_nothing_from_either_and_waits_for_a_human(tmp_path: Path) -> None:
    clash = [scan(seed=seed, patient=f"P{seed}", SOPInstanceUID="1.2.3.4") for seed in range(4)]
    own = scan(seed=8, patient="P0", SOPInstanceUID="1.2.3.4")
    summary = admitted(tmp_path, *clash, own)
    assert (summary.admitted, summary.patients) == (4, 4)
    assert (summary.reasons, summary.doubts) == ({"duplicate": 1}, {"uid_clash": 4})
    run = CliRunner().invoke(site, ["quarantine", "list", "--home", str(tmp_path / "home")])
    assert run.output.count("uid") + run.output.count("UID") >= 4
    run = CliRunner().invoke(site, ["quarantine", "drop", "--all", "--home", str(tmp_path / "home")])
    assert run.exit_code == 0, run.output
    dropped = ingest(tmp_path / "in", tmp_path / "home", SETTINGS, workers=1)
    assert (dropped.admitted, dropped.reasons) == (1, {"dropped": 4})  # its own twin takes the place of P0's
    (tmp_path / "home" / "quarantine.json").unlink()
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS, workers=1).admitted == 4


def test_a_human_who_has_seen_a_clash_admits_it_and_it_is_told_no_more(tmp_path: Path) -> None:
    admitted(tmp_path, *(scan(seed=seed, patient=f"P{seed}", SOPInstanceUID="1.2.3.4") for seed in range(2)))
    assert CliRunner().invoke(site, ["quarantine", "admit", "--all", "--home", str(tmp_path / "home")]).exit_code == 0
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS, workers=1)
    assert (summary.admitted, summary.doubts) == (2, {})


def test_a_picture_of_two_patients_counts_for_both_and_waits_for_a_human(tmp_path: Path) -> None:
    summary = admitted(tmp_path, *(scan(seed=1, patient=name, SOPInstanceUID=f"1.2.{name}") for name in ("1", "2")))
    assert (summary.admitted, summary.patients, summary.reasons) == (2, 2, {})
    assert summary.doubts == {"shared_picture": 2}
    home = ["--home", str(tmp_path / "home")]
    assert CliRunner().invoke(site, ["quarantine", "list", *home, "--json"]).output.count("shared_picture") == 2
    assert CliRunner().invoke(site, ["quarantine", "admit", "--all", *home]).exit_code == 0
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS, workers=1).doubts == {}


def test_the_steward_sees_the_doubts_at_ingest_in_the_overview_and_on_its_page(tmp_path: Path) -> None:
    admitted(tmp_path, *people(("4711", ""), ("4711", "HOSP"), ("ANONYMOUS", "")))
    home = str(tmp_path / "home")
    said = CliRunner().invoke(site, ["ingest", str(tmp_path / "in"), "--home", home]).output
    seen = CliRunner().invoke(site, ["inspect", "--home", home]).output
    write_page(look(tmp_path / "home"), tmp_path / "home", tmp_path / "page.html")
    for text in (said, seen, (tmp_path / "page.html").read_text()):
        assert "issuer_missing" in text
        assert "placeholder_id" in text
    assert look(tmp_path / "home").to_dict()["doubts"] == {"issuer_missing": 1, "placeholder_id": 1}


def test_keys_of_earlier_versions_are_kept_where_the_rule_changed_them() -> None:
    secret = bytes(32)
    assert Keys.read(secret, "4711", "HOSP").was == ()
    assert Keys.read(secret, "4711").was == ()
    assert len(Keys.read(secret, "4711", "Hosp").was) == 1
    assert len(Keys.read(secret, "4711^^^HOSP", "Hosp").was) == 2
    assert PatientId.read("^^^HOSP").id == ""
