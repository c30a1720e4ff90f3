"""A DICOMweb service may be slow, wrong or hostile; nothing it sends reaches the folder unchecked."""

import json
import re
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from client.pacs.dicomweb import DicomwebPacs
from client.pacs.job import PullFolder, find_studies, pull_studies
from client.pacs.study import PacsAnswerInvalid, PacsOverCap, PacsRefused, StudyQuery, hashed
from tests.client.pacs_bench import SHORT, compressed_study, make_studies, names, pulled, write_image
from tests.client.pacs_peers import multipart, web_pacs

HTML = (200, {"Content-Type": "text/html"}, b"<html>please log in</html>")


@pytest.fixture
def studies(tmp_path):
    return make_studies(tmp_path / "source", patients=2, studies=1)


@pytest.fixture
def server(studies):
    with web_pacs(studies) as server:
        yield server


def pull(server, folder: Path, *, limits=SHORT, query: StudyQuery | None = None, **more) -> Counter[str]:
    """Pull everything; returns how often each error type came, with `done` and `skipped`."""
    with PullFolder(folder) as place, DicomwebPacs(server.url, limits=limits, **more) as source:
        found = find_studies(source, query or StudyQuery(), limits=limits)
        outcomes = list(pull_studies(source, found, place, limits=limits))
    return Counter(outcome.error or ("skipped" if outcome.skipped else "done") for outcome in outcomes)


def objects_answered_with(server, answer):
    """Replace what the server answers to a request for an object."""
    honest = server.answer
    server.answer = lambda path: answer(path, honest) if "/instances/" in path else honest(path)


def test_whole_files_arrive_byte_for_byte(tmp_path, studies, server):
    assert pull(server, tmp_path / "to") == {"done": 2}
    for study, objects in studies.items():
        for sop, source in objects.items():
            assert pulled(tmp_path / "to")[hashed(study)][hashed(sop)].read_bytes() == source.read_bytes()
    assert {accept for path, _, accept in server.requests if "/instances/" in path} == {
        'multipart/related; type="application/dicom"; transfer-syntax=*'
    }


def test_compressed_files_are_not_written_anew(tmp_path):
    studies = compressed_study(tmp_path / "source")
    with web_pacs(studies) as server:
        assert pull(server, tmp_path / "to") == {"done": 1}
    came = {path.read_bytes() for path in (tmp_path / "to").glob("*/*.dcm")}
    assert came == {path.read_bytes() for path in next(iter(studies.values())).values()}


def test_long_lists_are_read_page_by_page(tmp_path, server):
    one = dict(next(iter(server.studies.items()))[1])
    server.studies = {f"1.2.{number}": one for number in range(450)}
    with DicomwebPacs(server.url, limits=SHORT) as source:
        assert len(source.find(StudyQuery())) == 450
        assert len(source.find(StudyQuery(limit=3))) == 3
        with pytest.raises(PacsOverCap, match="more than 250"):
            DicomwebPacs(server.url, limits=replace(SHORT, studies=250)).find(StudyQuery())


def test_list_that_never_ends_is_left(tmp_path, server):
    honest, numbers = server.answer, iter(range(10**9))

    def page() -> list[dict]:
        return [
            server.study_item(study) | {"0020000D": {"Value": [f"1.2.{next(numbers)}"]}} for study in server.studies
        ]

    server.answer = lambda path: (*honest(path)[:2], json.dumps(page()).encode())
    with pytest.raises(PacsOverCap), DicomwebPacs(server.url, limits=replace(SHORT, studies=50)) as source:
        source.find(StudyQuery())


def test_server_that_cannot_page_is_not_taken_at_its_first_page(server):
    honest = server.answer
    server.studies = {f"1.2.{number}": {} for number in range(450)}
    server.answer = lambda path: honest(path.replace("offset=", "ignored="))
    with pytest.raises(PacsAnswerInvalid, match="repeats"), DicomwebPacs(server.url, limits=SHORT) as source:
        source.find(StudyQuery())


@pytest.mark.parametrize("list_of", ["studies?", "instances?"])
def test_login_page_in_place_of_a_list_is_refused(tmp_path, server, list_of):
    honest = server.answer
    server.answer = lambda path: HTML if list_of in path else honest(path)
    if list_of == "studies?":
        with pytest.raises(PacsAnswerInvalid):
            pull(server, tmp_path / "to")
    else:
        assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 2}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[1, 2]",
        b'{"0020000D": 3}',
        b'[{"0020000D": {"Value": 3}}]',
        b"\xff\xfe",
        b'"text"',
        b"17",
        b'[{"0020000D": ["x"]}]',
        b"[null]",
    ],
)
def test_malformed_list_is_one_typed_error(server, body):
    server.answer = lambda path: (200, {"Content-Type": "application/dicom+json"}, body)
    with pytest.raises(PacsAnswerInvalid), DicomwebPacs(server.url, limits=SHORT) as source:
        source.find(StudyQuery())


@pytest.mark.parametrize(
    ("label", "error"),
    [
        ("html", "PacsAnswerInvalid"),
        ("not dicom", "PacsAnswerInvalid"),
        ("empty", "PacsUnreachable"),
        ("two objects", "PacsAnswerInvalid"),
        ("no part header", "PacsAnswerInvalid"),
        ("no type", "PacsAnswerInvalid"),
        ("404", "PacsRefused"),
        ("redirect", "PacsRefused"),
        ("503", "PacsUnreachable"),
        ("broken off", "PacsUnreachable"),
    ],
)
def test_object_that_is_not_one_dicom_file_is_refused_and_leaves_nothing(tmp_path, studies, server, label, error):
    related = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=XX'}
    data = next(iter(next(iter(studies.values())).values())).read_bytes()
    answers = {
        "html": HTML,
        "not dicom": (200, related, multipart(b"no" * 500)),
        "empty": (200, related, b""),
        "two objects": (200, related, multipart(data, data)),
        "no part header": (200, related, b"--XX\r\nabc\r\n--XX--"),
        "no type": (200, {}, data),
        "404": (404, {}, b""),
        "503": (503, {}, b""),
        "redirect": (302, {"Location": server.url.replace("localhost", "127.0.0.1")}, b""),
        "broken off": (200, related | {"Content-Length": "", "Connection": "close"}, multipart(data)[:-900]),
    }
    objects_answered_with(server, lambda path, honest: answers[label])
    assert pull(server, tmp_path / "to") == {error: 2}
    assert not list((tmp_path / "to").rglob("*.dcm"))
    assert not list((tmp_path / "to").rglob("*.part"))


def test_object_of_another_study_is_refused_and_the_other_study_still_comes(tmp_path, studies, server):
    first, second = studies
    foreign = next(iter(studies[second].values())).read_bytes()
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=XX'}
    objects_answered_with(
        server, lambda path, honest: (200, headers, multipart(foreign)) if first in path else honest(path)
    )
    assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 1, "done": 1}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names({second: studies[second]})


def test_announced_object_that_belongs_to_another_study_is_refused(tmp_path, studies, server):
    study, objects = next(iter(studies.items()))
    sop, forged = next(iter(objects)), tmp_path / "forged.dcm"
    write_image(forged, patient="P", study="1.2.3", series="1.2", number=1, SOPInstanceUID=sop)
    honest = server.answer
    server.studies = {study: {sop: objects[sop]}}
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=XX'}
    server.answer = lambda path: (200, headers, multipart(forged.read_bytes())) if sop in path else honest(path)
    assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 1}
    assert pulled(tmp_path / "to") == {}


def test_redirect_to_another_server_is_not_followed(tmp_path, studies, server):
    honest = server.answer
    with web_pacs(studies) as elsewhere:
        server.answer = lambda path: (302, {"Location": elsewhere.url + path.removeprefix("/dicom-web")}, b"")
        with pytest.raises(PacsRefused, match="redirects"):
            pull(server, tmp_path / "to", token="s3cret")
        moved = (307, {"Location": elsewhere.url}, b"")
        server.answer = lambda path: moved if "/instances/" in path else honest(path)
        assert pull(server, tmp_path / "to", token="s3cret") == {"PacsRefused": 2}
        assert elsewhere.requests == []


def test_object_that_was_not_announced_is_refused(tmp_path, studies, server):
    study, objects = next(iter(studies.items()))
    extra = tmp_path / "extra.dcm"
    write_image(extra, patient="P", study=study, series="1.2", number=9)
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=XX'}
    objects_answered_with(server, lambda path, honest: (200, headers, multipart(extra.read_bytes())))
    server.studies = {study: objects}
    assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 1}


@pytest.mark.parametrize(
    "uid", ["../../../../etc/cron.d/x", "1.2/../../3", "1.2?x=1", "1" * 65, "", "1.2\r\nX: y", "1.2%2f"]
)
def test_uids_made_like_paths_are_never_asked_for(tmp_path, studies, server, uid):
    objects = next(iter(studies.values()))
    server.studies = {uid: objects, **studies}
    assert pull(server, tmp_path / "to") == {"PacsAnswerInvalid": 1, "done": 2}
    assert all(
        path.startswith("/dicom-web/studies?") or any(f"/studies/{study}/" in path for study in studies)
        for path, _, _ in server.requests
    )
    honest = server.instance_item
    server.studies = {"1.9": objects}
    server.instance_item = lambda path: honest(path) | {"00080018": {"Value": [uid]}}
    assert pull(server, tmp_path / "again") == {"PacsAnswerInvalid": 1}
    assert {path.name for path in (tmp_path / "again").iterdir()} == {".pulling"}


def test_object_above_the_cap_is_cut_off_while_it_comes(tmp_path, server):
    served = []

    def endless(path, honest):
        status, headers, body = honest(path)
        served.append(path)
        return status, headers, body[:-8] + bytes(3 * 2**20) + b"\r\n--XX--\r\n"

    objects_answered_with(server, endless)
    assert pull(server, tmp_path / "to", limits=replace(SHORT, instance_bytes=2**20)) == {"PacsOverCap": 2}
    assert len(served) == 2


def test_compressed_answer_is_measured_after_it_is_unpacked(tmp_path, server):
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(bytes(200 * 2**20)) + packer.flush()
    assert len(bomb) < 2**20
    objects_answered_with(
        server,
        lambda path, honest: (
            200,
            honest(path)[1] | {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))},
            bomb,
        ),
    )
    assert pull(server, tmp_path / "to", limits=replace(SHORT, instance_bytes=2**20)) == {"PacsOverCap": 2}


def test_study_above_its_caps_is_dropped_whole(tmp_path, studies, server):
    assert pull(server, tmp_path / "a", limits=replace(SHORT, study_bytes=6000)) == {"PacsOverCap": 2}
    assert pull(server, tmp_path / "b", limits=replace(SHORT, study_instances=2)) == {"PacsOverCap": 2}
    assert not list(tmp_path.glob("[ab]/**/*.dcm"))


def test_studies_that_were_not_asked_for_are_not_pulled(tmp_path, server):
    first, _ = server.studies
    honest = server.study_item
    server.study_item = lambda study: (
        honest(study)
        | {
            "00080061": {"Value": ["CT", "SR"] if study == first else ["MR"]},
            "00080020": {"Value": ["20240101" if study == first else "20231231"]},
            "00100020": {"Value": ["P0" if study == first else "P1"]},
        }
    )
    with DicomwebPacs(server.url, limits=SHORT) as source:
        for query in (
            StudyQuery(modality="CT"),
            StudyQuery(study_date="20240101"),
            StudyQuery(study_date="20240101-"),
            StudyQuery(patient_id="P0"),
        ):
            assert [study.uid for study in source.find(query)] == [first]
        assert len(source.find(StudyQuery(study_date="-20240101", patient_id="P?"))) == 2


@pytest.mark.parametrize(
    "answered", ["2024.01.01", "2024-01-01", " 20240101", "2024/01/01", "20240101120000", "unknown", ""]
)
def test_a_date_of_another_form_drops_no_study(tmp_path, server, answered):
    honest = server.study_item
    server.study_item = lambda study: honest(study) | {"00080020": {"Value": [answered]}}
    for asked in ("20240101", "20240101-", "-20240101", "20231231-20240102"):
        with DicomwebPacs(server.url, limits=SHORT) as source:
            assert len(source.find(StudyQuery(study_date=asked))) == 2
    readable = re.search(r"\d", answered) is not None
    with DicomwebPacs(server.url, limits=SHORT) as source:
        assert len(source.find(StudyQuery(study_date="20240102-"))) == (0 if readable else 2)
