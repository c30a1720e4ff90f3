"""A DICOM archive may be slow, wrong or hostile; nothing it sends reaches the folder unchecked."""

import gc
import logging
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from client.pacs.dimse import DimsePacs, DimsePeer, _storage_contexts
from client.pacs.job import PullFolder, find_studies, pull_studies
from client.pacs.study import PacsOverCap, PacsRefused, PacsUnreachable, StudyQuery, hashed
from tests.client.pacs_bench import CT, SHORT, compressed_study, free_port, make_studies, names, pulled, write_image
from tests.client.pacs_peers import Archive, make_certificate, serving

# pynetdicom 3.0.4 does not close the socket of a connection that was refused (`AssociationSocket._shutdown_socket`).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def loose_sockets_end_with_their_test():
    yield
    gc.collect()


@pytest.fixture
def studies(tmp_path):
    return make_studies(tmp_path / "source", patients=2, studies=1)


@pytest.fixture
def archive(studies):
    with serving(Archive(studies, move_port=free_port())) as archive:
        yield archive


def peer(archive, **more) -> DimsePeer:
    return DimsePeer(host="127.0.0.1", port=archive.port, ae_title="ARCHIVE", move_port=archive.move_port, **more)


def pull(archive, folder, *, limits=SHORT, query: StudyQuery | None = None, **more) -> Counter[str]:
    with PullFolder(folder) as place, DimsePacs(peer(archive, **more), limits=limits) as source:
        found = find_studies(source, query or StudyQuery(), limits=limits)
        outcomes = list(pull_studies(source, found, place, limits=limits))
    return Counter(outcome.error or ("skipped" if outcome.skipped else "done") for outcome in outcomes)


@pytest.mark.parametrize("mode", ["get", "move"])
def test_studies_arrive_whole_series_by_series(tmp_path, studies, archive, mode):
    assert pull(archive, tmp_path / "to", mode=mode) == {"done": 2}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names(studies)
    for study, objects in studies.items():
        for sop, source in objects.items():
            came = dcmread(pulled(tmp_path / "to")[hashed(study)][hashed(sop)])
            assert came == dcmread(source)
            assert came.file_meta.TransferSyntaxUID == dcmread(source).file_meta.TransferSyntaxUID
    assert Counter(request[0] for request in archive.requests)[mode.upper()] == 4


def test_each_encoding_has_a_context_of_its_own_so_that_nothing_is_converted(tmp_path):
    studies = compressed_study(tmp_path / "source")
    with serving(Archive(studies)) as archive:
        assert pull(archive, tmp_path / "to") == {"done": 1}
    for study, objects in studies.items():
        for sop, source in objects.items():
            came = dcmread(pulled(tmp_path / "to")[hashed(study)][hashed(sop)])
            assert came.file_meta.TransferSyntaxUID == dcmread(source).file_meta.TransferSyntaxUID
            assert np.array_equal(came.pixel_array, dcmread(source).pixel_array)


@pytest.mark.parametrize("classes", [1, 12, 63, 64, 127, 200])
def test_contexts_never_pass_what_an_association_can_hold(classes):
    contexts = list(_storage_contexts([f"1.2.{number}" for number in range(classes)]))
    assert len(contexts) <= 127
    assert len({sop_class for sop_class, _ in contexts}) == min(classes, 127)


@pytest.mark.parametrize("mode", ["get", "move"])
def test_series_already_here_are_not_sent_again(tmp_path, studies, archive, mode):
    honest, sent = archive.sends, []

    def sends(study, series):
        sent.append(series)
        return honest(study, series) if len(sent) != 2 else []

    archive.sends = sends
    assert pull(archive, tmp_path / "to", mode=mode) == {"StudyIncomplete": 1, "done": 1}
    archive.sends = honest
    assert pull(archive, tmp_path / "to", mode=mode) == {"skipped": 1, "done": 1}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names(studies)


@pytest.mark.parametrize("mode", ["get", "move"])
def test_object_of_another_study_fails_that_study_alone(tmp_path, studies, archive, mode):
    first, second = studies
    honest = archive.sends
    archive.sends = lambda study, series: archive.files[second] if study == first else honest(study, series)
    assert pull(archive, tmp_path / "to", mode=mode) == {"PacsAnswerInvalid": 1, "done": 1}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names({second: studies[second]})


def test_object_that_was_not_announced_fails_its_study(tmp_path, studies, archive):
    study = next(iter(studies))
    honest, extra = archive.sends, tmp_path / "extra.dcm"
    write_image(extra, patient="P", study=study, series="1.2", number=9)
    archive.sends = lambda uid, series: [*honest(uid, series), *([dcmread(extra)] if uid == study else [])]
    assert pull(archive, tmp_path / "to") == {"PacsAnswerInvalid": 1, "done": 1}


@pytest.mark.parametrize("announced", [None, 2, 4, 5])
def test_a_study_is_as_large_as_its_list_and_not_as_its_count(tmp_path, studies, archive, announced):
    archive.announces = lambda study: announced
    assert pull(archive, tmp_path / "to") == {"done": 2}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names(studies)
    assert pull(archive, tmp_path / "to") == {"skipped": 2}


@pytest.mark.parametrize("mode", ["get", "move"])
def test_a_study_that_has_grown_is_pulled_again(tmp_path, studies, archive, mode):
    assert pull(archive, tmp_path / "to", mode=mode) == {"done": 2}
    study, later = next(iter(studies)), tmp_path / "later.dcm"
    studies[study][write_image(later, patient="P", study=study, series="1.2", number=9)] = later
    archive.files[study].append(dcmread(later))
    assert pull(archive, tmp_path / "to", mode=mode) == {"done": 1, "skipped": 1}
    assert {study: set(files) for study, files in pulled(tmp_path / "to").items()} == names(studies)


@pytest.mark.parametrize("mode", ["get", "move"])
def test_object_above_the_cap_ends_the_connection(tmp_path, studies, archive, mode):
    study, big = next(iter(studies)), tmp_path / "big.dcm"
    sop = write_image(
        big, patient="P", study=study, series="1.2", number=9, Rows=2048, Columns=2048, PixelData=bytes(8 * 2**20)
    )
    archive.files = {study: [dcmread(big)]}
    assert pull(archive, tmp_path / "to", mode=mode, limits=replace(SHORT, instance_bytes=2**20)) == {"PacsOverCap": 1}
    assert not list((tmp_path / "to").rglob("*.dcm"))
    assert pull(archive, tmp_path / "to", mode=mode) == {"done": 1}
    assert pulled(tmp_path / "to").keys() == {hashed(study)}
    assert sop


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of the archive, which runs in this process
def test_uid_made_like_a_path_is_not_asked_for(tmp_path, archive):
    honest = archive.find

    def lying(event):
        for status, answer in honest(event):
            answer.StudyInstanceUID = "../../etc/x"
            yield status, answer

    archive.requests.clear()
    with serving(with_find(archive, lying)) as liar:
        assert pull(liar, tmp_path / "to") == {"PacsAnswerInvalid": 1}
    assert archive.requests == [("FIND", "STUDY")]
    assert {path.name for path in (tmp_path / "to").iterdir()} == {".pulling"}


def test_list_without_end_is_left(archive):
    honest = archive.find

    def endless(event):
        status, answer = next(iter(honest(event)))
        while True:
            yield status, answer

    with serving(with_find(archive, endless)) as liar:
        with pytest.raises(PacsOverCap, match="more than 50"):
            DimsePacs(peer(liar), limits=replace(SHORT, studies=50)).find(StudyQuery())
        assert len(DimsePacs(peer(liar), limits=SHORT).find(StudyQuery(limit=1))) == 1


def with_find(archive: Archive, find) -> Archive:
    """Return an archive of the same studies whose C-FIND is `find`."""
    other = Archive(archive.studies, move_port=archive.move_port)
    other.find = find
    return other


def test_filters_hold_even_where_the_archive_ignores_them(archive):
    pacs = DimsePacs(peer(archive), limits=SHORT)
    assert len(pacs.find(StudyQuery())) == 2
    assert len(pacs.find(StudyQuery(patient_id="P1"))) == 1
    assert len(pacs.find(StudyQuery(study_date="20250101-"))) == 0


def test_archive_that_does_not_know_us_says_so(archive):
    for wrong in ({"our_title": "STRANGER"}, {"ae_title": "OTHER"}):
        with pytest.raises(PacsRefused, match="--calling-aet"):
            DimsePacs(replace(peer(archive), **wrong), limits=SHORT).find(StudyQuery())


def test_failure_status_is_a_refusal(archive):
    def failing(event):
        yield 0xA700, None

    with serving(with_find(archive, failing)) as liar, pytest.raises(PacsRefused, match="0xA700"):
        DimsePacs(peer(liar), limits=SHORT).find(StudyQuery())


def test_port_that_nobody_listens_on_is_unreachable(tmp_path):
    gone = DimsePeer(host="127.0.0.1", port=free_port(), ae_title="ARCHIVE")
    with pytest.raises(PacsUnreachable, match="no DICOM connection"):
        find_studies(DimsePacs(gone, limits=SHORT), StudyQuery(), limits=SHORT)


def test_archive_lost_in_the_middle_is_tried_again_for_the_series_that_are_missing(tmp_path, studies):
    archive = Archive(studies)

    def get(event):
        if Counter(request[0] for request in archive.requests)["GET"] == 1 and not lost:
            lost.append(event.assoc.abort())
            return
        yield from Archive.get(archive, event)

    lost: list[None] = []
    archive.get = get
    with serving(archive):
        assert pull(archive, tmp_path / "to", limits=replace(SHORT, attempts=2)) == {"done": 2}
    gets = Counter(request for request in archive.requests if request[0] == "GET")
    assert lost
    assert set(gets.values()) == {1}
    assert len(gets) == 4


@pytest.mark.parametrize(
    ("sent", "why", "error"),
    [
        (b"\x02\x00\x00", "three bytes of a header, then silence", PacsUnreachable),
        (b"\x02\x00" + struct.pack(">L", 2**20), "a PDU of 1 MiB", PacsOverCap),
        (b"\x02\x00" + struct.pack(">L", 200) + b"x", "a PDU that does not go on", PacsUnreachable),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not DICOM at all", PacsUnreachable),
        (b"", "silence", PacsUnreachable),
    ],
)
def test_peer_that_stops_in_the_middle_of_a_pdu_does_not_hold_us(sent, why, error):
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        connection = listener.accept()[0]
        connection.sendall(sent)
        done.wait(60)
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    hostile = DimsePeer(host="127.0.0.1", port=listener.getsockname()[1], ae_title="ARCHIVE")
    before = threading.active_count()
    try:
        with pytest.raises(error):
            DimsePacs(hostile, limits=replace(SHORT, timeout_s=0.5)).find(StudyQuery())
        end = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() <= before, f"a thread still waits after {why}"
    finally:
        done.set()
        thread.join()
        listener.close()


def test_series_that_trickles_is_left_after_the_time_of_one_exchange(tmp_path, studies):
    release = threading.Event()
    archive = Archive(studies)

    def get(event):
        yield 100
        while not release.wait(0.05):
            yield 0xFF00, archive.files[str(event.identifier.StudyInstanceUID)][0]

    archive.get = get
    with serving(archive):
        try:
            limits = replace(SHORT, exchange_s=1.0, attempts=1, timeout_s=20)
            assert pull(archive, tmp_path / "to", limits=limits) == {"PacsUnreachable": 2}
        finally:
            release.set()


def test_encrypted_association_needs_the_certificate(tmp_path, studies):
    key, ca = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key)
    with serving(Archive(studies), tls=context) as archive:
        secure = replace(peer(archive), host="localhost", ca=ca)
        assert len(DimsePacs(secure, limits=SHORT).find(StudyQuery())) == 2
        with pytest.raises(PacsUnreachable):
            DimsePacs(replace(secure, host="127.0.0.1"), limits=SHORT).find(StudyQuery())  # another name
        with pytest.raises(PacsUnreachable):
            DimsePacs(peer(archive), limits=replace(SHORT, timeout_s=1)).find(StudyQuery())  # in the clear
    with pytest.raises(ValueError, match="mode get"):
        replace(secure, mode="move")


def test_no_patient_and_no_study_reaches_a_log(tmp_path, studies, archive, caplog):
    with caplog.at_level(logging.DEBUG):
        pull(archive, tmp_path / "to", query=StudyQuery(patient_id="P0"))
        archive.sends = lambda study, series: []
        pull(archive, tmp_path / "again", query=StudyQuery(patient_id="P1"))
    assert "P0" not in caplog.text
    assert "P1" not in caplog.text
    assert not any(study in caplog.text for study in studies)
    assert "StudyIncomplete" in caplog.text


def test_peer_checks_its_own_settings():
    good = DimsePeer(host="h", port=104, ae_title="A")
    for bad in ({"port": 0}, {"port": 70000}, {"ae_title": ""}, {"our_title": "x" * 17}, {"move_port": -1}):
        with pytest.raises(ValueError, match=r"port|AE title"):
            replace(good, **bad)
    assert CT
