"""One answer of the SuperLink, passed on as fast as the hospital reads it, and ended where it does not read."""

import asyncio
import logging

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.gateway.connection import ABORT

log = logging.getLogger(__name__)

READ_S, PAUSE_S = 600.0, 60.0
"""Longest time that one answer may take to be read, and longest time without any progress, seconds."""


class Relay(Response):
    """Passes an answer on; the connection to the SuperLink is freed however the hospital's ends.

    Args:
        answer: An answer of the SuperLink whose body has not been read.
        headers: Those that go on.
        request: What is answered.
    """

    def __init__(self, answer: httpx.Response, headers: dict[str, str], request: Request) -> None:
        self.status_code = answer.status_code
        self.init_headers(headers)  # not of the base: it would announce a body of no bytes
        self._answer, self._request = answer, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then the body piece by piece; a hospital that does not read loses its connection."""
        try:
            async with asyncio.timeout(READ_S):
                await self._send(send)
        except (TimeoutError, httpx.HTTPError) as error:
            log.warning("an answer was broken off: %s", type(error).__name__)
            scope["state"][ABORT]()  # a close would wait for the hospital to read what lies ready
        finally:
            await self._answer.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._answer.aiter_raw():
            async with asyncio.timeout(PAUSE_S):  # it waits until most of what went before has been read
                await send({"type": "http.response.body", "body": part, "more_body": True})
            if await self._request.is_disconnected():
                return
        async with asyncio.timeout(PAUSE_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
