"""The only way out of a hospital: a loopback listener that passes Fleet calls to the coordinator's gateway.

The stock SuperNode cannot show a client certificate. It talks to this process on loopback, which shows the site's
certificate to the gateway (mutual TLS 1.3, the pinned authority only), through the hospital's web proxy if there is
one. Flower's own node signature stays inside. It passes nothing but `POST /v1/fleet/*` and retries nothing. It turns
every fault on the way into 502 or 504, which the SuperNode retries; a TLS error text would make it give up. It numbers
its requests under a name drawn at its start. By these the coordinator notices a second copy of this home.
"""

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import socket
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from client.daemon.home import Coordinator, DaemonHome, client_context
from client.daemon.meter import Link, Meter
from client.site import layout
from client.site.rules import SitePolicy
from common.errors import WardroundError
from common.host import logs
from common.wire import flower_version

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024 * 1024
"""Largest body that passes, either way; Flower cuts arrays into pieces far below it."""
_METHOD = re.compile(r"[a-z][a-z-]{0,40}")
_NOT_PASSED = {"register-node", "unregister-node"}
_PASSED_HEADERS = re.compile(r"content-type|accept|flwr-[a-z0-9-]+|x-flwr-[a-z0-9-]+|user-agent")
_TRIED = {flower_version.TRIED_HEADER: " ".join(sorted(flower_version.TOGETHER))}
_PIECE = 64 * 1024
INSTANCE = "x-wardround-instance"
"""Header that names this run of the forwarder and numbers its requests (`server.gateway.twins`)."""
_TIMEOUT = httpx.Timeout(connect=20.0, write=60.0, read=120.0, pool=120.0)


class Forwarder:
    """Passes calls to one coordinator.

    Args:
        coordinator: Where to.
        context: TLS with the site's certificate and the pinned authority.
        proxy: "http://host:port" of the hospital's web proxy; "" goes straight.
        meter: Counts what passes.
        link: Notes how the coordinator was reached.
    """

    def __init__(
        self, coordinator: Coordinator, context: ssl.SSLContext, *, proxy: str, meter: Meter, link: Link
    ) -> None:
        self._base = f"https://{coordinator.address}"
        self._meter, self._link = meter, link
        self._run, self._requests = secrets.token_hex(16), itertools.count()
        self._client = httpx.AsyncClient(
            verify=context,
            proxy=proxy or None,
            trust_env=False,
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=30),
        )

    def app(self) -> Starlette:
        """The ASGI application."""

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            yield
            await self._client.aclose()
            self._meter.write()

        return Starlette(routes=[Route("/v1/fleet/{method}", self._pass_on, methods=["POST"])], lifespan=lifespan)

    async def _pass_on(self, request: Request) -> Response:
        method = str(request.path_params["method"])
        if not _METHOD.fullmatch(method) or method in _NOT_PASSED or request.url.query:
            return Response(status_code=403)
        try:
            body = await _bounded(request.stream())
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return Response(status_code=413)
        headers = {key: value for key, value in request.headers.items() if _PASSED_HEADERS.fullmatch(key.lower())}
        try:
            return await self._ask(method, headers, body)
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            self._link.saw_failure(why(error))
            log.warning("the coordinator was not reached: %s", error)
            return Response(status_code=504 if isinstance(error, httpx.TimeoutException) else 502)

    async def _ask(self, method: str, headers: dict[str, str], body: bytes) -> Response:
        outgoing = self._client.build_request(
            "POST",
            f"{self._base}/v1/fleet/{method}",
            headers={
                **headers,
                "content-length": str(len(body)),
                "accept-encoding": "identity",
                **_TRIED,
                INSTANCE: f"{self._run}.{next(self._requests)}",
            },
            content=_pieces(body),
        )
        answer = await self._client.send(outgoing, stream=True)
        try:
            content = await _bounded(answer.aiter_raw())
        finally:
            await answer.aclose()
        self._meter.count(
            sent=len(body) + _size(outgoing.headers), received=len(content or b"") + _size(answer.headers)
        )
        self._link.saw_answer(
            method=method,
            status=answer.status_code,
            date=answer.headers.get("date", ""),
            flower=flower_version.shown(answer.headers.get(flower_version.HEADER, "")),
        )
        if content is None:
            return Response(status_code=502)
        kept = {key: value for key, value in answer.headers.items() if key in ("content-type", "content-encoding")}
        return Response(content, answer.status_code, kept)


def main(arguments: list[str]) -> None:
    """Serve `HOME PORT` until told to end, or until the certificate or the settings change."""
    logs.set_up_child()
    home, port = DaemonHome(Path(arguments[0])), int(arguments[1])
    coordinator, policy = Coordinator.load(home), SitePolicy.load(home.home)
    forwarder = Forwarder(
        coordinator,
        client_context(home),
        proxy=proxy_for(coordinator, policy.daemon.proxy),
        meter=Meter(home.traffic),
        link=Link(path=home.link),
    )
    asyncio.run(_serve(home, forwarder, port))


def proxy_for(coordinator: Coordinator, configured: str) -> str:
    """The proxy to use: that of site.toml, else HTTPS_PROXY unless NO_PROXY names the coordinator."""
    if configured:
        return configured
    if urllib.request.proxy_bypass_environment(coordinator.host):  # type: ignore[attr-defined]
        return ""
    return urllib.request.getproxies_environment().get("https", "")


async def _serve(home: DaemonHome, forwarder: Forwarder, port: int) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            forwarder.app(),
            host="127.0.0.1",
            port=port,
            ssl_certfile=home.loopback / "server.crt",
            ssl_keyfile=str(home.loopback / "server.key"),
            log_config=None,
            ws="none",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            limit_concurrency=64,
            timeout_graceful_shutdown=5,
        )
    )
    watched = (home.client_certificate, home.identity / "coordinator.json", home.home / layout.RULES)
    watcher = asyncio.create_task(_end_on_change(server, watched))
    try:
        await server.serve()
    finally:
        watcher.cancel()


async def _end_on_change(server: uvicorn.Server, paths: tuple[Path, ...]) -> None:
    """End when one of the files changes; the supervisor starts this process again, with what they say now."""
    before = [_stamp(path) for path in paths]
    while [_stamp(path) for path in paths] == before:
        await asyncio.sleep(2)
    log.info("the settings have changed; starting again")
    server.should_exit = True


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)


async def _bounded(stream: AsyncIterator[bytes]) -> bytes | None:
    """All of a body, or None when it is larger than `MAX_BYTES`."""
    body = bytearray()
    async for piece in stream:
        body += piece
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """The body in small pieces, so that the write timeout measures progress and not size."""
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _size(headers: httpx.Headers) -> int:
    return sum(len(key) + len(value) + 4 for key, value in headers.raw)


NAME_UNKNOWN, TLS_REFUSED = "NameUnknown", "TLSRefused"
"""Failures that are not a network that is down: no address for the name, and a refused certificate."""


def why(error: BaseException) -> str:
    """Type of a failure to reach the coordinator."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return NAME_UNKNOWN
        cause = cause.__cause__ or cause.__context__
    text = str(error).lower()
    return TLS_REFUSED if "certificate" in text or "alert" in text or "ssl" in text else type(error).__name__


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except WardroundError as trouble:
        log.critical("cannot start: %s", trouble)
        sys.exit(trouble.exit_code)
