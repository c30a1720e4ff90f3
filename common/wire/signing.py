"""Ed25519 signatures over folders and records: what was signed, by which key, and whether anything was altered since.

A signed folder holds `manifest.json` (SHA-256 and size of every signed file, and the signer's public key) and
`manifest.sig` (the signature over the manifest's exact bytes, base64). A caller that knows the signer's fingerprint
from another channel gives it as `trusted`. Without it, a check shows that nothing was altered since *somebody* signed.

Source:
    RFC 8032 (Ed25519), RFC 8785's aim: one canonical form (JSON, sorted keys, no blanks).
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from common.errors import SignatureInvalid, StateError
from common.host.files import write_atomically, write_once

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
SCHEMA = 1


@dataclass(frozen=True)
class Key:
    """A signing key. Its private half never leaves the file it was read from."""

    private: Ed25519PrivateKey

    @classmethod
    def at(cls, path: Path) -> "Key":
        """Read the key at `path` (PEM, mode 0600), or make it on first use.

        Raises:
            StateError: The file is no Ed25519 key, or cannot be read or written.
        """
        try:
            if not path.exists():
                new = Ed25519PrivateKey.generate()
                write_once(path, new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError(
                f"signing key {path}: cannot be used ({type(error).__name__}). Restore it from its backup"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StateError(f"signing key {path}: not an Ed25519 key. Restore it from its backup")
        return cls(key)

    @property
    def public(self) -> str:
        """The public half, 64 hex digits: the signer's fingerprint."""
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, record: dict[str, Any]) -> str:
        """Return the signature over a record's canonical form, base64."""
        return base64.b64encode(self.private.sign(canonical(record))).decode()


def canonical(record: dict[str, Any]) -> bytes:
    """The one byte form of a record of plain JSON types: sorted keys, no blanks, no NaN."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def verify(record: dict[str, Any], signature: str, *, public: str, what: str) -> None:
    """Refuse a record that was not signed by this key exactly as it is.

    Args:
        record: JSON types.
        signature: The signature, base64.
        public: The public key, base64.
        what: What was signed, for the message.

    Raises:
        SignatureInvalid: Altered record, altered signature, or another key.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        raw = base64.b64decode(signature, validate=True)
        # base64 and hex can say the same bytes in several ways; one of them is right
        one_form = base64.b64encode(raw).decode() == signature and public == public.lower()
        key.verify(raw if one_form else b"", canonical(record))
    except (InvalidSignature, ValueError, TypeError, binascii.Error) as error:
        raise SignatureInvalid(
            f"{what}: the signature is not that of {public[:16]} over this content. Fetch the original again"
        ) from error


def sign_folder(folder: Path, names: Iterable[str], key: Key) -> None:
    """Sign the named files of `folder`: write the manifest, then its signature.

    Args:
        folder: The folder.
        names: Names of the files in it that are signed.
        key: The signing key.

    Raises:
        OSError: A named file is not there.
    """
    files = {name: _entry(folder / name) for name in sorted(names)}
    manifest = {"schema": SCHEMA, "signer": key.public, "files": files}
    write_atomically(folder / MANIFEST, canonical(manifest))
    write_atomically(folder / SIGNATURE, key.sign(manifest).encode())


def verify_folder(folder: Path, *, trusted: str = "") -> str:
    """Check a signed folder, every signed byte of it.

    Args:
        folder: What `sign_folder` signed; files it did not name are not looked at.
        trusted: Fingerprint of the only signer to accept; "" accepts any, which shows alteration but no origin.

    Returns:
        The signer's fingerprint.

    Raises:
        SignatureInvalid: A file is altered or missing, the signature does not fit, or another key signed.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        signer, files, schema = str(manifest["signer"]), dict(manifest["files"]), manifest["schema"]
        signature = (folder / SIGNATURE).read_text(encoding="ascii")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignatureInvalid(
            f"{folder}: no readable signature ({type(error).__name__}). Fetch the whole release again"
        ) from error
    if schema != SCHEMA or canonical(manifest) != raw:
        raise SignatureInvalid(f"{folder}/{MANIFEST}: not in the form that was signed. Fetch the release again")
    if trusted and signer != trusted:
        raise SignatureInvalid(f"{folder}: signed by {signer[:16]}, not by the trusted {trusted[:16]}. Ask the sender")
    verify(manifest, signature, public=signer, what=f"{folder}/{MANIFEST}")
    for name, entry in files.items():
        if Path(name).name != name or not (folder / name).is_file() or _entry(folder / name) != entry:
            raise SignatureInvalid(f"{folder}: {name!r} is missing or not what was signed. Fetch the release again")
    return signer


def _entry(path: Path) -> dict[str, Any]:
    seal = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            seal.update(chunk)
    return {"sha256": seal.hexdigest(), "bytes": path.stat().st_size}
