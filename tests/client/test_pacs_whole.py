"""A study is done when each of its objects was walked to its end, and no odd answer keeps a site from it for good."""

import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.pacs.dicomweb import DicomwebPacs
from client.pacs.inbox import read_identity
from client.pacs.job import WORK_FOLDER, PullFolder, find_studies, pull_studies
from client.pacs.multipart import only_object
from client.pacs.study import PacsAnswerInvalid, PacsError, PacsUnreachable, StudyQuery, hashed
from tests.client.pacs_bench import SHORT, make_studies, names, pulled, write_image
from tests.client.pacs_peers import multipart, web_pacs

RELATED = "multipart/related"


@pytest.fixture
def studies(tmp_path):
    return make_studies(tmp_path / "source", patients=2, studies=1)


@pytest.fixture
def server(studies):
    with web_pacs(studies) as server:
        yield server


def pull(server, folder: Path, query: StudyQuery | None = None) -> Counter[str]:
    """Pull everything; returns how often each error type came, with `done`, `skipped` and `short`."""
    with PullFolder(folder) as place, DicomwebPacs(server.url, limits=SHORT) as source:
        found = find_studies(source, query or StudyQuery(), limits=SHORT)
        outcomes = list(pull_studies(source, found, place, limits=SHORT))
    ends = Counter(outcome.error or ("skipped" if outcome.skipped else "done") for outcome in outcomes)
    return ends + Counter(short=sum(outcome.short for outcome in outcomes))


def objects_answered_with(server, answer):
    """Replace what the server answers to a request for an object."""
    honest = server.answer
    server.answer = lambda path: answer(path, honest) if re.search(r"/instances/", path) else honest(path)


def came_as_sent(folder: Path, studies) -> bool:
    came = {study: {sop: path.read_bytes() for sop, path in files.items()} for study, files in pulled(folder).items()}
    return came == {
        hashed(study): {hashed(sop): path.read_bytes() for sop, path in objects.items()}
        for study, objects in studies.items()
    }


def nested(path: Path, syntax: str) -> Path:
    """Write an image with sequences in sequences, of defined and of undefined length, and a private one."""
    write_image(path, patient="P", study="1.2.3", series="1.2", number=1)
    dataset = dcmread(path)
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "1"
    outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    dataset.ContributingEquipmentSequence = Sequence([outer])
    dataset["ContributingEquipmentSequence"].is_undefined_length = True
    dataset.ProcedureCodeSequence = Sequence([inner])
    dataset.private_block(0x0011, "US", create=True).add_new(1, "SQ", Sequence([inner]))
    dataset.file_meta.TransferSyntaxUID = syntax
    form = {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian}
    dcmwrite(path, dataset, **form, force_encoding=True)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_no_object_is_whole_without_its_last_bytes(tmp_path, syntax):
    whole = nested(tmp_path / "whole.dcm", syntax)
    read_identity(whole)
    data = whole.read_bytes()
    before_pixels = data.rfind(b"\x7f\xe0\x00\x10" if syntax == ExplicitVRBigEndian else b"\xe0\x7f\x10\x00")
    for length in [before_pixels, *range(before_pixels + 1, len(data), 89), *range(len(data) - 4, len(data))]:
        whole.write_bytes(data[:length])
        with pytest.raises(PacsAnswerInvalid, match="ends before its elements do"):
            read_identity(whole)


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "JPEG2000.dcm", "emri_small_jpeg_2k_lossless.dcm", "MR_small_bigendian.dcm", "rtplan.dcm",
     "examples_ybr_color.dcm", "liver_1frame.dcm"],
)  # fmt: skip
def test_files_of_the_field_are_whole_and_no_half_of_them_is(tmp_path, name):
    source = get_testdata_file(name)
    assert source is not None
    data, cut = Path(source).read_bytes(), tmp_path / "cut.dcm"
    kind = dcmread(source, stop_before_pixels=True).SOPClassUID
    read_identity(Path(source))
    between = 0
    for length in range(len(data) // 2, len(data), max(1, len(data) // 60)):
        cut.write_bytes(data[:length])
        try:
            read_identity(cut)
            between += 1  # two elements of an object that is no image
        except PacsAnswerInvalid:
            continue
    assert between <= (0 if "Image" in kind.name else 1)


def test_zeros_behind_an_object_are_no_fault_and_anything_else_is(tmp_path):
    whole = nested(tmp_path / "whole.dcm", ExplicitVRLittleEndian)
    data = whole.read_bytes()
    whole.write_bytes(data + bytes(3_000_001))
    read_identity(whole)
    for behind in (
        b"\r\n--XX--\r\n",
        b"\r\n--XX\r\nContent-Type: a/b\r\n\r\n" + data,
        bytes(100) + b"x",
        b"\x08\x00\x05\x00CS\x00\x00",
    ):
        whole.write_bytes(data + behind)
        with pytest.raises(PacsAnswerInvalid):
            read_identity(whole)


@pytest.mark.parametrize("kind", ["pixels missing", "last byte missing", "fragments without an end"])
def test_an_object_that_ends_early_does_not_make_a_study_done(tmp_path, studies, server, kind):
    def half(path, honest):
        status, headers, body = honest(path)
        data = only_object(headers["Content-Type"], body)
        if kind == "fragments without an end":
            data = data[: -32 * 32 * 2 - 4] + b"\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
        return (
            status,
            headers,
            multipart(data[:-1] if kind == "last byte missing" else data[:-900] if kind == "pixels missing" else data),
        )

    honest = server.answer
    objects_answered_with(server, half)
    assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 2}
    assert pulled(tmp_path / "to") == {}
    server.answer = honest
    assert pull(server, tmp_path / "to") == {"done": 2}
    assert came_as_sent(tmp_path / "to", studies)


def test_a_partial_answer_to_the_question_for_an_object_is_refused(tmp_path, server):
    objects_answered_with(server, lambda path, honest: (206, *honest(path)[1:]))
    assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 2}


def test_a_list_that_breaks_off_with_206_is_not_taken_for_whole(tmp_path, server):
    honest = server.answer

    def partial(path):
        _, headers, body = honest(path.replace("limit=200", "limit=2"))
        return (206, headers, body) if "instances?" in path else honest(path)

    server.answer = lambda path: partial(path) if "offset=2" not in path else (200, {}, b"[]")
    assert pull(server, tmp_path / "a") == {"PacsAnswerInvalid": 2}
    server.answer = lambda path: partial(re.sub("offset=2", "offset=0", path))
    assert pull(server, tmp_path / "b") == {"PacsAnswerInvalid": 2}
    assert pulled(tmp_path / "a") == pulled(tmp_path / "b") == {}


def test_a_list_in_pieces_of_206_is_read_to_its_end(tmp_path, studies, server):
    honest = server.answer

    def pieces(path):
        _, headers, body = honest(path.replace("limit=200", "limit=1"))
        last = "offset=1" if "/studies?" in path else "offset=2"
        return (200 if body == b"[]" or last in path else 206), headers, body

    server.answer = lambda path: pieces(path) if "?" in path else honest(path)
    assert pull(server, tmp_path / "to") == {"done": 2}
    assert came_as_sent(tmp_path / "to", studies)


PART = b"Content-Type: application/dicom\r\n\r\n"


@pytest.mark.parametrize(
    ("content_type", "before", "behind"),
    [
        ("; boundary=XX", b"--XX\r\n" + PART, b"\r\n--XX--"),
        ("; boundary=XX", b"--XX\r\n" + PART, b"\r\n--XX--\r\nan epilogue\r\n--of two lines\r\n"),
        ("; boundary=XX", b"a preamble\r\n--XX\r\n" + PART, b"\r\n--XX--\r\n"),
        ("; boundary=XX", b"\r\n--XX \t\r\n" + PART, b"\r\n--XX-- \r\n"),
        ("; boundary=XX", b"--XX\r\n\r\n", b"\r\n--XX--"),
        ('; boundary="a;b"', b"--a;b\r\n" + PART, b"\r\n--a;b--\r\n"),
        ('; boundary="a; type=b c"; type="application/dicom"', b"--a; type=b c\r\n" + PART, b"\r\n--a; type=b c--"),
        ("; BOUNDARY=XX", b"--XX\r\n" + PART, b"\r\n--XX--\r\n"),
        ('; type="application/dicom; x=y"; boundary=XX', b"--XX\r\n" + PART, b"\r\n--XX--\r\n"),
        ("; boundary=other", b"--XX\r\n" + PART, b"\r\n--XX--\r\n"),
        ("; boundary=X", b"--XX\r\n" + PART, b"\r\n--XX--\r\n"),
        ("; boundary=--XX", b"--XX\r\n" + PART, b"\r\n--XX--\r\n"),
        ("", b"--XX\r\n" + PART, b"\r\n--XX--\r\n"),
    ],
)  # fmt: skip
def test_an_object_comes_out_of_every_form_of_multipart_to_the_byte(
    tmp_path, studies, server, content_type, before, behind
):
    def answer(path, honest):
        _, headers, body = honest(path)
        data = only_object(headers["Content-Type"], body)
        return 200, {"Content-Type": RELATED + content_type}, before + data + behind

    objects_answered_with(server, answer)
    assert pull(server, tmp_path / "to") == {"done": 2}
    assert came_as_sent(tmp_path / "to", studies)


@pytest.mark.parametrize(
    "inside", [b"\r\n--XX", b"\r\n--XX\r\n", b"\r\n--XX--", b"\r\n--XX--\r\n", b"\r\n--XX\r\nA: b\r\n\r\n"]
)
def test_a_boundary_inside_the_pixels_is_part_of_them(tmp_path, inside):
    path = tmp_path / "a.dcm"
    pixels = inside.join((bytes(1000), bytes(1048 - len(inside))))
    sop = write_image(path, patient="P", study="1.2.3", series="1.2", number=1, PixelData=pixels)
    with web_pacs({"1.2.3": {sop: path}}) as server:
        assert pull(server, tmp_path / "to") == {"done": 1}
    assert came_as_sent(tmp_path / "to", {"1.2.3": {sop: path}})


@pytest.mark.parametrize(
    ("content_type", "body", "error"),
    [
        ("text/html", b"<html>", PacsAnswerInvalid),
        ("multipart/mixed; boundary=XX", b"--XX\r\n\r\nx\r\n--XX--", PacsAnswerInvalid),
        ("multipart/related; boundary=XX", b"", PacsUnreachable),
        ("multipart/related; boundary=XX", b"no line of its own", PacsUnreachable),
        ("multipart/related; boundary=XX", b"--XX\r\n\r\n" + bytes(99), PacsUnreachable),
        ("multipart/related; boundary=XX", b"--XX\r\n\r\n" + bytes(99) + b"\r\n--YY--", PacsUnreachable),
        ("multipart/related; boundary=XX", b"--XX\r\nA: b\r\n--XX--", PacsAnswerInvalid),
        ("multipart/related; boundary=XX", b"--XX--\r\n", PacsUnreachable),
    ],
)  # fmt: skip
def test_a_message_without_an_object_or_without_an_end_is_a_typed_error(content_type, body, error):
    with pytest.raises(error):
        only_object(content_type, body)


def test_two_objects_in_one_message_are_not_one(tmp_path):
    write_image(tmp_path / "a.dcm", patient="P", study="1.2.3", series="1.2", number=1)
    data = (tmp_path / "a.dcm").read_bytes()
    for body in (
        multipart(data, data),
        b"--XX\r\n\r\n" + data + b"\r\n--XX \r\nA: b\r\nC: d\r\n\r\n" + data + b"\r\n--XX--",
    ):
        with pytest.raises(PacsAnswerInvalid, match="several objects"):
            only_object("multipart/related; boundary=XX", body)


def test_any_bytes_are_an_object_or_a_typed_error():
    body = b"pre\r\n--XX\r\nA: b\r\n\r\n" + bytes(20) + b"\r\n--XX--\r\n"
    for length in range(len(body)):
        for answer in (body[:length], body[length:], body[:length] + b"--" + body[length:]):
            try:
                assert isinstance(only_object("multipart/related; boundary=XX", answer), bytes)
            except PacsError:
                continue


def test_objects_whose_series_the_list_does_not_name_are_found_series_by_series(tmp_path, studies, server):
    honest = server.instance_item
    server.instance_item = lambda path: {key: item for key, item in honest(path).items() if key != "0020000E"}
    assert pull(server, tmp_path / "to") == {"done": 2}
    assert came_as_sent(tmp_path / "to", studies)


@pytest.mark.parametrize("announced", [2, 4, 9])
def test_a_count_that_the_list_contradicts_blocks_no_study_and_is_told(tmp_path, studies, server, announced):
    honest = server.study_item
    server.study_item = lambda study: honest(study) | {"00201208": {"Value": [announced]}}
    short = {"short": 2} if announced > 3 else {}
    assert pull(server, tmp_path / "to") == {"done": 2, **short}
    assert came_as_sent(tmp_path / "to", studies)
    server.requests.clear()
    assert pull(server, tmp_path / "to") == {"skipped": 2, **short}
    assert sum("/instances?" in path for path, _, _ in server.requests) >= 2  # listed again, as there may be more
    assert not any("/instances/" in path for path, _, _ in server.requests)


def test_an_object_that_was_announced_before_it_was_listed_comes_with_the_next_run(tmp_path, studies, server):
    study = next(iter(studies))
    *_, (late, path) = studies[study].items()
    honest, item = server.answer, server.instance_item

    def without(path_asked):
        if f"{study}/instances?" not in path_asked:
            return honest(path_asked)
        server.studies = {**studies, study: {sop: file for sop, file in studies[study].items() if sop != late}}
        try:
            return honest(path_asked)
        finally:
            server.studies = studies

    server.answer = without
    assert pull(server, tmp_path / "to") == {"done": 2, "short": 1}
    server.answer = honest
    assert pull(server, tmp_path / "to") == {"done": 1, "skipped": 1}
    assert came_as_sent(tmp_path / "to", studies)
    assert item(path)


def grow(studies, folder: Path) -> str:
    study = next(iter(studies))
    path = folder / "later.dcm"
    studies[study][write_image(path, patient="P", study=study, series="1.2", number=9)] = path
    return study


@pytest.mark.parametrize("counted", [True, False])
def test_a_study_that_has_grown_is_pulled_again(tmp_path, studies, server, counted):
    if not counted:
        honest = server.study_item
        server.study_item = lambda study: {key: item for key, item in honest(study).items() if key != "00201208"}
    assert pull(server, tmp_path / "to") == {"done": 2}
    assert pull(server, tmp_path / "to") == {"skipped": 2}
    study = grow(studies, tmp_path)
    server.requests.clear()
    assert pull(server, tmp_path / "to") == {"done": 1, "skipped": 1}
    assert sum("/instances/" in path for path, _, _ in server.requests) == 1  # only what is new
    assert came_as_sent(tmp_path / "to", studies)
    assert pull(server, tmp_path / "to") == {"skipped": 2}
    del studies[study][next(iter(studies[study]))]  # what the PACS takes away stays here
    assert pull(server, tmp_path / "to") == {"skipped": 2}
    assert len(pulled(tmp_path / "to")[hashed(study)]) == 4


def test_a_study_that_was_moved_on_comes_whole_again_when_it_grows_and_only_then(tmp_path, studies, server):
    pull(server, tmp_path / "to")
    for study in studies:
        shutil.rmtree(tmp_path / "to" / hashed(study))
    assert pull(server, tmp_path / "to") == {"skipped": 2}
    study = grow(studies, tmp_path)
    assert pull(server, tmp_path / "to") == {"done": 1, "skipped": 1}
    assert {name: set(files) for name, files in pulled(tmp_path / "to").items()} == names({study: studies[study]})


def test_a_grown_study_that_fails_keeps_what_it_had_and_is_tried_again(tmp_path, studies, server):
    pull(server, tmp_path / "to")
    study = grow(studies, tmp_path)
    honest = server.answer
    objects_answered_with(server, lambda path, honest: (404, {}, b""))
    assert pull(server, tmp_path / "to") == {"PacsRefused": 1, "skipped": 1}
    with PullFolder(tmp_path / "to") as place:
        assert place.failures() == {"PacsRefused": 1}
    assert len(pulled(tmp_path / "to")[hashed(study)]) == 3
    server.answer = honest
    assert pull(server, tmp_path / "to") == {"done": 1, "skipped": 1}
    with PullFolder(tmp_path / "to") as place:
        assert place.failures() == {}
    assert came_as_sent(tmp_path / "to", studies)


def as_the_first_version_left_it(folder: Path) -> None:
    """Take the columns away that came later."""
    with sqlite3.connect(folder / WORK_FOLDER / "state.sqlite") as state:
        state.execute("ALTER TABLE study DROP COLUMN announced")
        state.execute("ALTER TABLE study DROP COLUMN walked")
    state.close()


def test_a_half_object_that_an_older_version_took_for_whole_is_pulled_again(tmp_path, studies, server):
    pull(server, tmp_path / "to")
    as_the_first_version_left_it(tmp_path / "to")
    study = next(iter(studies))
    half = next(iter(pulled(tmp_path / "to")[hashed(study)].values()))
    half.write_bytes(half.read_bytes()[:-100])
    server.requests.clear()
    assert pull(server, tmp_path / "to") == {"done": 1, "skipped": 1}
    assert sum("/instances/" in path for path, _, _ in server.requests) == 1
    assert came_as_sent(tmp_path / "to", studies)
    assert pull(server, tmp_path / "to") == {"skipped": 2}


def test_the_state_of_an_older_version_goes_on_and_notices_growth(tmp_path, studies, server):
    pull(server, tmp_path / "to")
    as_the_first_version_left_it(tmp_path / "to")
    for study in list(studies)[1:]:
        shutil.rmtree(tmp_path / "to" / hashed(study))
    server.requests.clear()
    assert pull(server, tmp_path / "to") == {"skipped": 2}
    assert not any("/instances" in path for path, _, _ in server.requests)
    grow(studies, tmp_path)
    assert pull(server, tmp_path / "to") == {"done": 1, "skipped": 1}
