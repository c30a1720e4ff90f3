"""Checks of the way from a hospital to its coordinator: reach, who answers, and whose clock is right."""

import contextlib
import email.utils
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from cryptography import x509

from common.wire import flower_version, pki
from common.wire.addresses import Address
from deploy.doctor.finding import Finding, failure, ok, warning

SKEW_FAILS_S, SKEW_WARNS_S = 300.0, 60.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to get to the coordinator's gateway.

    Attributes:
        address: Its "host:port".
        context: TLS that shows our certificate and believes the pinned authority alone.
        authority: That authority.
        proxy: "http://host:port" of the hospital's web proxy; "" goes straight.
    """

    address: str
    context: ssl.SSLContext
    authority: pki.Certificate
    proxy: str = ""


def reach(way: Way, *, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Go the way once: name, port, proxy, TLS, certificate, clock."""
    through = f" through the proxy {_plain(way.proxy)}" if way.proxy else ""
    yield ok("proxy", f"the daemon goes{through or ' straight to the coordinator'}")
    try:
        with httpx.Client(verify=way.context, proxy=way.proxy or None, trust_env=False, timeout=_TIMEOUT_S) as client:
            answer = client.get(f"https://{way.address}/")
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        yield from _why_not(way, error, through)
        return
    yield ok("port", f"{way.address} answers{through}")
    yield ok("TLS", "the gateway's certificate is of the authority you checked by telephone")
    yield from flower(flower_version.shown(answer.headers.get(flower_version.HEADER, "")))
    yield from clock(answer.headers.get("date", ""), now=now)


def flower(theirs: str, ours: str = "") -> Iterator[Finding]:
    """Whether our Flower speaks with the coordinator's; nothing where an older gateway does not say its version."""
    ours = ours or flower_version.installed()
    if not theirs:
        return
    said = f"{ours} here, {theirs} at the coordinator"
    if flower_version.speak(ours, theirs):
        yield ok("Flower", said)
    else:
        yield failure(
            "Flower", f"{said}: not tried with each other as far as this version knows",
            "Install the newer wardround on the older side; `site status` shows whether it is refused",
        )  # fmt: skip


def clock(date: str, *, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Compare our clock with the coordinator's `Date` header; Flower refuses a node that is 300 s off."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        yield warning("clock", "the coordinator does not say its time", "Check both clocks by hand")
        return
    skew = now() - theirs
    said = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the coordinator's"
    if abs(skew) > SKEW_FAILS_S:
        yield failure("clock", said, "Set this machine's clock by NTP; past 300 s every request is refused")
    elif abs(skew) > SKEW_WARNS_S:
        yield warning("clock", said, "Set this machine's clock by NTP before it passes 300 s")
    else:
        yield ok("clock", f"within {max(2.0, abs(skew)):.0f} s of the coordinator's")


def _why_not(way: Way, error: Exception, through: str) -> Iterator[Finding]:
    """Tell a name without address, a closed port, a refused certificate and somebody in between apart."""
    if _unknown(error):
        yield failure(
            "name", f"the name {_host(way) if not way.proxy else _plain(way.proxy)} has no address here (DNS)",
            "Ask this hospital's network team for the name, or the coordinator for another: `wardround site move`",
        )  # fmt: skip
        return
    stranger = _stranger(way)
    if stranger:
        yield failure(
            "TLS", f"who answers at {way.address} shows a certificate of {stranger!r}, not of the pinned authority",
            "A proxy opens TLS on the way: have the coordinator's address excepted from inspection. Nothing was sent",
        )  # fmt: skip
    elif stranger is None:
        yield failure(
            "port", f"{way.address} cannot be reached{through} ({_name(error)})",
            f"Open outgoing TCP to {way.address}, or set `daemon.proxy` in site.toml; is the coordinator up?",
        )  # fmt: skip
    else:
        yield failure(
            "TLS", f"{way.address} answers, but refuses us ({_name(error)})",
            "Renew the certificate with `wardround site renew`; ask the coordinator whether it was revoked",
        )  # fmt: skip


def _stranger(way: Way) -> str | None:
    """Issuer of the certificate that is shown at the address, "" if it is our authority, None without an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with contextlib.closing(_connect(way)) as raw, context.wrap_socket(raw, server_hostname=_host(way)) as tls:
            shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None
    try:
        pki.require_issued(shown, way.authority, what="the gateway's certificate")
    except Exception:  # noqa: BLE001 - with any fault, it is not ours
        return shown.issuer.rfc4514_string()[:80] or "an unnamed issuer"
    return ""


def _connect(way: Way) -> socket.socket:
    """A plain connection to the gateway, by CONNECT where there is a proxy."""
    host, port = _host(way), Address.parse(way.address).port
    if not way.proxy:
        return socket.create_connection((host, port), timeout=_TIMEOUT_S)
    proxy = httpx.URL(way.proxy)
    raw = socket.create_connection((proxy.host, proxy.port or 80), timeout=_TIMEOUT_S)
    raw.sendall(f"CONNECT {way.address} HTTP/1.1\r\nHost: {way.address}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (part := raw.recv(4096)):
        answer += part
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raw.close()
        raise ConnectionRefusedError
    return raw


def _host(way: Way) -> str:
    return Address.parse(way.address).host


def _plain(proxy: str) -> str:
    """The proxy without a password."""
    url = httpx.URL(proxy)
    return f"{url.host}:{url.port or 80}"


def _unknown(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def _name(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return type(cause).__name__
