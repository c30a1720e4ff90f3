"""Gives files of our own export to other people's software, and to our own ingest, which must refuse each of them.

    python -m tests.benchmarks.export_readers [--files 100]

For each modality, as many files are written as `wardround generate` writes them, half of them of each of two labels.
Printed are, of each reader that this machine has: how many files it took, and every complaint. Readers are dciodvfy
(Debian's dicom3tools, files of the 2022 edition, whose standard it knows), dcmdump (dcmtk), pydicom's FileSet, Orthanc
by C-STORE and by STOW-RS, highdicom, and `ingest`. A reader that is absent is null. The exit status is 1 where a reader
that is here took fewer than all.
"""

import argparse
import gc
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicomweb_client import DICOMwebClient
from pydicom.fileset import FileSet

from client.admission.ingest import IngestSettings, ingest
from common.dicom.export import Edition, Provenance
from common.dicom.file_set import FileSetWriter
from common.dicom.iods import OWN_CLASSES
from common.dicom.stamp import Stamp
from common.errors import NoUsableScans
from tests.client.pacs_bench import PLUGIN, STORESCU, orthanc

PARTS = {"CR": "CHEST", "DX": "CHEST", "CT": "HEAD", "MR": "HEAD", "MG": "BREAST", "US": "ABDOMEN"}
PROVENANCE = Provenance(
    study="chest-2026", plan_digest="a" * 64, decoder_digest="b" * 64, epsilon=7.91, delta=1e-5, seed=3
)
Took = tuple[int, list[str]]
"""How many files a reader took, and what it complained of."""


def written(folder: Path, modality: str, files: int, edition: Edition) -> list[Path]:
    """Write the files of one modality; CT in Hounsfield units."""
    random, places = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for label in ("normal", "lesion"):
        window = (40.0, 400.0) if modality == "CT" else None
        stamp = Stamp(label=label, modality=modality, body_part=PARTS.get(modality, ""), provenance=PROVENANCE,
                      edition=edition, window=window)  # fmt: skip
        for index in range(files // 2):
            side = 28 + 4 * (index % 3)
            places.append(folder / f"{label}-{index:03d}.dcm")
            places[-1].write_bytes(stamp.file(random.integers(0, 256, (side, side)).astype(np.uint8), index=index))
    return places


def by_dciodvfy(files: list[Path]) -> Took | None:
    """Count the files that are of a known IOD and without error."""
    if shutil.which("dciodvfy") is None:
        return None
    took, said = 0, []
    for file in files:
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        errors = [line for line in lines if line.startswith("Error")]
        took += not errors and any("Image" in line for line in lines)
        said += errors
    return took, said


def by_dcmdump(files: list[Path]) -> Took | None:
    """Count the files that DCMTK reads without error or warning."""
    if shutil.which("dcmdump") is None:
        return None
    done = subprocess.run(["dcmdump", *map(str, files)], capture_output=True, text=True, timeout=600, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    return done.stdout.count("SYNTHETIC^WARDROUND"), said


def by_file_set(files: list[Path]) -> Took:
    """Count the studies of a DICOMDIR of the files: each of them is one."""
    writer = FileSetWriter("test")
    for file in files:
        writer.add(file.read_bytes())
    with tempfile.TemporaryDirectory(prefix="wardround-") as root, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        writer.write(Path(root) / "disc")
        listed = FileSet(Path(root) / "disc" / "DICOMDIR")
        took = len(listed.find_values("StudyInstanceUID"))
        del listed
        gc.collect()
    return took, []


def by_orthanc(files: list[Path], road: str) -> Took | None:
    """Count the patients that an Orthanc lists after it was sent the files: it joins those of one PatientID."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists() or STORESCU is None:
        return None
    with tempfile.TemporaryDirectory(prefix="wardround-") as root, orthanc(Path(root) / "db") as server:
        said: list[str] = []
        if road == "C-STORE":
            command = [STORESCU or "", "-aec", "ORTHANC", "127.0.0.1", str(server.dicom_port), *map(str, files)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]
        else:
            answer = DICOMwebClient(server.url).store_instances([pydicom.dcmread(file) for file in files])
            said = [str(failed) for failed in answer.get("FailedSOPSequence", ())]
        with urllib.request.urlopen(f"http://localhost:{server.http_port}/patients", timeout=30) as listed:
            return len(json.load(listed)), said


def by_highdicom(files: list[Path]) -> Took | None:
    """Count the files of which highdicom gives the stored pixels."""
    try:
        highdicom: Any = importlib.import_module("highdicom")
    except ImportError:
        return None
    took = 0
    for file in files:
        frame = highdicom.imread(file).get_stored_frame(1)
        took += np.array_equal(np.squeeze(frame), pydicom.dcmread(file).pixel_array)
    return took, []


def by_our_ingest(files: list[Path]) -> Took:
    """Count the files that our own ingest refuses as synthetic."""
    with tempfile.TemporaryDirectory(prefix="wardround-") as root:
        try:
            summary = ingest(files[0].parent, Path(root) / "home", IngestSettings(image_size=28), workers=1)
        except NoUsableScans as refusal:
            reason, count = str(refusal).partition("(")[2].partition(")")[0].split()
            return (int(count) if reason == "synthetic" else 0), [] if reason == "synthetic" else [str(refusal)]
        return 0, [f"admitted {summary.admitted}"]


READERS: dict[str, tuple[Edition, Callable[[list[Path]], Took | None]]] = {
    "dciodvfy": ("2022", by_dciodvfy),
    "dcmdump": ("current", by_dcmdump),
    "pydicom FileSet": ("current", by_file_set),
    "Orthanc by C-STORE": ("current", lambda files: by_orthanc(files, "C-STORE")),
    "Orthanc by STOW-RS": ("current", lambda files: by_orthanc(files, "STOW-RS")),
    "highdicom": ("current", by_highdicom),
    "refused by our ingest": ("current", by_our_ingest),
    "refused by our ingest, 2022": ("2022", by_our_ingest),
}


def run(files: int) -> dict[str, dict[str, object]]:
    """Return what each reader took of each modality."""
    account: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="wardround-") as root:
        for modality in OWN_CLASSES:
            made = {edition: written(Path(root) / edition / modality, modality, files, edition)
                    for edition in ("current", "2022")}  # fmt: skip
            account[modality] = {"files": files}
            for name, (edition, reader) in READERS.items():
                took = reader(made[edition])
                account[modality][name] = took and took[0]
                if took is not None and took[1]:
                    account[modality][f"{name} said"] = sorted(set(took[1]))
    return account


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100)
    options = parser.parse_args()
    found = run(options.files)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    counts = [row[name] for row in found.values() for name in READERS]
    sys.exit(any(count is not None and count != options.files for count in counts))
