"""The way to a DICOMweb service: encrypted, with the token, bounded in time, tried again."""

import logging
import socket
import ssl
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from client.pacs.dicomweb import DicomwebPacs, checked_url
from client.pacs.job import PullFolder, find_studies, pull_studies
from client.pacs.study import PacsRefused, PacsUnreachable, StudyQuery
from tests.client.pacs_bench import SHORT, make_studies
from tests.client.pacs_peers import make_certificate, web_pacs


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


def test_token_goes_with_each_request_and_into_no_log(tmp_path, server, caplog):
    with caplog.at_level(logging.DEBUG):
        pull(server, tmp_path / "to", token="s3cret", query=StudyQuery(patient_id="P0"))
    assert {authorization for _, authorization, _ in server.requests} == {"Bearer s3cret"}
    assert "s3cret" not in caplog.text
    assert "P0" not in caplog.text
    assert not any(study in caplog.text for study in server.studies)


def test_errors_name_no_study_and_no_patient(tmp_path, server, caplog):
    server.answer = lambda path: (500, {}, b"")
    with pytest.raises(PacsUnreachable) as failure:
        pull(server, tmp_path / "to", query=StudyQuery(patient_id="P0"))
    assert "P0" not in str(failure.value)


def test_netrc_and_proxies_of_the_environment_are_not_used(tmp_path, server, monkeypatch):
    (tmp_path / "netrc").write_text("machine localhost login who password what\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert pull(server, tmp_path / "to", token="s3cret") == {"done": 2}
    assert {authorization for _, authorization, _ in server.requests} == {"Bearer s3cret"}


def test_transport_failures_are_tried_again_and_bounded(tmp_path, server):
    asked = Counter()

    def flaky(path, honest):
        asked[path] += 1
        return (503, {}, b"") if asked[path] == 1 else honest(path)

    objects_answered_with(server, flaky)
    assert pull(server, tmp_path / "to") == {"done": 2}
    assert set(asked.values()) == {2}
    objects_answered_with(server, lambda path, honest: (503, {}, b""))
    asked.clear()
    server.requests.clear()
    assert pull(server, tmp_path / "again", limits=replace(SHORT, attempts=3)) == {"PacsUnreachable": 2}
    assert Counter("/instances/" in path for path, _, _ in server.requests)[True] == 6


def test_pacs_that_is_gone_ends_the_pull_with_a_typed_error(tmp_path, studies):
    with web_pacs(studies) as server:
        pass
    with pytest.raises(PacsUnreachable):
        pull(server, tmp_path / "to")


@pytest.mark.parametrize(
    "trickle", [b"", b"H", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n["]
)
def test_server_that_trickles_is_left_after_the_time_of_one_exchange(trickle):
    """Each byte comes within the socket's timeout, so that only a bound on the whole ends this."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection = listener.accept()[0]
        try:
            connection.sendall(trickle)
            while not ended.wait(0.05):
                connection.sendall(b"9" if trickle else b"H")
        except OSError:
            pass
        connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    limits = replace(SHORT, timeout_s=30, exchange_s=0.5)
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            DicomwebPacs(url, limits=limits) as source,
            pytest.raises(PacsUnreachable, match=r"more than 0\.5 s"),
        ):
            source.find(StudyQuery())
    finally:
        ended.set()
        thread.join()
        listener.close()


def test_certificate_that_nobody_vouches_for_is_refused_without_a_second_try(tmp_path, studies):
    key, ca = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key)
    with web_pacs(studies, tls=context) as server:
        with pytest.raises(PacsRefused, match="certificate"):
            pull(server, tmp_path / "no", token="s3cret")
        assert server.requests == []
        assert pull(server, tmp_path / "to", ca=ca) == {"done": 2}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://pacs.example/dicom-web", "in the clear"),
        ("http://10.0.0.1:8042", "in the clear"),
        ("ftp://pacs.example", "https://HOST"),
        ("https://", "https://HOST"),
        ("https://me:secret@pacs.example", "token-file"),
        ("https://pacs.example/?a=b", "no '\\?'"),
        ("http://localhost.example", "in the clear"),
    ],
)
def test_addresses_that_would_betray_something_are_refused(url, reason):
    with pytest.raises(ValueError, match=reason) as refusal:
        checked_url(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["https://pacs.example/dicom-web/", "http://localhost:8042", "http://127.0.0.1:1", "http://[::1]:80"]
)
def test_encrypted_and_loopback_addresses_are_taken(url):
    assert checked_url(url) == url.rstrip("/")
    assert checked_url("http://pacs.example", insecure=True) == "http://pacs.example"
