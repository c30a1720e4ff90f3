"""A PACS asked over DIMSE: C-FIND names the studies and their objects, C-GET or C-MOVE brings them series by series."""

import contextlib
import ssl
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydicom import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.status import code_to_category

from client.pacs.dimse_guard import ConnectionGuard, make_entity
from client.pacs.inbox import raw_text
from client.pacs.receiver import SUCCESS, StoreReceiver, store_status
from client.pacs.study import (
    AnnouncedInstance,
    AnnouncedStudy,
    Inbox,
    PacsAnswerInvalid,
    PacsError,
    PacsOverCap,
    PacsRefused,
    PacsUnreachable,
    PullLimits,
    StudyQuery,
    checked_ae_title,
    checked_uid,
    first_value,
    time_limit,
)
from common.errors import WardroundError

StudyFind = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query/Retrieve Information Model, PS3.4 C.6.2
StudyMove = "1.2.840.10008.5.1.4.1.2.2.2"
StudyGet = "1.2.840.10008.5.1.4.1.2.2.3"
_PLAIN = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_CONTEXTS = 127  # PS3.8 9.3.2.2: 128 identifiers, one of them for the C-GET itself
_COMPRESSED = (  # most common in archives first
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.201",
)
_USUAL_CLASSES = (  # asked for where a PACS does not name the classes of a study
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.20",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.12.1",
)
_STUDY_KEYWORDS = (
    "StudyInstanceUID",
    "NumberOfStudyRelatedInstances",
    "ModalitiesInStudy",
    "StudyDate",
    "PatientID",
)


@dataclass(frozen=True, kw_only=True)
class DimsePeer:
    """The PACS to ask, and who we are to it.

    Attributes:
        host: Name or address.
        port: DICOM port.
        ae_title: The PACS's AE title.
        our_title: Ours; the PACS must know it, and for C-MOVE also our address and `move_port`.
        mode: "get" brings the objects over the connection we open, "move" over one that the PACS opens to us.
        move_bind: Our address for C-MOVE.
        move_port: Our port for C-MOVE.
        ca: File with the certificates that may vouch for the PACS; None speaks without TLS.
        certificate: Our certificate and key, PEM files, where the PACS wants them.
    """

    host: str
    port: int
    ae_title: str
    our_title: str = "WARDROUND"
    mode: Literal["get", "move"] = "get"
    move_bind: str = "127.0.0.1"
    move_port: int = 11113
    ca: Path | None = None
    certificate: tuple[Path, Path] | None = None

    def __post_init__(self) -> None:
        checked_ae_title(self.ae_title)
        checked_ae_title(self.our_title)
        if not 1 <= self.port <= 65535 or not 0 <= self.move_port <= 65535:
            raise ValueError("a port is a number from 1 to 65535")
        if self.ca and self.mode == "move":
            raise ValueError("with TLS use mode get: the connection that a PACS opens for C-MOVE would have none")

    def tls(self) -> tuple[ssl.SSLContext, str] | None:
        """Return what the connection is encrypted with; None without `ca`."""
        if self.ca is None:
            return None
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        return context, self.host


class DimsePacs:
    """A DICOM archive as a source of studies; use as a context manager."""

    def __init__(self, peer: DimsePeer, *, limits: PullLimits) -> None:
        self._peer = peer
        self._limits = limits
        self._inbox: Inbox | None = None
        self._failure: WardroundError | None = None
        self._receiver: StoreReceiver | None = None
        if peer.mode == "move":
            self._receiver = StoreReceiver(
                peer.our_title,
                (peer.move_bind, peer.move_port),
                callers=[peer.ae_title],
                limits=limits,
                deliver=self._deliver,
                on_error=self._fail,
            )

    def __enter__(self) -> Self:
        if self._receiver:
            self._receiver.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._receiver:
            self._receiver.__exit__(kind, error, trace)

    def find(self, query: StudyQuery) -> list[AnnouncedStudy]:
        """List the studies that fit the query, each once; raises `PacsError`."""
        identifier = _identifier("STUDY", **dict.fromkeys(_STUDY_KEYWORDS, "") | query.keys)
        studies: dict[str, AnnouncedStudy] = {}
        with self._connected(StudyFind, storage=[]) as (association, guard), self._bounded(guard):
            for answer in self._ask(association, identifier, at_most=self._limits.studies):
                study = AnnouncedStudy.read(answer)
                if query.admits(answer):
                    studies.setdefault(study.uid, study)
                if query.limit is not None and len(studies) >= query.limit:
                    break
        return list(studies.values())

    def fetch(self, study: AnnouncedStudy, inbox: Inbox) -> None:
        """Announce the study's objects to the inbox, then bring the series it lacks; raises `PacsError`."""
        instances = self._instances(checked_uid(study.uid, what="StudyInstanceUID"))
        inbox.expect(instances)
        by_series = defaultdict(list)
        for instance in instances:
            by_series[instance.series].append(instance)
        missing = {
            series: {member.sop_class for member in members}
            for series, members in by_series.items()
            if not all(inbox.holds(member.sop) for member in members)
        }
        self._inbox = inbox
        try:
            if missing:
                self._retrieve(study.uid, missing)
        except ValueError as error:
            raise PacsRefused(
                f"the PACS offers no C-{self._peer.mode.upper()} to {self._peer.our_title}. Try the other --mode"
            ) from error
        finally:
            self._inbox = None

    def _instances(self, study_uid: str) -> list[AnnouncedInstance]:
        instances: dict[str, AnnouncedInstance] = {}
        at_most = self._limits.study_instances
        with self._connected(StudyFind, storage=[]) as (association, guard), self._bounded(guard):
            keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": ""}
            every = [
                first_value(answer, "SeriesInstanceUID")
                for answer in self._ask(association, _identifier("SERIES", **keys), at_most=at_most)
            ]
            for series in dict.fromkeys(every):
                keys["SeriesInstanceUID"] = checked_uid(series, what="SeriesInstanceUID")
                identifier = _identifier("IMAGE", **keys, SOPInstanceUID="", SOPClassUID="")
                for answer in self._ask(association, identifier, at_most=at_most - len(instances)):
                    instance = AnnouncedInstance.read(answer, series=series)
                    instances[instance.sop] = instance
        return list(instances.values())

    def _ask(
        self, association: Association, identifier: Dataset, *, at_most: int
    ) -> Iterator[dict[str, tuple[str, ...]]]:
        """Yield the answers to one C-FIND, by keyword."""
        count, finished = 0, False
        try:
            for status, answer in association.send_c_find(identifier, StudyFind):
                finished = not self._is_pending(status)
                if finished:
                    return
                count += 1
                if count > at_most:
                    raise PacsOverCap(f"the PACS lists more than {at_most} entries. Narrow the query")
                yield _by_keyword(answer)
        except (ValueError, RuntimeError) as error:
            raise PacsRefused(
                f"the PACS offers no C-FIND to {self._peer.our_title}. Ask its keeper to allow it"
            ) from error
        finally:
            if not finished and association.is_established:
                association.abort()  # with enough answers, do not wait for the rest

    def _retrieve(self, study_uid: str, missing: dict[str, set[str]]) -> None:
        """Bring whole series; `missing` maps each to its SOP classes, as far as the PACS names them."""
        get = self._peer.mode == "get"
        classes = sorted(set().union(*missing.values()) - {""}) or list(_USUAL_CLASSES)
        with self._connected(StudyGet if get else StudyMove, storage=classes if get else []) as (association, guard):
            for series in missing:
                identifier = _identifier("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID=series)
                with self._bounded(guard):
                    if get:
                        answers = association.send_c_get(identifier, StudyGet)
                    else:
                        answers = association.send_c_move(identifier, self._peer.our_title, StudyMove)
                    for status, _ in answers:
                        self._is_pending(status)
                if failure := self._why():
                    raise failure

    def _is_pending(self, status: Dataset) -> bool:
        """Say whether more answers follow; a warning counts as the end, the objects are counted afterwards."""
        if "Status" not in status:
            raise PacsUnreachable("the connection to the PACS ended, or fell silent, in the middle of an answer")
        category = code_to_category(status.Status)
        if category not in ("Pending", "Success", "Warning"):
            raise PacsRefused(
                f"the PACS answered with status 0x{status.Status:04X} ({category}). Ask its keeper what its log says"
            )
        return category == "Pending"

    @contextlib.contextmanager
    def _bounded(self, guard: ConnectionGuard) -> Iterator[None]:
        """Bound one request and all its answers in time."""
        limits = self._limits
        with time_limit(limits.exchange_s, guard.cut) as expired:
            try:
                yield
            except PacsUnreachable as error:
                if expired.is_set():
                    raise PacsUnreachable(f"the PACS took more than {limits.exchange_s:g} s for one answer") from error
                raise

    @contextlib.contextmanager
    def _connected(self, model: str, *, storage: list[str]) -> Iterator[tuple[Association, ConnectionGuard]]:
        """Open an association for one model, and for the given SOP classes to be stored with us; close it."""
        limits = self._limits
        entity = make_entity(self._peer.our_title, limits=limits)
        if model == StudyMove:  # nothing need pass on this connection while the objects pass on the other
            entity.dimse_timeout = entity.network_timeout = limits.exchange_s
        entity.add_requested_context(model, _PLAIN)
        for sop_class, syntaxes in _storage_contexts(storage):
            entity.add_requested_context(sop_class, syntaxes)
        guard = ConnectionGuard(limits, on_breach=self._fail)
        self._failure = None

        def stored(event: Event) -> int:
            status = self._stored(event)
            guard.object_done() if status == SUCCESS else guard.cut()
            return status

        association = entity.associate(
            self._peer.host,
            self._peer.port,
            ae_title=self._peer.ae_title,
            tls_args=self._peer.tls(),
            ext_neg=[build_role(sop_class, scp_role=True) for sop_class in storage],
            evt_handlers=[
                (evt.EVT_CONN_OPEN, guard.attach),
                (evt.EVT_CONN_CLOSE, guard.detach),
                (evt.EVT_C_STORE, stored),
            ],
        )
        try:
            self._check_established(association)
            yield association, guard
        except PacsError as error:
            failure = self._why()
            if failure is None or failure is error:
                raise
            raise failure from error  # why we broke off says more than that the connection ended
        finally:
            if association.is_established:
                association.release()

    def _check_established(self, association: Association) -> None:
        if association.is_rejected:
            raise PacsRefused(
                f"the PACS rejects us as {self._peer.our_title} calling {self._peer.ae_title}. Check --aet and "
                "--calling-aet, and that the PACS knows us"
            )
        if not association.is_established:
            raise PacsUnreachable("no DICOM connection to the PACS. Check host, port and, with --ca, its certificate")

    def _stored(self, event: Event) -> int:
        try:
            self._deliver(event.encoded_dataset())
        except WardroundError as error:
            self._fail(error)
            return store_status(error)
        return SUCCESS

    def _deliver(self, data: bytes) -> None:
        if self._inbox is None:
            raise PacsAnswerInvalid("the PACS sent an object while none was asked for. It was not stored")
        self._inbox.accept(data)

    def _why(self) -> WardroundError | None:
        """Return why we broke off, if we did; set from other threads."""
        return self._failure

    def _fail(self, error: WardroundError) -> None:
        if self._failure is None:
            self._failure = error


def _storage_contexts(classes: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Offer each class with each encoding on its own, as far as the 128 contexts go.

    On a context with several transfer syntaxes the PACS picks one, and must convert or withhold what it keeps in
    another. On contexts of their own it may send each object as it is.
    """
    each = _CONTEXTS // max(len(classes), 1)
    for sop_class in classes[:_CONTEXTS]:
        for syntaxes in [[syntax] for syntax in (*_PLAIN, *_COMPRESSED)[:each]] if each > 1 else [_PLAIN]:
            yield sop_class, syntaxes


def _identifier(level: str, **keys: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _by_keyword(answer: Dataset | None) -> dict[str, tuple[str, ...]]:
    if answer is None:
        raise PacsAnswerInvalid("the PACS sent a C-FIND answer that cannot be read")
    keywords = (*_STUDY_KEYWORDS, "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    return {keyword: tuple(part.strip(" \0") for part in raw_text(answer, keyword).split("\\")) for keyword in keywords}
