"""The one door to the outside: TLS with client certificates, behind which lies `POST /v1/fleet/*` and nothing else.

Flower's open-source SuperLink has no accounts: any process that reaches its port controls it. So it listens on
loopback, and a request passes here only if
    its connection brought a certificate of our authority that is in force for an enrolled site,
    it is a POST to one of the fleet paths a SuperNode needs, registering itself not among them,
    the node key it is signed by is the one recorded for that very site (the SuperLink checks the signature itself)
    and is not in use in two places at once (`server.gateway.twins`),
    its body is neither too large nor too slow,
    its Flower speaks with ours (`common.wire.flower_version`),
    and its site holds no more connections and requests than its share (`server.gateway.shares`).
Everything else gets a status and an empty body.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from common.errors import StateError
from common.host import logs
from common.wire import flower_version
from server.coordinator.home import Home, split_address
from server.gateway.admission import Admission, Admitted
from server.gateway.connection import DOOR, PEER, GuardedConnection
from server.gateway.listening import allow_many_connections, listeners
from server.gateway.peers import Peers
from server.gateway.relay import Relay
from server.gateway.shares import Shares
from server.gateway.tls import keep_fresh, tls_context
from server.gateway.twins import HEADER, Twins

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
        tls: What hospitals are met with; kept fresh while the gateway runs.
    """

    def __init__(self, home: Home, tls: ssl.SSLContext) -> None:
        self._home, self._tls = home, tls
        self._limit = home.settings.max_body_mib * 1024 * 1024
        self._admission = Admission(home.nodes)
        self._shares, self._ours = Shares(), flower_version.installed()
        self._peers = Peers(home.root, self._ours)
        self._twins = Twins(home.root)
        self._client: httpx.AsyncClient

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[dict[str, Any]]:
        """Hold the connections to the SuperLink, whose certificate must be of our authority."""
        context = ssl.create_default_context(cafile=self._home.ca_certificate)
        self._client = httpx.AsyncClient(
            base_url=f"https://{self._home.superlink}",
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(120.0, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        watch = asyncio.create_task(keep_fresh(self._home, self._tls))
        async with self._client:
            yield {DOOR: self}
        watch.cancel()

    def let_in(self, certificate: bytes) -> Callable[[], None] | None:
        """Count a connection against its site's share; return what gives it back, or None where that is used up."""
        admitted = self._admission.of(certificate)
        site = admitted.site if admitted else ""
        if not self._shares.connect(site):
            self._shares.say("connections", site)
            return None
        return partial(self._shares.disconnect, site)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; it counts against its site's share until the last byte of its answer was passed on."""
        request = Request(scope, receive, send)
        admitted = self._admit(request)
        if isinstance(admitted, Response):
            await admitted(scope, receive, send)
            return
        if not self._shares.begin(admitted.site):
            await self._refuse(429, "busy", admitted.site)(scope, receive, send)
            return
        try:
            await asyncio.sleep(self._shares.wait_s(admitted.site))
            answer = await self._forward(request, admitted.site)
            await answer(scope, receive, send)
        finally:
            self._shares.end(admitted.site)

    def _admit(self, request: Request) -> Admitted | Response:
        """Whose request this is, or the refusal."""
        if request.method != "POST" or request.scope["raw_path"] not in PATHS or request.scope["query_string"]:
            return self._refuse(404, "path")
        admitted = self._admission.of(request.scope["state"].get(PEER, b""))
        if admitted is None:
            return self._refuse(403, "certificate")
        if _claimed_key(request) != admitted.node_key:
            return self._refuse(403, "node-key", admitted.site)
        if self._twins.refuses(admitted, request.headers.get(HEADER, "")):
            return self._refuse(409, "two-places", admitted.site)
        if (size := request.headers.get("content-length", "0")).isdigit() and int(size) > self._limit:
            return self._refuse(413, "size", admitted.site)
        if not self._peers.heard(admitted.site, request.headers):
            return self._refuse(flower_version.REFUSED, "version", admitted.site)
        return admitted

    async def _forward(self, request: Request, site: str) -> Response:
        headers = [(key, value) for key, value in request.headers.items() if key not in _HOP_BY_HOP]
        forwarded = self._client.build_request("POST", request.url.path, headers=headers, content=self._body(request))
        try:
            async with asyncio.timeout(BODY_S):
                answer = await self._client.send(forwarded, stream=True)
        except _TooLargeError:
            return self._refuse(413, "size", site)
        except (TimeoutError, ClientDisconnect):
            return self._refuse(408, "slow", site)
        except httpx.HTTPError as error:
            log.warning("the SuperLink does not answer: %s", type(error).__name__)
            return Response(status_code=502)
        kept = {key: value for key, value in answer.headers.items() if key not in _HOP_BY_HOP}
        return Relay(answer, {**kept, flower_version.HEADER: self._ours}, request)

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

    def _refuse(self, status: int, reason: str, site: str = "") -> Response:
        """A status without a body. The connection ends with it: what is left of the request is not waited for."""
        self._shares.say(reason, site)
        return Response(status_code=status, headers={"connection": "close", flower_version.HEADER: self._ours})


def application(home: Home, tls: ssl.SSLContext) -> Starlette:
    """The gateway as an ASGI application; its server must put the peer's certificate into the request's state."""
    gateway = Gateway(home, tls)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    return Starlette(routes=[Route("/{path:path}", gateway, methods=methods)], lifespan=gateway.lifespan)


def config(home: Home) -> uvicorn.Config:
    """How the gateway is served."""
    (host, port), tls = split_address(home.settings.listen), tls_context(home)
    return uvicorn.Config(
        application(home, tls),
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
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=32 * 1024,
        timeout_graceful_shutdown=10,
        ssl_context_factory=lambda *_: tls,
    )


def main(arguments: list[str]) -> None:
    """Serve the gateway of the home in `arguments` until SIGTERM."""
    logs.set_up_child()
    home = Home.open(Path(arguments[0]))
    try:
        sockets = listeners(home.settings.listen)
    except StateError as error:
        log.critical("cannot start: %s", error)
        sys.exit(error.exit_code)
    allow_many_connections()
    uvicorn.Server(config(home)).run(sockets=sockets)


def _claimed_key(request: Request) -> bytes:
    """The node key a request is signed by, as Flower sends it; b"" when it has none."""
    try:
        return base64.b64decode(request.headers.get(NODE_KEY, ""), validate=True)
    except (binascii.Error, ValueError):
        return b""
