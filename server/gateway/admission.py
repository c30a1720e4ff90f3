"""Which certificate belongs to which enrolled site, read afresh whenever a node record changes."""

import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.wire import pki
from server.coordinator.nodes import all_nodes

_FRESH_S = 1.0
"""Records are read again after this even if their folder looks unchanged: its time stamp has a coarse grain."""


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """Who a certificate stands for.

    Attributes:
        site: The site's name.
        node_key: Its SuperNode's public key in the form Flower sends, PEM.
    """

    site: str
    node_key: bytes


class Admission:
    """Looks a client certificate up; a revocation holds from the next request on, on open connections too.

    It says yes only to the very certificate on record, byte by byte: one that was replaced, revoked or issued behind
    our back is unknown.

    Args:
        folder: Folder of the node records.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen, self._read_at = -1, 0.0
        self._by_certificate: dict[bytes, Admitted] = {}

    def of(self, certificate: bytes) -> Admitted | None:
        """Who brings `certificate` (DER), or None."""
        changed, now = self._folder.stat().st_mtime_ns, time.monotonic()
        if changed != self._seen or now - self._read_at > _FRESH_S:
            self._seen, self._read_at, self._by_certificate = changed, now, self._read()
        return self._by_certificate.get(certificate)

    def _read(self) -> dict[bytes, Admitted]:
        found: dict[bytes, Admitted] = {}
        for node in all_nodes(self._folder)[0]:
            if node.state != "enrolled":
                continue
            admitted = Admitted(site=node.site, node_key=flower_key(node.node_key))
            for certificate in node.certificates:
                found[certificate.public_bytes(Encoding.DER)] = admitted
        return found


def flower_key(openssh: str) -> bytes:
    """A node's public key, OpenSSH form, in the form that Flower sends and stores."""
    return pki.read_openssh(openssh).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
