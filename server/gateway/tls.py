"""The gateway's side of TLS: its certificate, read again when `serve` renews it, and the revocation list.

The list is read once, at the start. A site that is revoked later is refused by its record, request by request.
"""

import asyncio
import logging
import ssl
from pathlib import Path

from server.coordinator.home import Home

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Pause between two looks whether a file has changed."""


def tls_context(home: Home) -> ssl.SSLContext:
    """TLS 1.2 or newer with our certificate; a client must bring one of our authority that is not revoked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(home, context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(home.ca_certificate)
    context.load_verify_locations(home.revoked)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


async def keep_fresh(home: Home, context: ssl.SSLContext) -> None:
    """Have new connections shown the certificate that lies there now; open ones go on as they are."""
    before = _stamp(home)
    while True:
        await asyncio.sleep(LOOK_S)
        if (now := _stamp(home)) == before:
            continue
        try:
            _load(home, context)
        except (OSError, ssl.SSLError) as error:  # key and certificate are replaced one after the other
            log.warning("the new certificate cannot be used yet: %s", type(error).__name__)
            continue
        before = now
        log.info("took up a new certificate")


def _load(home: Home, context: ssl.SSLContext) -> None:
    context.load_cert_chain(*_files(home))


def _files(home: Home) -> tuple[Path, Path]:
    return home.root / "tls" / "gateway.crt", home.root / "tls" / "gateway.key"


def _stamp(home: Home) -> list[tuple[int, int]]:
    found = []
    for path in _files(home):
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ino))
    return found
