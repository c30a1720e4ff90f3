"""The three files by which a hospital joins a coordinator: invite, request, welcome.

    coordinator  SITE.invite.json   ->  hospital      address, authority, one-use token
    hospital     SITE.request.json  ->  coordinator   node and verdict key, certificate request, proof
    coordinator  SITE.welcome.json  ->  hospital      client certificate

They may travel by any channel. The invite is checked against a fingerprint read out over the telephone. The request is
proven by the invite's token; a renewal, by the key of the certificate that it replaces. The welcome is checked against
the authority and the hospital's own key. Nothing in them concerns a patient.
"""

import base64
import dataclasses
import hashlib
import hmac
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import MessageRefused, StateError
from common.host.files import PRIVATE, write_atomically
from common.wire import pki

SCHEMA = 1
MAX_BYTES = 64 * 1024
"""Largest enrolment file that is read."""


@dataclass(frozen=True, kw_only=True)
class _Paper:
    kind: ClassVar[str]
    site: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not isinstance(getattr(self, field.name), str):
                raise MessageRefused(f"{self.kind}: `{field.name}` must be a text")
        pki.check_site(self.site)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check the file's form.

        Raises:
            MessageRefused: It is not a file of this kind and schema.
            StateError: It cannot be read.
        """
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise StateError(f"{path} cannot be read ({type(error).__name__}). Give the path of the file") from error
        if len(content) > MAX_BYTES:
            raise MessageRefused(f"{path.name} is larger than {MAX_BYTES} bytes; it is no {cls.kind}")
        return cls.parse(content)

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Check the content of such a file; raises `MessageRefused`."""
        try:
            table: Any = json.loads(content)
        except ValueError as error:
            raise MessageRefused(f"not a {cls.kind}: no JSON. Ask for the file again") from error
        names = {field.name for field in dataclasses.fields(cls)}
        right = isinstance(table, dict) and (table.pop("schema", None), table.pop("kind", None)) == (SCHEMA, cls.kind)
        if not right or set(table) != names:
            raise MessageRefused(f"not a {cls.kind} of schema {SCHEMA}. Ask for the file again, of the same version")
        return cls(**table)

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content as plain JSON types."""
        return {"schema": SCHEMA, "kind": self.kind, **dataclasses.asdict(self)}

    def save(self, path: Path) -> None:
        """Write the file with mode 0600: an invite holds a secret until it is used."""
        write_atomically(path, (json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n").encode(), mode=PRIVATE)


@dataclass(frozen=True, kw_only=True)
class Invite(_Paper):
    """What a coordinator gives a hospital.

    Attributes:
        site: The name it will have.
        address: The gateway, "host:port".
        ca_certificate: The deployment's authority, PEM.
        token: Secret that proves the request, usable once.
        expires: When the token ends, ISO 8601 in UTC.
    """

    kind: ClassVar[str] = "invite"
    address: str
    ca_certificate: str
    token: str
    expires: str


@dataclass(frozen=True, kw_only=True)
class JoinRequest(_Paper):
    """What a hospital answers.

    Attributes:
        site: Its name, as invited.
        node_key: Public key of its SuperNode, OpenSSH form.
        verdict_key: Public key that its verdicts are signed with (Ed25519), 64 hex digits.
        csr: Request for its client certificate, PEM.
        proof: HMAC-SHA-256 (hex) under the invite's token, or "" in a renewal.
        signature: In a renewal, the old client key's signature (base64); else "".
    """

    kind: ClassVar[str] = "request"
    node_key: str
    verdict_key: str
    csr: str
    proof: str = ""
    signature: str = ""

    def proven(self, token: str) -> Self:
        """Return the request with its proof under `token`."""
        return dataclasses.replace(self, proof=self._hmac(token), signature="")

    def signed(self, key: pki.Key) -> Self:
        """Return the request as a renewal, signed by the key of the certificate it replaces."""
        signature = key.sign(self._canonical(), ec.ECDSA(hashes.SHA384()))
        return dataclasses.replace(self, proof="", signature=base64.b64encode(signature).decode())

    def require_proof(self, token: str) -> None:
        """Raise `MessageRefused` unless the request was proven under `token`."""
        if not hmac.compare_digest(self._hmac(token), self.proof):
            raise MessageRefused(f"the request of {self.site!r} is not proven by its invite. Invite the site again")

    def require_signature(self, certificate: pki.Certificate) -> None:
        """Raise `MessageRefused` unless the request was signed by the key of `certificate`."""
        key = pki.certificate_key(certificate)
        try:
            signature = base64.b64decode(self.signature, validate=True)
            key.verify(signature, self._canonical(), ec.ECDSA(hashes.SHA384()))
        except (InvalidSignature, ValueError) as error:
            raise MessageRefused(
                f"the renewal of {self.site!r} is not signed by the key of its certificate. Invite the site again"
            ) from error

    def _canonical(self) -> bytes:
        rest = {key: value for key, value in self.to_dict().items() if key not in ("proof", "signature")}
        return json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()

    def _hmac(self, token: str) -> str:
        return hmac.new(token.encode(), self._canonical(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Welcome(_Paper):
    """What the coordinator closes the enrolment with.

    Attributes:
        site: The site's name.
        address: The gateway, "host:port".
        certificate: The site's client certificate, PEM.
        ca_certificate: The authority, PEM; must be the one that was pinned.
    """

    kind: ClassVar[str] = "welcome"
    address: str
    certificate: str
    ca_certificate: str
