"""The other side of the PACS tests, in this process: an archive of pynetdicom, and a web server that can lie."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt

from tests.client.pacs_bench import CR, CT, Studies


@dataclass
class Archive:
    """A DICOM archive made of pynetdicom, honest until one of its answers is replaced.

    Attributes:
        sends: What a C-GET or C-MOVE of (study, series) sends; replaced in tests of bad archives.
        announces: NumberOfStudyRelatedInstances of a study; None leaves it out.
        requests: Levels and UIDs of the C-FIND, C-GET and C-MOVE requests that came.
    """

    studies: Studies
    port: int = 0
    move_port: int = 0
    requests: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = {study: [dcmread(path) for path in objects.values()] for study, objects in self.studies.items()}

    def sends(self, study: str, series: str) -> list[Dataset]:
        return [ds for ds in self.files.get(study, []) if ds.SeriesInstanceUID == series]

    def announces(self, study: str) -> int | None:
        return len(self.files[study])

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        self.requests.append(("FIND", keys.QueryRetrieveLevel))
        study = keys.get("StudyInstanceUID")
        chosen = [ds for uid, files in self.files.items() if not study or uid == study for ds in files]
        if keys.QueryRetrieveLevel == "IMAGE":
            chosen = [ds for ds in chosen if ds.SeriesInstanceUID == keys.SeriesInstanceUID]
        unique = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
        for ds in {ds[unique[keys.QueryRetrieveLevel]].value: ds for ds in chosen}.values():
            answer = Dataset()
            answer.QueryRetrieveLevel = keys.QueryRetrieveLevel
            for keyword in (
                "StudyInstanceUID",
                "SeriesInstanceUID",
                "SOPInstanceUID",
                "SOPClassUID",
                "StudyDate",
                "PatientID",
            ):
                if keyword in keys:
                    setattr(answer, keyword, ds[keyword].value)
            if "NumberOfStudyRelatedInstances" in keys and self.announces(ds.StudyInstanceUID) is not None:
                answer.NumberOfStudyRelatedInstances = self.announces(ds.StudyInstanceUID)
            yield 0xFF00, answer

    def get(self, event: Any) -> Iterator[Any]:
        yield from self._retrieve(event, "GET")

    def move(self, event: Any) -> Iterator[Any]:
        contexts = [
            build_context(kind, syntax)
            for kind in (CT, CR)
            for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        ]
        yield "127.0.0.1", self.move_port, {"ae_title": "WARDROUND", "contexts": contexts}
        yield from self._retrieve(event, "MOVE")

    def _retrieve(self, event: Any, name: str) -> Iterator[Any]:
        study, series = str(event.identifier.StudyInstanceUID), str(event.identifier.SeriesInstanceUID)
        self.requests.append((name, study, series))
        objects = self.sends(study, series)
        yield len(objects)
        for ds in objects:
            yield 0xFF00, ds


@contextlib.contextmanager
def serving(archive: Archive, *, tls: Any = None) -> Iterator[Archive]:
    """Let the archive listen on loopback."""
    entity = AE("ARCHIVE")
    entity.require_calling_aet = ["WARDROUND"]
    entity.require_called_aet = True
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)
    for number in (1, 2, 3):
        entity.add_supported_context(f"1.2.840.10008.5.1.4.1.2.2.{number}")
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=tls,
        evt_handlers=[(evt.EVT_C_FIND, archive.find), (evt.EVT_C_GET, archive.get), (evt.EVT_C_MOVE, archive.move)],
    )
    archive.port = server.server_address[1]
    try:
        yield archive
    finally:
        entity.shutdown()


class WebPacs(ThreadingHTTPServer):
    """A DICOMweb service, honest until `answer` is replaced.

    Attributes:
        requests: Paths asked for, with the Authorization and the Accept header that came.
    """

    daemon_threads = True

    def __init__(self, studies: Studies) -> None:
        super().__init__(("127.0.0.1", 0), _WebHandler)
        self.studies = studies
        self.requests: list[tuple[str, str, str]] = []
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.server_address[1]}/dicom-web"

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path."""
        path, _, query = path.partition("?")
        steps = path.removeprefix("/dicom-web/").split("/")
        page = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        start = int(page.get("offset", 0))
        match steps:
            case ["studies"]:
                items = [self.study_item(study) for study in self.studies]
            case ["studies", study, "instances"]:
                items = [self.instance_item(path) for path in self.studies[study].values()]
            case ["studies", study, "series"]:
                items = [{"0020000E": {"Value": [series]}} for series in self.series_of(study)]
            case ["studies", study, "series", series, "instances"]:
                items = [self.instance_item(path) for path in self.series_of(study)[series]]
            case ["studies", study, "series", _, "instances", sop]:
                return (
                    200,
                    {"Content-Type": 'multipart/related; type="application/dicom"; boundary=XX'},
                    multipart(self.studies[study][sop].read_bytes()),
                )
            case _:
                return 404, {}, b""
        body = json.dumps(items[start : start + int(page.get("limit", len(items)))]).encode()
        return 200, {"Content-Type": "application/dicom+json"}, body

    def study_item(self, study: str) -> dict[str, Any]:
        return {
            "0020000D": {"vr": "UI", "Value": [study]},
            "00201208": {"vr": "IS", "Value": [len(self.studies[study])]},
        }

    def series_of(self, study: str) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.studies[study].values():
            found.setdefault(str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID), []).append(path)
        return found

    def instance_item(self, path: Path) -> dict[str, Any]:
        ds = dcmread(path, stop_before_pixels=True)
        return {
            "0020000E": {"vr": "UI", "Value": [ds.SeriesInstanceUID]},
            "00080018": {"vr": "UI", "Value": [ds.SOPInstanceUID]},
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client hangs up."""


def multipart(*objects: bytes) -> bytes:
    """Return a multipart/related body with boundary XX."""
    parts = b"".join(b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in objects)
    return parts + b"--XX--\r\n"


class _WebHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebPacs

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Authorization", ""), self.headers.get("Accept", "")))
        status, headers, body = self.server.answer(self.path)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


@contextlib.contextmanager
def web_pacs(studies: Studies, *, tls: Any = None) -> Iterator[WebPacs]:
    """Let a DICOMweb service listen on loopback."""
    server = WebPacs(studies)
    if tls is not None:
        server.socket, server.scheme = tls.wrap_socket(server.socket, server_side=True), "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost that signs itself; returns (key and certificate, certificate)."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    public = certificate.public_bytes(serialization.Encoding.PEM)
    both, alone = folder / "server.pem", folder / "ca.pem"
    both.write_bytes(key.private_bytes(*form) + public)
    alone.write_bytes(public)
    return both, alone
