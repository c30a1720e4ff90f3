"""HTTP in which every exchange ends: at most so many bytes and so many seconds, for any behaviour of the peer."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from client.pacs.study import PacsOverCap, time_limit


class BoundedBody:
    """The body of one answer; fails above `max_bytes` (counted after decompression), before they are kept."""

    def __init__(self, raw: BaseHTTPResponse, *, max_bytes: int) -> None:
        self._raw = raw
        self._left = max_bytes
        self._max_bytes = max_bytes

    def stream(self, amount: int | None = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield the body in pieces; the name and arguments are those that requests calls."""
        for piece in self._raw.stream(amount or 2**16, decode_content=decode_content):
            self._left -= len(piece)
            if self._left < 0:
                self._raw.close()
                raise PacsOverCap(
                    f"the PACS sent an answer above the cap of {self._max_bytes} bytes. "
                    "Raise --max-instance-mib if such objects are expected"
                )
            yield piece

    def close(self) -> None:
        """Close the connection the body comes from."""
        self._raw.close()

    def release_conn(self) -> None:
        """Give the connection back for the next exchange."""
        self._raw.release_conn()


class BoundedAdapter(HTTPAdapter):
    """The transport of a `requests.Session`, one exchange at a time.

    A timeout of `requests` bounds the silence between two bytes only. A server that sends one byte now and then,
    in the headers or in the body, holds a client for ever. Here a timer shuts the socket down instead.

    Attributes:
        body: What the last answer brings.
        status: Its HTTP status; 0 before the first.
    """

    def __init__(self) -> None:
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        self._max_bytes = 0
        self.body: BoundedBody | None = None
        self.status = 0
        super().__init__(pool_connections=1, pool_maxsize=1)

    def bounds(self, *, seconds: float, max_bytes: int) -> AbstractContextManager[threading.Event]:
        """Bound the one exchange made inside; the event is set when its time ran out."""
        self._max_bytes = max_bytes
        return time_limit(seconds, self._cut)

    def finish(self) -> None:
        """Close what was not read to its end; a connection whose answer was read whole serves the next exchange."""
        if self.body is not None:
            self.body.close()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make pools whose connections are known here, so that they can be cut from outside."""
        super().init_poolmanager(*args, **kwargs)
        connections = self._connections

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                connections.add(self)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                connections.add(self)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request; the answer's body is bounded."""
        response = super().send(*args, **kwargs)
        self.body = BoundedBody(response.raw, max_bytes=self._max_bytes)
        response.raw = self.body
        self.status = response.status_code
        return response

    def _cut(self) -> None:
        for connection in list(self._connections):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    # The plain socket's method: ssl's own would drop the TLS layer under the reading thread.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
