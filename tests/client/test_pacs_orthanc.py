"""Pulling from a real Orthanc, by every road, with an interruption in the middle."""

import json
import os
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from client.pacs.study import hashed
from tests.client.pacs_bench import (
    Gate,
    Orthanc,
    command,
    compressed_study,
    dataset_bytes,
    make_studies,
    names,
    needs_orthanc,
    orthanc,
    pulled,
)
from tests.client.pacs_peers import make_certificate, web_pacs

pytestmark = [pytest.mark.orthanc, needs_orthanc]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_studies(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return compressed_study(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory, plain, packed) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc") / "db") as server:
        server.fill(plain | packed)
        yield server


def road(name: str, pacs: Orthanc, *, port: int = 0) -> list[str]:
    if name == "dicomweb":
        return ["--dicomweb", pacs.url.replace(str(pacs.http_port), str(port or pacs.http_port))]
    args = ["--dimse", f"127.0.0.1:{port or pacs.dicom_port}", "--aet", "ORTHANC", "--mode", name]
    return [*args, "--move-port", str(pacs.move_port)]


def run(folder: Path, *args: str, expect: int = 0) -> dict:
    done = subprocess.run(command("pull", "--to", str(folder), "--json", *args), capture_output=True, timeout=200)
    assert done.returncode == expect, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["dicomweb", "get", "move"])
def test_multi_patient_set_comes_over_every_road_as_it_was_stored(tmp_path, pacs, plain, packed, name):
    summary = run(tmp_path, *road(name, pacs))
    studies = plain | packed
    assert {key: summary[key] for key in ("studies", "done", "failed", "skipped", "instances")} == {
        "studies": 7,
        "done": 7,
        "failed": 0,
        "skipped": 0,
        "instances": 24,
    }
    assert {study: set(files) for study, files in pulled(tmp_path).items()} == names(studies)
    assert summary["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*/*.dcm"))
    for study, objects in plain.items():
        for sop, source in objects.items():
            assert dataset_bytes(pulled(tmp_path)[hashed(study)][hashed(sop)]) == dataset_bytes(source)
    for study, objects in packed.items():  # DCMTK lays out compressed frames anew; their content is the same
        for sop, source in objects.items():
            came = dcmread(pulled(tmp_path)[hashed(study)][hashed(sop)])
            assert came.file_meta.TransferSyntaxUID == dcmread(source).file_meta.TransferSyntaxUID
            assert np.array_equal(came.pixel_array, dcmread(source).pixel_array)


def test_dicomweb_writes_the_very_bytes_that_the_pacs_keeps(tmp_path, pacs):
    run(tmp_path, *road("dicomweb", pacs))
    base = f"http://127.0.0.1:{pacs.http_port}/instances"
    kept = {}
    for one in json.load(urllib.request.urlopen(base)):
        uid = json.load(urllib.request.urlopen(f"{base}/{one}"))["MainDicomTags"]["SOPInstanceUID"]
        kept[hashed(uid)] = urllib.request.urlopen(f"{base}/{one}/file").read()
    assert kept == {path.stem: path.read_bytes() for path in tmp_path.glob("*/*.dcm")}


@pytest.mark.parametrize("name", ["dicomweb", "get", "move"])
def test_pull_killed_in_the_middle_goes_on_and_pulls_nothing_twice(tmp_path, pacs, plain, packed, name):
    folder = tmp_path / "to"

    def in_second_study() -> bool:
        return bool(list(folder.glob("*/*.dcm")) and list(folder.glob(".pulling/*/*.dcm")))

    gate = Gate({"dicomweb": pacs.http_port}.get(name, pacs.dicom_port), in_second_study)
    try:
        killed = subprocess.Popen(command("pull", "--to", str(folder), *road(name, pacs, port=gate.port)))
        assert gate.stalled.wait(120)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait(60)
        before = {path.name: path.stat().st_ino for path in folder.rglob("*.dcm")}
        done = len(pulled(folder))
        assert 1 <= done < 7
        gate.open.set()
        again = run(folder, *road(name, pacs, port=gate.port))
    finally:
        gate.close()
    assert again["skipped"] == done
    assert again["done"] == 7 - done
    assert again["instances"] == 24 - len(before)
    assert {study: set(files) for study, files in pulled(folder).items()} == names(plain | packed)
    after = {path.name: path.stat().st_ino for path in folder.rglob("*.dcm")}
    assert before.items() <= after.items()
    if name == "dicomweb":
        asked = [
            gate.passed.count(f"/instances/{sop} ".encode()) for objects in (plain | packed).values() for sop in objects
        ]
        assert sorted(asked)[:-1] == [1] * 23
        assert max(asked) <= 2  # the one that was under way when the process died
    assert not list(folder.glob(".pulling/*/"))


@pytest.mark.parametrize("name", ["dicomweb", "get"])
def test_filters_reach_the_pacs_and_hold(tmp_path, pacs, name):
    assert run(tmp_path / "a", *road(name, pacs), "--patient-id", "P1")["studies"] == 2
    assert run(tmp_path / "b", *road(name, pacs), "--modality", "CR")["studies"] == 3
    assert run(tmp_path / "c", *road(name, pacs), "--study-date", "20240101-20240101")["studies"] == 3
    assert run(tmp_path / "d", *road(name, pacs), "--limit", "2")["done"] == 2


def test_finished_pull_run_again_asks_for_no_object(tmp_path, pacs):
    run(tmp_path, *road("dicomweb", pacs))
    again = run(tmp_path, *road("dicomweb", pacs))
    assert (again["done"], again["skipped"], again["instances"]) == (0, 7, 0)


def test_orthanc_behind_a_tls_gateway_wants_its_certificate_and_the_token(tmp_path, pacs):
    """Orthanc 1.10.1 of Debian 12 dies of a segmentation fault at its first HTTPS answer, so a gateway does the TLS."""
    key, ca = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key)
    (tmp_path / "token").write_text("s3cret\n")
    with web_pacs({}, tls=context) as gateway:

        def forward(path: str) -> tuple[int, dict[str, str], bytes]:
            _, authorization, accept = gateway.requests[-1]
            if authorization != "Bearer s3cret":
                return 401, {}, b""
            request = urllib.request.Request(f"http://localhost:{pacs.http_port}{path}", headers={"Accept": accept})
            with urllib.request.urlopen(request) as answer:
                return 200, {"Content-Type": answer.headers["Content-Type"]}, answer.read()

        gateway.answer = forward
        trusted = ["--dicomweb", gateway.url, "--ca", str(ca)]
        assert run(tmp_path / "to", *trusted, "--token-file", str(tmp_path / "token"))["done"] == 7
        refused = subprocess.run(
            command("pull", "--to", str(tmp_path / "a"), *trusted), capture_output=True, timeout=99
        )
        assert (refused.returncode, b"PacsRefused" in refused.stderr, b"token" in refused.stderr) == (4, True, True)
        stranger = subprocess.run(
            command("pull", "--to", str(tmp_path / "b"), "--dicomweb", gateway.url), capture_output=True, timeout=99
        )
        assert (stranger.returncode, b"certificate is not trusted" in stranger.stderr) == (4, True)
