"""What pynetdicom leaves unbounded on a connection: the size of a PDU, of an object, and the time they may take."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity
from pynetdicom.events import Event

from client.pacs.study import MIB, PacsOverCap, PullLimits

MAX_PDU_BYTES = 2**17
"""PDU size we offer to receive; larger than pynetdicom's 16 KiB, for fewer turns of its loop per object."""
_ENVELOPE_BYTES = MIB  # the command set and the PDU headers around one object
_ANY_PDU_BYTES = 2**18  # an association request with 128 contexts and long lists stays below


class ConnectionGuard:
    """Bounds for one connection, put in place when it opens.

    pynetdicom reads a PDU with a blocking call per piece and no timeout, so that three bytes from a peer that then
    falls silent stop its thread, and with it its own timers, for ever. It takes the length in a PDU's header as it
    comes (up to 4 GiB), and joins the pieces of an object of any size in memory. Found in version 3.0.4
    (`dul.py`, `_read_pdu_data`; `transport.py`, `AssociationSocket.recv`).
    """

    def __init__(self, limits: PullLimits, *, on_breach: Callable[[PacsOverCap], None]) -> None:
        self._limits = limits
        self._on_breach = on_breach
        self._socket: socket.socket | None = None
        self._object_bytes = 0

    def attach(self, event: Event) -> None:
        """Take over reading from the connection that `EVT_CONN_OPEN` announces."""
        wrapper: Any = event.assoc.dul.socket
        self._socket = wrapper.socket
        wrapper.recv = self._receive

    def detach(self, event: Event | None = None) -> None:
        """Free the socket; bound to `EVT_CONN_CLOSE`.

        pynetdicom forgets to when the peer was the first to close (`AssociationSocket._shutdown_socket`).
        """
        if self._socket is not None:
            self._socket.close()

    def object_done(self) -> None:
        """Begin to count anew; called when an object has been handed over whole."""
        self._object_bytes = 0

    def cut(self) -> None:
        """End the connection now, also under a thread that is reading from it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The plain socket's method: ssl's own would drop the TLS layer under the reading thread.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _receive(self, wanted: int) -> bytearray:
        """Read `wanted` bytes, or fewer if the peer closes; stands in for `AssociationSocket.recv`."""
        self._object_bytes += wanted
        if wanted > _ANY_PDU_BYTES or self._object_bytes > self._limits.instance_bytes + _ENVELOPE_BYTES:
            self._on_breach(
                PacsOverCap(
                    f"the PACS sends an object or a message above the cap of {self._limits.instance_bytes} bytes. "
                    "Raise --max-instance-mib if such objects are expected"
                )
            )
            self.cut()
            raise OSError("over the cap")
        assert self._socket is not None
        deadline = time.monotonic() + self._limits.timeout_s
        data = bytearray()
        while len(data) < wanted:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                piece = self._socket.recv(min(wanted - len(data), 2**16))
            except TimeoutError:
                self.cut()
                raise
            if not piece:
                break
            data += piece
        self._socket.settimeout(self._limits.timeout_s)
        return data


def make_entity(ae_title: str, *, limits: PullLimits) -> ApplicationEntity:
    """Return an application entity of ours with every timeout set and no patient data in its logs."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_REQUEST_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    entity = ApplicationEntity(ae_title=ae_title)
    entity.maximum_pdu_size = MAX_PDU_BYTES
    entity.connection_timeout = limits.timeout_s
    entity.acse_timeout = limits.timeout_s
    entity.dimse_timeout = limits.timeout_s
    entity.network_timeout = limits.timeout_s
    return entity
