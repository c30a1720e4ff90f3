"""Synthetic files pass other people's software: dciodvfy finds no error, dcmtk reads them, Orthanc gives them back."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest

from common.dicom.export import Edition, Provenance, read_provenance
from common.dicom.stamp import Stamp
from tests.client.pacs_bench import needs_orthanc, orthanc

PROVENANCE = Provenance(
    study="chest-2026", plan_digest="a" * 64, decoder_digest="b" * 64, epsilon=7.91, delta=1e-5, seed=3
)
FILES = 100
PARTS = {"CR": "CHEST", "DX": "CHEST", "CT": "HEAD", "MR": "HEAD", "US": "ABDOMEN"}


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
