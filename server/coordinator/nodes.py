"""What the coordinator knows of each site: one durable record, from invitation to revocation."""

import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from common.errors import StateError
from common.host.files import PRIVATE, write_atomically
from common.plan.reader import build
from common.wire import pki

log = logging.getLogger(__name__)

State = Literal["invited", "enrolled", "revoked"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One site.

    Attributes:
        site: Its name.
        state: Where it stands.
        token: The open invite's secret; "" once it was used or withdrawn.
        token_expires: Until when the token may be used, ISO 8601 in UTC; "" without one.
        node_key: Its SuperNode's public key, OpenSSH form; "" before it is enrolled.
        verdict_key: Public key of its verdicts, 64 hex digits; "" where it was enrolled before these were recorded.
        certificate: Its client certificate, PEM; "" before it is enrolled.
        previous: The certificate before its last renewal, PEM; accepted in addition to the new one until it expires.
        revoked_serials: Serial numbers (hex) of certificates that must not be accepted any more.
        retired_keys: Node keys it must not use again; the SuperLink refuses them for ever, too.
        changed: When the state last changed, UTC.
    """

    site: str
    state: State
    token: str = ""
    token_expires: str = ""
    node_key: str = ""
    verdict_key: str = ""
    certificate: str = ""
    previous: str = ""
    revoked_serials: tuple[str, ...] = ()
    retired_keys: tuple[str, ...] = ()
    changed: str = ""

    @property
    def certificates(self) -> list[pki.Certificate]:
        """The certificates it may present, the current one first."""
        return [pki.read_certificate(text) for text in (self.certificate, self.previous) if text]

    @property
    def serials(self) -> tuple[str, ...]:
        """Serial numbers (hex) of `certificates`."""
        return tuple(f"{certificate.serial_number:x}" for certificate in self.certificates)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record; raises `StateError` when it is damaged."""
        try:
            table: Any = json.loads(path.read_text(encoding="utf-8"))
            node = build(cls, table, what=path.name, error=StateError)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StateError(f"{path}: not a node record ({type(error).__name__}). Restore it") from error
        if node.state == "enrolled":
            pki.read_openssh(node.node_key)
            if not node.certificates:
                raise StateError(f"{path}: an enrolled site without a certificate. Restore the record")
        if node.site != path.stem:
            raise StateError(f"{path}: the record is of another site. Restore it")
        return node

    def save(self, folder: Path) -> Self:
        """Write the record durably, mode 0600; return it as written."""
        stamped = dataclasses.replace(self, changed=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        text = json.dumps(dataclasses.asdict(stamped), indent=1, sort_keys=True)
        write_atomically(folder / f"{self.site}.json", text.encode(), mode=PRIVATE)
        return stamped


def find(folder: Path, site: str) -> Node | None:
    """The record of `site`, or None; raises `StateError` for a damaged record or a name that is none."""
    path = folder / f"{pki.check_site(site)}.json"
    return Node.load(path) if path.exists() else None


def all_nodes(folder: Path) -> tuple[list[Node], list[str]]:
    """Every record that can be read, and the names of those that cannot: one bad file never stops the other sites."""
    found, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Node.load(path))
        except StateError:
            log.warning("a node record cannot be used")
            damaged.append(path.stem)
    return found, damaged
