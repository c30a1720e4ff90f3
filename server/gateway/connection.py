"""One TLS connection at the gateway: it counts against its site's share, and ends slow requests."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from uvicorn.protocols.http.h11_impl import H11Protocol

PEER, ABORT = "peer_certificate", "abort_connection"
"""Keys of the peer's certificate (DER), and of a function that ends the connection at once, in the request's state."""
DOOR = "door"
"""Key in the application's state of the `Door` that lets connections in."""
HEADER_S = 20.0
"""Longest time from the first byte of a request, or from the connection, to the end of its headers, seconds."""


class Door(Protocol):
    """Who counts connections."""

    def let_in(self, certificate: bytes) -> Callable[[], None] | None:
        """Count a connection; return what to call at its end, or None where its site holds enough of them."""


class GuardedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with what it lacks: the client certificate, its site's share, a header deadline."""

    _deadline: asyncio.TimerHandle | None = None
    _leave: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember whose connection this is."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        peer = (tls.getpeercert(binary_form=True) if tls else None) or b""
        door: Door = self.app_state[DOOR]
        self.app_state = {PEER: peer, ABORT: transport.abort}
        self._leave = door.let_in(peer)
        if self._leave is None:
            transport.abort()
            return
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; once the headers are whole the application's own limits hold."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the timer with the connection, and give its place back."""
        self._forget()
        if self._leave is not None:
            self._leave()
            self._leave = None
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_S, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
