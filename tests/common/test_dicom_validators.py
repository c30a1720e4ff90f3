"""Synthetic files pass other people's software: dciodvfy, dcmtk, pydicom's FileSet, and Orthanc by three roads."""

import gc
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pydicom.fileset import FileSet

from common.dicom.export import Edition, Provenance
from common.dicom.file_set import FileSetWriter
from common.dicom.stamp import Stamp
from tests.client.pacs_bench import STORESCU, needs_orthanc, orthanc
from tests.common.synthetic_files import read_provenance

PROVENANCE = Provenance(
    study="chest-2026", plan_digest="a" * 64, decoder_digest="b" * 64, epsilon=7.91, delta=1e-5, seed=3
)
FILES = 100
PARTS = {"CR": "CHEST", "DX": "CHEST", "CT": "HEAD", "MR": "HEAD", "MG": "BREAST", "US": "ABDOMEN"}


def written(folder: Path, modality: str, edition: Edition) -> Path:
    random = np.random.default_rng(0)
    for label in ("normal", "lesion"):
        stamp = Stamp(label=label, modality=modality, body_part=PARTS[modality], provenance=PROVENANCE, edition=edition)
        for index in range(FILES // 2):
            side = 28 + 4 * (index % 3)
            pixels = random.integers(0, 256, (side, side)).astype(np.uint8)
            (folder / f"{label}-{index:03d}.dcm").write_bytes(stamp.file(pixels, index=index))
    return folder


@pytest.fixture(scope="module", params=sorted(PARTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp(request.param), request.param, "current")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy (Debian's dicom3tools) on this machine")
@pytest.mark.parametrize("modality", sorted(PARTS))
def test_dciodvfy_finds_no_error_in_a_hundred_files_of_each_modality(modality: str, tmp_path: Path) -> None:
    """Of the edition for validators of its age; the standard's own mark is younger than Debian's."""
    found: list[str] = []
    for file in sorted(written(tmp_path, modality, "2022").iterdir()):
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert any("Image" in line for line in said), "dciodvfy did not name the IOD"
        found += [line for line in said if line.startswith("Error")]
    assert found == []


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="no dcmdump (Debian's dcmtk) on this machine")
def test_dcmtk_reads_every_file(folder: Path) -> None:
    files = [str(file) for file in sorted(folder.iterdir())]
    done = subprocess.run(["dcmdump", *files], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    assert done.stdout.count("SYNTHETIC^WARDROUND") == len(files)


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_a_file_set_takes_a_hundred_files(folder: Path, tmp_path: Path) -> None:
    files = FileSetWriter("test")
    for file in sorted(folder.iterdir()):
        files.add(file.read_bytes())
    places = files.write(tmp_path / "disc")
    assert len(places) == FILES
    listed = FileSet(tmp_path / "disc" / "DICOMDIR")
    assert len(listed.find_values("PatientID")) == len(listed.find_values("StudyInstanceUID")) == FILES
    kept = {place.read_bytes() for place in places.values()}
    assert kept == {file.read_bytes() for file in folder.iterdir()}
    del listed
    gc.collect()  # pydicom's own folder goes here, where its warning is expected


@pytest.mark.orthanc
@needs_orthanc
@pytest.mark.parametrize("road", ["C-STORE", "STOW-RS"])
def test_orthanc_takes_a_set_and_joins_no_two_of_it(folder: Path, tmp_path: Path, road: str) -> None:
    files = FileSetWriter("test")
    for file in sorted(folder.iterdir())[:20]:
        files.add(file.read_bytes())
    places = files.write(tmp_path / "disc")
    with orthanc(tmp_path / "db") as server:
        if road == "C-STORE":
            command = [STORESCU or "", "+sd", "+r", "-aec", "ORTHANC", "127.0.0.1", str(server.dicom_port)]
            names = [str(path) for path in sorted({place.parents[2] for place in places.values()})]
            subprocess.run([*command, *names], check=True, capture_output=True, timeout=120)
        else:
            client = DICOMwebClient(server.url)
            answer = client.store_instances([pydicom.dcmread(place) for place in places.values()])
            assert not answer.get("FailedSOPSequence")
        for level in ("patients", "studies", "series", "instances"):
            address = f"http://localhost:{server.http_port}/{level}"
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert len(json.load(answer)) == len(places), level


@pytest.mark.orthanc
@needs_orthanc
def test_orthanc_stores_the_files_and_gives_the_same_bytes_back(folder: Path, tmp_path: Path) -> None:
    sent = {pydicom.dcmread(file).SOPInstanceUID: file for file in sorted(folder.iterdir())[:20]}
    with orthanc(tmp_path / "db") as server:
        root = server.url.removesuffix("/").removesuffix("dicom-web").removesuffix("/")
        for file in sent.values():
            request = urllib.request.Request(f"{root}/instances", data=file.read_bytes(), method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer)["Status"] == "Success"
        with urllib.request.urlopen(f"{root}/instances", timeout=30) as answer:
            names = json.load(answer)
        assert len(names) == len(sent)
        for name in names:
            with urllib.request.urlopen(f"{root}/instances/{name}/file", timeout=30) as answer:
                (tmp_path / "back.dcm").write_bytes(answer.read())
            back = pydicom.dcmread(tmp_path / "back.dcm")
            assert (tmp_path / "back.dcm").read_bytes() == sent[back.SOPInstanceUID].read_bytes()
            assert read_provenance(tmp_path / "back.dcm") == PROVENANCE
