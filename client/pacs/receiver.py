"""Our C-STORE service class provider: takes objects from named peers, one file each, and hands out status codes."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from client.pacs.dimse_guard import ConnectionGuard, make_entity
from client.pacs.inbox import StudyInbox, spooled
from client.pacs.job import PullFolder
from client.pacs.study import PacsOverCap, PullLimits, checked_ae_title, hashed
from common.errors import StateError, WardroundError
from common.host.files import sync_folder

logger = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""Status of a C-STORE (PS3.4 table B.2-1)."""
VERIFICATION = "1.2.840.10008.1.1"
"""SOP class of C-ECHO."""
DEFLATED = "1.2.840.10008.1.2.1.99"
"""Its objects grow without bound when read, so that it is never agreed on."""
EXPLICIT = "1.2.840.10008.1.2.1"
TRANSFER_SYNTAXES = [EXPLICIT, *(syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax not in (EXPLICIT, DEFLATED))]
"""In the order in which we choose where a peer offers several in one context."""
_CONNECTIONS = 8


def store_status(error: WardroundError) -> int:
    """Return the C-STORE status that tells a peer what became of its object."""
    return OUT_OF_RESOURCES if isinstance(error, PacsOverCap | StateError) else CANNOT_UNDERSTAND


class StoreReceiver:
    """A storage SCP that listens from `__enter__` to `__exit__`.

    Args:
        ae_title: Our AE title; a caller that asks for another one is rejected.
        address: Address and port to listen on; port 0 takes a free one.
        callers: AE titles that may call; no other may.
        limits: Bounds on sizes and times.
        deliver: Takes one DICOM file, from several threads; returns when it is kept, raises `WardroundError`
            when it is not.
        on_error: Called with every error that `deliver` raised or that ended a connection.
    """

    def __init__(
        self,
        ae_title: str,
        address: tuple[str, int],
        *,
        callers: list[str],
        limits: PullLimits,
        deliver: Callable[[bytes], None],
        on_error: Callable[[WardroundError], None],
    ) -> None:
        self._address = address
        self._limits = limits
        self._deliver = deliver
        self._on_error = on_error
        self._guards: WeakKeyDictionary[Association, ConnectionGuard] = WeakKeyDictionary()
        self._server: ThreadedAssociationServer | None = None
        self._entity = make_entity(checked_ae_title(ae_title), limits=limits)
        self._entity.require_called_aet = True
        self._entity.require_calling_aet = [checked_ae_title(caller) for caller in callers]
        self._entity.maximum_associations = _CONNECTIONS
        self._entity.add_supported_context(VERIFICATION)
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(str(context.abstract_syntax), TRANSFER_SYNTAXES)
        if not callers:
            raise ValueError("a receiver without callers would accept no sender; name their AE titles")

    def __enter__(self) -> Self:
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_STORE, self._stored),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
        ]
        try:
            self._server = self._entity.start_server(self._address, block=False, evt_handlers=handlers)
        except OSError as error:
            raise StateError(
                f"port {self._address[1]} on {self._address[0]} cannot be listened on ({error.strerror}). "
                "Give a free port and an address of this machine"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
        for guard in list(self._guards.values()):
            guard.cut()

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def _opened(self, event: Event) -> None:
        guard = ConnectionGuard(self._limits, on_breach=self._on_error)
        self._guards[event.assoc] = guard
        guard.attach(event)

    def _closed(self, event: Event) -> None:
        self._guards[event.assoc].detach()

    def _stored(self, event: Event) -> int:
        try:
            self._deliver(event.encoded_dataset())
        except WardroundError as error:
            logger.warning("object refused: %s: %s", type(error).__name__, error)
            self._on_error(error)
            return store_status(error)
        finally:
            self._guards[event.assoc].object_done()
        return SUCCESS


class ReceivedStudies:
    """Files what peers send into one folder per study, and counts it.

    No sender announces how much will come, so a DICOM study has no end here: each object is complete, a study may not
    be.

    Attributes:
        counts: studies, instances, bytes, skipped (already there) and refused, as `--json` shows them.
        fatal: The first error that concerns this machine and not one object, else None.
        stop: Set when such an error came up.
    """

    def __init__(self, folder: PullFolder, *, limits: PullLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._inboxes: dict[str, StudyInbox] = {}
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(("studies", "instances", "bytes", "skipped", "refused"), 0)
        self.fatal: StateError | None = None
        self.stop = threading.Event()

    def deliver(self, data: bytes) -> None:
        """Check and keep one DICOM file, on disk before this returns; raises `PacsError` or `StateError`."""
        with spooled(data, self._folder.work, limits=self._limits) as (part, identity):
            inbox, size = self._inbox(identity.study), part.stat().st_size
            kept = inbox.place(part, identity)
            sync_folder(inbox.folder)
        with self._lock:
            self.counts["instances" if kept else "skipped"] += 1
            self.counts["bytes"] += size if kept else 0

    def refuse(self, error: WardroundError) -> None:
        """Count an object that was not kept; a full disk ends the service."""
        with self._lock:
            self.counts["refused"] += 1
            if isinstance(error, StateError) and self.fatal is None:
                self.fatal = error
                self.stop.set()

    def _inbox(self, study_uid: str) -> StudyInbox:
        with self._lock:
            if study_uid not in self._inboxes:
                if len(self._inboxes) >= self._limits.studies:
                    raise PacsOverCap(f"more than {self._limits.studies} studies came in one run. Restart the receiver")
                folder = self._folder.folder / hashed(study_uid)
                self._inboxes[study_uid] = StudyInbox(folder, study_uid=study_uid, limits=self._limits)
                self.counts["studies"] += 1
            return self._inboxes[study_uid]
