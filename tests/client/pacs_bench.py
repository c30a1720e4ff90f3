"""What the PACS tests stand on: real DICOM files, a real Orthanc, an archive of pynetdicom, a web server that lies."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from client.pacs.study import PullLimits, hashed

CT, CR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1"
SHORT = PullLimits(timeout_s=5, exchange_s=30, attempts=2, backoff_s=0.01, free_bytes=1)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

_PLACES = os.pathsep.join(
    place for place in os.environ.get("PATH", "").split(os.pathsep) if Path(place) != Path(sys.executable).parent
)
STORESCU = shutil.which("storescu", path=_PLACES)
"""DCMTK's; pynetdicom puts one of the same name beside the interpreter."""

needs_orthanc = pytest.mark.skipif(
    not shutil.which("Orthanc") or not PLUGIN.exists() or not STORESCU,
    reason="needs a real PACS: Debian packages orthanc, orthanc-dicomweb and dcmtk",
)
Studies = dict[str, dict[str, Path]]
"""StudyInstanceUID -> SOPInstanceUID -> file."""


def write_image(path: Path, *, patient: str, study: str, series: str, number: int, **more: Any) -> str:
    """Write one small CT or CR image; returns its SOPInstanceUID."""
    ds = Dataset()
    ds.SOPClassUID = CR if more.get("Modality") == "CR" else CT
    ds.SOPInstanceUID = more.pop("SOPInstanceUID", generate_uid())
    ds.PatientID, ds.PatientName = patient, f"Test^{patient}"
    ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber, ds.StudyTime, ds.ReferringPhysicianName = (
        "",
        "O",
        "",
        "",
        "",
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.StudyID = study, series, "1"
    ds.StudyDate, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "20240101", "CT", 1, number
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 32, 32, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.random.default_rng(number).integers(0, 4096, (32, 32), dtype=np.uint16).tobytes()
    syntax = more.pop("syntax", ExplicitVRLittleEndian)
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    return str(ds.SOPInstanceUID)


def make_studies(folder: Path, *, patients: int = 3, studies: int = 2, objects: int = 3) -> Studies:
    """Write a multi-patient set: each patient a CT study of two series per even number, a CR study per odd one."""
    made: Studies = defaultdict(dict)
    folder.mkdir(parents=True, exist_ok=True)
    for patient in range(patients):
        for index in range(studies):
            study, series = generate_uid(), (generate_uid(), generate_uid())
            for number in range(objects):
                path = folder / f"{patient}-{index}-{number}.dcm"
                sop = write_image(
                    path,
                    patient=f"P{patient}",
                    study=study,
                    series=series[number % 2],
                    number=number,
                    Modality=("CT", "CR")[index % 2],
                    StudyDate=f"2024010{index + 1}",
                    syntax=(ExplicitVRLittleEndian, ImplicitVRLittleEndian)[patient % 2],
                )
                made[study][sop] = path
    return dict(made)


def compressed_study(folder: Path) -> Studies:
    """One study of objects in the encodings that real archives hold, from pydicom's test files."""
    study, made = generate_uid(), {}
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_RLE.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "rtdose_1frame.dcm",
    )
    for name in names:
        ds = dcmread(get_testdata_file(name))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, generate_uid(), generate_uid()
        ds.PatientID, ds.PatientName = "COMPRESSED", "Test^Compressed"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / name)
        made[str(ds.SOPInstanceUID)] = folder / name
    return {study: made}


def pulled(folder: Path) -> dict[str, dict[str, Path]]:
    """Return what lies in a pull's folder, by the hashed names."""
    return {
        study.name: {path.stem: path for path in study.iterdir()}
        for study in folder.iterdir()
        if study.is_dir() and not study.name.startswith(".")
    }


def names(studies: Studies) -> dict[str, set[str]]:
    """Return the hashed names that `studies` must have in a pull's folder."""
    return {hashed(study): {hashed(sop) for sop in objects} for study, objects in studies.items()}


def dataset_bytes(path: Path) -> bytes:
    """Return a DICOM file behind its file meta information: the part that DIMSE carries."""
    raw = path.read_bytes()
    assert raw[128:132] == b"DICM"
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*args: str) -> list[str]:
    """Return the command line that runs `pull` or `receive` in a process of its own."""
    code = (
        "from client.pacs.cli import pull, receive; from common.display.terminal import Commands\n"
        "Commands('site', commands={'pull': pull, 'receive': receive})()"
    )
    return [sys.executable, "-c", code, *args]


def wait_for(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Wait until `condition` holds; fails the test after a time no machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@dataclass
class Orthanc:
    """A running Orthanc on loopback."""

    http_port: int
    dicom_port: int
    move_port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.http_port}/dicom-web"

    def fill(self, studies: Studies) -> None:
        """Send files with DCMTK's `storescu`, in the encoding they have."""
        files = [str(path) for objects in studies.values() for path in objects.values()]
        for path in files:
            syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
            option = {
                "1.2.840.10008.1.2.4.90": "-xv",
                "1.2.840.10008.1.2.4.80": "-xt",
                "1.2.840.10008.1.2.5": "-xr",
                "1.2.840.10008.1.2.4.50": "-xy",
                "1.2.840.10008.1.2.4.70": "-xs",
                "1.2.840.10008.1.2": "-xi",
            }.get(syntax, "-xe")
            subprocess.run(
                [STORESCU or "", "-R", option, "-aec", "ORTHANC", "127.0.0.1", str(self.dicom_port), path],
                check=True,
                timeout=60,
                capture_output=True,
            )


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start an Orthanc of our own in `folder`, and end it."""
    folder.mkdir(parents=True)
    server = Orthanc(free_port(), free_port(), free_port())
    allowed = {"AllowEcho": True, "AllowFind": True, "AllowGet": True, "AllowMove": True, "AllowStore": True}
    config = {
        "Name": "test",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpServerEnabled": True,
        "DicomServerEnabled": True,
        "DicomAlwaysAllowStore": True,
        "DicomCheckModalityHost": False,
        "DicomModalities": {"w": {"AET": "WARDROUND", "Host": "127.0.0.1", "Port": server.move_port} | allowed},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [shutil.which("Orthanc") or "", str(folder / "orthanc.json")], stdout=log, stderr=log
        )
        try:
            wait_for(lambda: process.poll() is not None or _listening(server))
            assert process.poll() is None, (folder / "log").read_text()
            yield server
        finally:
            process.terminate()
            process.wait(60)


def _listening(server: Orthanc) -> bool:
    for port in (server.http_port, server.dicom_port):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/studies", timeout=5):
        return True
    return False


class Gate:
    """A relay on loopback that stalls for good once `stall_when` holds, until it is opened."""

    def __init__(self, target: int, stall_when: Callable[[], bool], *, port: int = 0) -> None:
        self._target, self._stall_when = target, stall_when
        self.stalled, self.open = threading.Event(), threading.Event()
        self.passed = bytearray()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other, one is near), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if not self.open.is_set() and self._stall_when():
                    self.stalled.set()
                    self.open.wait()
                if keep:
                    self.passed += piece
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Let everything through and take nothing more."""
        self.open.set()
        self._listener.close()
