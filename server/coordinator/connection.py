"""One TLS connection at the gateway: it shows the peer's certificate to the application and ends slow requests."""

import asyncio
import ssl

from uvicorn.protocols.http.h11_impl import H11Protocol

PEER = "peer_certificate"
"""Key of the peer's certificate (DER) in the request's state."""
HEADER_S = 20.0
"""Longest time from the first byte of a request, or from the connection, to the end of its headers, seconds."""


class GuardedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with two additions that it lacks: the client certificate, and a header deadline."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember whose connection this is."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls else None
        self.app_state = {**self.app_state, PEER: peer or b""}
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; once the headers are whole the application's own limits hold."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the timer with the connection."""
        self._forget()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_S, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
