"""A pull is resumable, keeps whole studies only, and one bad study does not stop the others."""

import os
import sqlite3
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from client.pacs.inbox import StudyInbox, read_identity
from client.pacs.job import WORK_FOLDER, PullFolder, find_studies, pull_studies, summarise, tally
from client.pacs.study import (
    AnnouncedInstance,
    AnnouncedStudy,
    PacsAnswerInvalid,
    PacsOverCap,
    PacsRefused,
    PacsUnreachable,
    PullLimits,
    StudyIncomplete,
    StudyQuery,
    checked_ae_title,
    hashed,
)
from common.errors import OutputInUse, SourceError, StateError
from tests.client.pacs_bench import SHORT, Studies, make_studies, names, pulled, write_image


class Shelf:
    """A source that reads the studies from disk; `before` may raise, given study, object number and try."""

    def __init__(self, studies: Studies, before=lambda study, number, attempt: None) -> None:
        self.studies, self.before, self.handed, self.tries = studies, before, Counter(), Counter()

    def find(self, query: StudyQuery) -> list[AnnouncedStudy]:
        return [AnnouncedStudy(uid=uid, instances=len(objects)) for uid, objects in self.studies.items()]

    def fetch(self, study: AnnouncedStudy, inbox: StudyInbox) -> None:
        self.tries[study.uid] += 1
        objects = self.studies[study.uid]
        inbox.expect([AnnouncedInstance(series="1.2", sop=sop) for sop in objects])
        for number, (sop, path) in enumerate(objects.items()):
            if not inbox.holds(sop):
                self.before(study.uid, number, self.tries[study.uid])
                inbox.accept(path.read_bytes())
                self.handed[sop] += 1


@pytest.fixture
def studies(tmp_path):
    return make_studies(tmp_path / "source")


def pull(source, folder, *, limits=SHORT):
    with PullFolder(folder) as place:
        return list(pull_studies(source, find_studies(source, StudyQuery(), limits=limits), place, limits=limits))


def test_numbers_of_a_pull_add_up(tmp_path, studies):
    outcomes = pull(Shelf(studies), tmp_path / "to")
    numbers: Counter[str] = Counter()
    for outcome in outcomes:
        tally(numbers, outcome)
    size = sum(path.stat().st_size for objects in studies.values() for path in objects.values())
    assert summarise(numbers, studies=6) == {
        "studies": 6,
        "done": 6,
        "failed": 0,
        "skipped": 0,
        "instances": 18,
        "bytes": size,
    }


def test_process_that_dies_leaves_no_half_study_and_nothing_is_handed_twice(tmp_path, studies):
    third = list(studies)[2]

    def die(study, number, attempt):
        if (study, number) == (third, 2):
            raise KeyboardInterrupt

    first = Shelf(studies, die)
    with pytest.raises(KeyboardInterrupt):
        pull(first, tmp_path / "to")
    assert set(pulled(tmp_path / "to")) == {hashed(study) for study in list(studies)[:2]}
    second = Shelf(studies)
    outcomes = pull(second, tmp_path / "to")
    assert [outcome.skipped for outcome in outcomes] == [True, True, False, False, False, False]
    assert outcomes[2].instances == 1
    assert set((first.handed + second.handed).values()) == {1}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names(studies)


def test_half_written_object_of_a_killed_run_is_not_taken_for_whole(tmp_path, studies):
    study = next(iter(studies))
    folder = tmp_path / "to" / WORK_FOLDER / hashed(study)
    folder.mkdir(parents=True)
    (folder / "0123.part").write_bytes(b"half")
    pull(Shelf(studies), tmp_path / "to")
    assert set(pulled(tmp_path / "to")[hashed(study)]) == names(studies)[hashed(study)]


def test_crash_between_the_folder_and_its_record_counts_as_done(tmp_path, studies):
    pull(Shelf(studies), tmp_path / "to")
    with sqlite3.connect(tmp_path / "to" / WORK_FOLDER / "state.sqlite") as state:
        state.execute("DELETE FROM study")
    state.close()
    assert all(outcome.skipped for outcome in pull(Shelf(studies), tmp_path / "to"))


def test_study_that_was_moved_on_is_not_pulled_again(tmp_path, studies):
    pull(Shelf(studies), tmp_path / "to")
    (tmp_path / "to" / hashed(next(iter(studies)))).rename(tmp_path / "elsewhere")
    assert all(outcome.skipped for outcome in pull(Shelf(studies), tmp_path / "to"))


def test_bad_study_is_recorded_by_its_error_and_the_next_run_tries_it_again(tmp_path, studies):
    bad = list(studies)[1]

    def refuse(study, number, attempt):
        if study == bad:
            raise PacsRefused("no")

    outcomes = pull(Shelf(studies, refuse), tmp_path / "to")
    assert Counter(outcome.error for outcome in outcomes) == {"": 5, "PacsRefused": 1}
    with PullFolder(tmp_path / "to") as place:
        assert place.failures() == {"PacsRefused": 1}
    assert Counter(outcome.skipped for outcome in pull(Shelf(studies), tmp_path / "to")) == {True: 5, False: 1}
    with PullFolder(tmp_path / "to") as place:
        assert place.failures() == {}


def test_tries_are_counted_anew_when_something_came(tmp_path, studies):
    def flaky(study, number, attempt):
        if attempt <= number + 1:  # each try brings one object more
            raise PacsUnreachable("gone")

    one = dict([next(iter(studies.items()))])
    assert [
        outcome.error for outcome in pull(Shelf(one, flaky), tmp_path / "a", limits=replace(SHORT, attempts=2))
    ] == [""]

    def dead(study, number, attempt):
        raise PacsUnreachable("gone")

    source = Shelf(one, dead)
    assert [outcome.error for outcome in pull(source, tmp_path / "b", limits=replace(SHORT, attempts=3))] == [
        "PacsUnreachable"
    ]
    assert source.tries.total() == 3


def test_pacs_lost_for_three_studies_in_a_row_stops_the_pull(tmp_path, studies):
    def dead(study, number, attempt):
        raise PacsUnreachable("gone")

    source = Shelf(studies, dead)
    with pytest.raises(PacsUnreachable, match="3 studies in a row"):
        pull(source, tmp_path / "to", limits=replace(SHORT, attempts=1))
    assert source.tries.total() == 3


def test_full_disk_stops_the_pull_instead_of_failing_study_after_study(tmp_path, studies):
    source = Shelf(studies)
    with pytest.raises(StateError, match="left on the disk"):
        pull(source, tmp_path / "to", limits=replace(SHORT, free_bytes=2**60))
    assert source.tries.total() == 1


def test_second_process_on_the_same_folder_is_refused(tmp_path):
    with PullFolder(tmp_path / "to"), pytest.raises(OutputInUse):
        PullFolder(tmp_path / "to")
    PullFolder(tmp_path / "to").close()


def test_state_that_is_no_state_is_a_typed_error(tmp_path):
    work = tmp_path / "to" / WORK_FOLDER
    work.mkdir(parents=True)
    (work / "state.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateError, match=r"state\.sqlite"):
        PullFolder(tmp_path / "to")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        PullFolder(tmp_path / "file")


def test_files_are_for_their_owner_only(tmp_path, studies):
    before = os.umask(0)
    try:
        pull(Shelf(studies), tmp_path / "to")
    finally:
        os.umask(before)
    study = next(path for path in (tmp_path / "to").iterdir() if not path.name.startswith("."))
    assert stat.S_IMODE(study.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in study.iterdir()} == {0o600}


def inbox(tmp_path, study="1.2.3", **limits) -> StudyInbox:
    return StudyInbox(tmp_path / "inbox", study_uid=study, limits=replace(SHORT, **limits))


def test_object_sent_again_is_kept_once(tmp_path, studies):
    study, objects = next(iter(studies.items()))
    place = inbox(tmp_path, study)
    data = next(iter(objects.values())).read_bytes()
    place.accept(data)
    place.accept(data)
    assert (place.count, place.size, place.received) == (1, len(data), 1)
    assert [path.read_bytes() for path in place.folder.iterdir()] == [data]


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "no_meta.dcm", "README.txt", "rtplan.dump"])
def test_what_is_not_a_dicom_file_of_the_study_is_refused(tmp_path, name):
    place = inbox(tmp_path)
    with pytest.raises(PacsAnswerInvalid):
        place.accept(Path(get_testdata_file(name)).read_bytes())
    assert list(place.folder.iterdir()) == []


def test_deflated_object_is_refused_before_it_is_inflated(tmp_path):
    ds = dcmread(get_testdata_file("image_dfl.dcm"))
    assert ds.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    with pytest.raises(PacsAnswerInvalid, match="deflated"):
        inbox(tmp_path, str(ds.StudyInstanceUID)).accept(Path(get_testdata_file("image_dfl.dcm")).read_bytes())


def test_identity_is_read_from_the_files_of_the_field(tmp_path):
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "MR_small_bigendian.dcm", "rtplan.dcm"):
        ds = dcmread(get_testdata_file(name))
        identity = read_identity(Path(get_testdata_file(name)))
        assert (identity.study, identity.sop) == (ds.StudyInstanceUID, ds.SOPInstanceUID)


def test_every_truncation_of_a_file_is_a_typed_refusal_or_read_as_it_stands(tmp_path, studies):
    study, objects = next(iter(studies.items()))
    data = next(iter(objects.values())).read_bytes()
    path = tmp_path / "cut.dcm"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        try:
            assert study.startswith(read_identity(path).study)
        except PacsAnswerInvalid:
            continue


def test_nested_sequences_without_end_do_not_end_the_process(tmp_path):
    path = tmp_path / "deep.dcm"
    write_image(path, patient="P", study="1.2.3", series="1.2", number=1)
    raw = path.read_bytes()
    opening = bytes.fromhex("08001011") + b"SQ\0\0" + b"\xff\xff\xff\xff" + bytes.fromhex("feff00e0ffffffff")
    start = 144 + int.from_bytes(raw[140:144], "little")
    path.write_bytes(raw[:start] + opening * 20_000)
    with pytest.raises(PacsAnswerInvalid):
        read_identity(path)


def test_object_and_study_caps_hold(tmp_path, studies):
    study, objects = next(iter(studies.items()))
    sources = [path.read_bytes() for path in objects.values()]
    with pytest.raises(PacsOverCap, match="max-instance-mib"):
        inbox(tmp_path, study, instance_bytes=1000).accept(sources[0])
    place = inbox(tmp_path, study, study_bytes=len(sources[0]) + 1)
    place.accept(sources[0])
    with pytest.raises(PacsOverCap, match="max-study-mib"):
        place.accept(sources[1])
    place = inbox(tmp_path, study, study_instances=1)
    with pytest.raises(PacsOverCap):
        place.accept(sources[1])
    with pytest.raises(PacsOverCap):
        place.expect([AnnouncedInstance(series="1", sop=f"1.{number}") for number in range(2)])


@pytest.mark.parametrize("announced", [None, 3])
def test_complete_study_is_one_with_all_that_was_listed(tmp_path, studies, announced):
    study, objects = next(iter(studies.items()))
    place = inbox(tmp_path, study)
    place.expect([AnnouncedInstance(series="1", sop=sop) for sop in objects])
    for path in list(objects.values())[:2]:
        place.accept(path.read_bytes())
    with pytest.raises(StudyIncomplete, match="2 of them came"):
        place.check_complete(announced)
    place.accept(list(objects.values())[2].read_bytes())
    place.check_complete(announced)
    assert not place.short
    place.check_complete(4)
    assert place.short
    place.expect([AnnouncedInstance(series="1", sop=sop) for sop in objects], closed=False)
    place.check_complete(announced)
    with pytest.raises(StudyIncomplete, match="announced 4 objects and listed 3"):
        place.check_complete(4)
    place.expect([AnnouncedInstance(series="1", sop=sop) for sop in list(objects)[:2]])
    with pytest.raises(StudyIncomplete):
        place.check_complete(None)  # an object that the list no longer has
    place.expect([])
    with pytest.raises(StudyIncomplete):
        place.check_complete(None)


@pytest.mark.parametrize(
    "bad",
    [
        {"modality": "ct"},
        {"modality": "CT\\MR"},
        {"study_date": "2024"},
        {"study_date": "20240101-x"},
        {"study_date": "-"},
        {"patient_id": "A\\B"},
        {"patient_id": "x" * 65},
        {"patient_id": "a\nb"},
        {"limit": 0},
    ],
)
def test_query_that_would_mean_something_else_is_refused(bad):
    with pytest.raises(ValueError, match=r"must be|backslash"):
        StudyQuery(**bad)


def test_codes_and_ids_with_padding_fit_their_query():
    assert StudyQuery(modality="CT").admits({"ModalitiesInStudy": ("SR ", "ct\0")})
    assert not StudyQuery(modality="CT").admits({"ModalitiesInStudy": ("MR ",)})
    assert StudyQuery(patient_id="P0").admits({"PatientID": ("P0\0",)})
    assert StudyQuery(patient_id="P0").admits({"PatientID": ("",)})


def test_limits_and_titles_check_themselves():
    with pytest.raises(ValueError, match="attempts"):
        PullLimits(attempts=0)
    for title in ("", "A" * 17, "A\\B", " A", "A ", "Ä"):
        with pytest.raises(ValueError, match="AE title"):
            checked_ae_title(title)
    assert checked_ae_title("MY PACS_1") == "MY PACS_1"
    assert issubclass(PacsUnreachable, SourceError)
