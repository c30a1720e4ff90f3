"""The one door to the outside: TLS with client certificates, behind which lies `POST /v1/fleet/*` and nothing else.

Flower's open-source SuperLink has no accounts: whoever reaches its port owns it. So it listens on loopback, and a
request passes here only if
    its connection brought a certificate of our authority that is in force for an enrolled site,
    it is a POST to one of the fleet paths a SuperNode needs, registering itself not among them,
    the node key it is signed by is the one recorded for that very site (the SuperLink checks the signature itself),
    and its body is neither too large nor too slow.
Everything else gets a status and an empty body.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from common import logs
from server.coordinator.admission import Admission
from server.coordinator.connection import PEER, GuardedConnection
from server.coordinator.home import Home, split_address

log = logging.getLogger(__name__)

PATHS = frozenset(
    f"/v1/fleet/{name}".encode()
    for name in (
        "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run",
        "get-fab", "push-object", "pull-object", "confirm-message-received",
    )
)  # fmt: skip
"""What a SuperNode asks for. `register-node` and `unregister-node` are the coordinator's to do.

Compared as the bytes that came: a path that only decodes or normalises to one of these is none of them.
"""
NODE_KEY = "flwr-public-key"

BODY_S, PAUSE_S = 600.0, 60.0
"""Longest time that one body may take, and longest silence within it, seconds."""
PER_SITE = 16
"""Most requests of one site at a time."""
CONNECTIONS = 1024
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "host", "date", "server")
)  # fmt: skip


class _TooLargeError(Exception):
    """The body passes the limit."""


class Gateway:
    """Forwards what may pass to the SuperLink.

    Args:
        home: The coordinator's home.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._limit = home.settings.max_body_mib * 1024 * 1024
        self._admission = Admission(home.nodes)
        self._busy: Counter[str] = Counter()
        self._client: httpx.AsyncClient

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Hold the connections to the SuperLink, whose certificate must be of our authority."""
        context = ssl.create_default_context(cafile=self._home.ca_certificate)
        self._client = httpx.AsyncClient(
            base_url=f"https://{self._home.superlink}",
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(120.0, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        async with self._client:
            yield

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        if request.method != "POST" or request.scope["raw_path"] not in PATHS or request.scope["query_string"]:
            return _refuse(404, "path")
        admitted = self._admission.of(request.scope["state"].get(PEER, b""))
        if admitted is None:
            return _refuse(403, "certificate")
        if _claimed_key(request) != admitted.node_key:
            return _refuse(403, "node-key", admitted.site)
        if (size := request.headers.get("content-length", "0")).isdigit() and int(size) > self._limit:
            return _refuse(413, "size", admitted.site)
        if self._busy[admitted.site] >= PER_SITE:
            return _refuse(429, "busy", admitted.site)
        self._busy[admitted.site] += 1
        try:
            return await self._forward(request, admitted.site)
        finally:
            self._busy[admitted.site] -= 1

    async def _forward(self, request: Request, site: str) -> Response:
        headers = [(key, value) for key, value in request.headers.items() if key not in _HOP_BY_HOP]
        forwarded = self._client.build_request("POST", request.url.path, headers=headers, content=self._body(request))
        try:
            async with asyncio.timeout(BODY_S):
                answer = await self._client.send(forwarded, stream=True)
        except _TooLargeError:
            return _refuse(413, "size", site)
        except (TimeoutError, ClientDisconnect):
            return _refuse(408, "slow", site)
        except httpx.HTTPError as error:
            log.warning("the SuperLink does not answer: %s", type(error).__name__)
            return Response(status_code=502)
        kept = {key: value for key, value in answer.headers.items() if key not in _HOP_BY_HOP}
        return StreamingResponse(_relayed(answer), answer.status_code, kept)

    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """Pass the body on as it comes, within its limits."""
        size = 0
        parts = request.stream().__aiter__()
        while True:
            try:
                async with asyncio.timeout(PAUSE_S):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            if (size := size + len(part)) > self._limit:
                raise _TooLargeError
            yield part


def application(home: Home) -> Starlette:
    """The gateway as an ASGI application; its server must put the peer's certificate into the request's state."""
    gateway = Gateway(home)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    return Starlette(routes=[Route("/{path:path}", gateway.answer, methods=methods)], lifespan=gateway.lifespan)


def tls_context(home: Home) -> ssl.SSLContext:
    """TLS 1.2 or newer with our certificate; a client must bring one of our authority that is not revoked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(home.root / "tls" / "gateway.crt", home.root / "tls" / "gateway.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(home.ca_certificate)
    context.load_verify_locations(home.revoked)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def config(home: Home) -> uvicorn.Config:
    """How the gateway is served."""
    host, port = split_address(home.settings.listen)
    return uvicorn.Config(
        application(home),
        host=host,
        port=port,
        http=GuardedConnection,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=32 * 1024,
        timeout_graceful_shutdown=10,
        ssl_context_factory=lambda *_: tls_context(home),
    )


def main(arguments: list[str]) -> None:
    """Serve the gateway of the home in `arguments` until SIGTERM."""
    logs.set_up_child()
    uvicorn.Server(config(Home.open(Path(arguments[0])))).run()


async def _relayed(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Pass an answer on as it comes; the connection to the SuperLink is freed however the hospital's ends."""
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


def _claimed_key(request: Request) -> bytes:
    """The node key a request is signed by, as Flower sends it; b"" when it has none."""
    try:
        return base64.b64decode(request.headers.get(NODE_KEY, ""), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _refuse(status: int, reason: str, site: str = "") -> Response:
    """A status without a body. The connection ends with it: what is left of the request is not waited for."""
    log.warning("refused a request: %s %s", reason, site)
    return Response(status_code=status, headers={"connection": "close"})
