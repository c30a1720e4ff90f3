"""`wardround site pull` and `wardround site receive`: fill a folder with DICOM files from a PACS."""

import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import click

from client.pacs.study import MIB, PacsError, PullLimits, StudyQuery
from common.display.terminal import emit, json_option, say, track

if TYPE_CHECKING:  # DICOM and its network take a second to load, which other commands do without
    from client.pacs.dicomweb import DicomwebPacs
    from client.pacs.dimse import DimsePacs
    from client.pacs.receiver import ReceivedStudies

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "WARDROUND_PACS_TOKEN"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_to = click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to fill.",
)
_max_instance = click.option(
    "--max-instance-mib",
    default=512,
    show_default=True,
    type=click.IntRange(1),
    help="Largest single object.",
)
_max_study = click.option(
    "--max-study-mib", default=16384, show_default=True, type=click.IntRange(1), help="Largest study."
)
_timeout = click.option(
    "--timeout",
    "timeout_s",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Longest silence of the PACS, seconds.",
)


@click.command()
@_to
@click.option("--dicomweb", "url", help="Address of a DICOMweb service, https://HOST[:PORT]/PATH.")
@click.option("--dimse", "host_port", help="HOST:PORT of a DICOM archive.")
@click.option("--token-file", type=_FILE, help=f"DICOMweb: file with the bearer token; or set {TOKEN_VARIABLE}.")
@click.option("--ca", type=_FILE, help="Certificates that may vouch for the PACS; with --dimse, turns TLS on.")
@click.option("--cert", type=_FILE, help="Our certificate, where the PACS wants one (PEM).")
@click.option("--key", type=_FILE, help="The key of --cert (PEM).")
@click.option("--insecure", is_flag=True, help="DICOMweb: allow http:// to another machine.")
@click.option("--aet", help="DIMSE: AE title of the PACS.")
@click.option("--calling-aet", default="WARDROUND", show_default=True, help="DIMSE: our AE title.")
@click.option(
    "--mode",
    type=click.Choice(["get", "move"]),
    default="get",
    show_default=True,
    help="DIMSE: C-GET or C-MOVE.",
)
@click.option("--move-port", default=11113, show_default=True, type=click.IntRange(0, 65535), help="C-MOVE: our port.")
@click.option("--move-bind", default="127.0.0.1", show_default=True, help="C-MOVE: our address.")
@click.option("--modality", default="", help="Only studies that hold this modality, such as CT.")
@click.option("--study-date", default="", help="Only studies of YYYYMMDD or YYYYMMDD-YYYYMMDD.")
@click.option("--patient-id", default="", help="Only studies of this PatientID; * and ? are wildcards.")
@click.option("--limit", type=click.IntRange(1), help="Most studies, in the order the PACS names them.")
@_max_instance
@_max_study
@_timeout
@click.option(
    "--exchange-timeout",
    "exchange_s",
    default=900.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Longest time for one object (DICOMweb) or one series (DIMSE), seconds.",
)
@click.option(
    "--attempts",
    default=4,
    show_default=True,
    type=click.IntRange(1, 20),
    help="Tries before a study is given up.",
)
@json_option
@click.pass_context
def pull(ctx: click.Context, /, as_json: bool, folder: Path, **options: Any) -> None:
    """Pull studies from a PACS into a folder, study by study.

    Name the PACS with --dicomweb or with --dimse and --aet. Run the same command again to go on after an
    interruption, or to try the studies that failed; a finished study is not pulled twice. Ends with exit code 4 if
    a study failed.
    """
    from client.pacs.job import PullFolder, find_studies, pull_studies, summarise, tally

    with _usage_errors():
        query = StudyQuery(**{key: options[key] for key in ("modality", "study_date", "patient_id", "limit")})
        limits = _limits(options)
        pacs = _source(options, limits=limits)
    numbers: Counter[str] = Counter()
    with _quiet_values(), PullFolder(folder) as place, pacs as source:
        studies = find_studies(source, query, limits=limits)
        outcomes = pull_studies(source, studies, place, limits=limits)
        for outcome in track(outcomes, description="studies", total=len(studies), quiet=as_json):
            tally(numbers, outcome)
        summary = summarise(numbers, studies=len(studies))
        failures = place.failures()
    emit(summary | {"errors": failures}, as_json=as_json, text=lambda: _pull_text(summary, failures, folder))
    if summary["failed"]:
        ctx.exit(PacsError.exit_code)


@click.command()
@_to
@click.option("--aet", default="WARDROUND", show_default=True, help="Our AE title.")
@click.option(
    "--allow",
    "callers",
    required=True,
    multiple=True,
    help="AE title that may send; give it once per sender.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address of this machine to listen on.")
@click.option(
    "--port",
    default=11112,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one.",
)
@_max_instance
@_max_study
@_timeout
@json_option
def receive(
    as_json: bool, folder: Path, aet: str, callers: tuple[str, ...], bind: str, port: int, **options: Any
) -> None:
    """Take what a PACS or a router sends by C-STORE, until SIGTERM or Ctrl-C.

    Ends with exit code 0 when told to stop and 5 when the folder or the port cannot be used. A sender can test
    the service with C-ECHO.
    """
    from client.pacs.job import PullFolder
    from client.pacs.receiver import ReceivedStudies, StoreReceiver

    with _usage_errors(), _quiet_values(), PullFolder(folder) as place:
        limits = _limits(options)
        studies = ReceivedStudies(place, limits=limits)
        receiver = StoreReceiver(
            aet,
            (bind, port),
            callers=list(callers),
            limits=limits,
            deliver=studies.deliver,
            on_error=studies.refuse,
        )
        with _stopped_by_signal(studies), receiver:
            say(f"wardround: {aet} listens on {bind} port {receiver.port}", err=True)
            studies.stop.wait()
    if studies.fatal is not None:
        raise studies.fatal
    numbers = studies.counts
    emit(numbers, as_json=as_json, text=lambda: ", ".join(f"{key} {value}" for key, value in numbers.items()))


def _source(options: dict[str, Any], *, limits: PullLimits) -> AbstractContextManager["DicomwebPacs | DimsePacs"]:
    """Make the PACS that the options name; raises ValueError with what is wrong with them."""
    from client.pacs.dicomweb import DicomwebPacs, is_loopback
    from client.pacs.dimse import DimsePacs, DimsePeer

    if (options["url"] is None) == (options["host_port"] is None):
        raise ValueError("name one PACS: --dicomweb URL, or --dimse HOST:PORT with --aet")
    if (options["cert"] is None) != (options["key"] is None):
        raise ValueError("--cert and --key belong together")
    certificate = (options["cert"], options["key"]) if options["cert"] else None
    if options["url"] is not None:
        return DicomwebPacs(
            options["url"],
            limits=limits,
            token=_token(options["token_file"]),
            ca=options["ca"],
            certificate=certificate,
            insecure=options["insecure"],
        )
    if not options["aet"]:
        raise ValueError("--dimse needs the AE title of the PACS, --aet")
    host, port = _host_port(options["host_port"])
    if options["mode"] == "move" and is_loopback(options["move_bind"]) and not is_loopback(host):
        raise ValueError("for C-MOVE the PACS must reach us: give our address in its network with --move-bind")
    return DimsePacs(
        DimsePeer(
            host=host,
            port=port,
            ae_title=options["aet"],
            our_title=options["calling_aet"],
            mode=options["mode"],
            move_bind=options["move_bind"],
            move_port=options["move_port"],
            ca=options["ca"],
            certificate=certificate,
        ),
        limits=limits,
    )


def _host_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port is None or parts.path or parts.username:
        raise ValueError("--dimse takes HOST:PORT, such as pacs.example:104")
    return parts.hostname, parts.port


def _token(file: Path | None) -> str:
    """Read the bearer token; it is never an option, for options show in the process list."""
    text = file.read_text(encoding="ascii") if file else os.environ.get(TOKEN_VARIABLE, "")
    token = text.strip()
    if (file and not token) or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"the token in {file or TOKEN_VARIABLE} must be one line of printable characters")
    return token


def _limits(options: dict[str, Any]) -> PullLimits:
    named = {key: options[key] for key in ("timeout_s", "exchange_s", "attempts") if key in options}
    return PullLimits(
        instance_bytes=options["max_instance_mib"] * MIB,
        study_bytes=options["max_study_mib"] * MIB,
        **named,
    )


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn a setting that refuses its value into the command line's own error, exit code 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextlib.contextmanager
def _quiet_values() -> Iterator[None]:
    """Keep pydicom from repeating values that break a rule, patients' among them, in warnings and logs."""
    from pydicom.config import IGNORE
    from pydicom.config import settings as pydicom_settings

    before = pydicom_settings.reading_validation_mode, pydicom_settings.writing_validation_mode
    pydicom_settings.reading_validation_mode = pydicom_settings.writing_validation_mode = IGNORE
    try:
        yield
    finally:
        pydicom_settings.reading_validation_mode, pydicom_settings.writing_validation_mode = before


@contextlib.contextmanager
def _stopped_by_signal(studies: "ReceivedStudies") -> Iterator[None]:
    """Set `studies.stop` on SIGTERM and SIGINT; the objects in flight are whole or absent, as always."""
    before = {
        number: signal.signal(number, lambda *_: studies.stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, cast(Any, handler))


def _pull_text(summary: dict[str, int], failures: dict[str, int], folder: Path) -> str:
    lines = [
        f"{summary['studies']} studies announced: {summary['done']} pulled, {summary['skipped']} were here, "
        f"{summary['failed']} failed",
        f"{summary['instances']} objects came, {summary['bytes'] / MIB:.1f} MiB, into {folder}",
    ]
    if summary.get("short"):
        lines.append(f"{summary['short']} of them: the PACS announces more objects than it lists; run again later")
    lines += [f"not pulled: {count} ({name}); run again to try them" for name, count in sorted(failures.items())]
    return "\n".join(lines)
