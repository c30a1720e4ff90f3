"""The coordinator's certificate authority on disk, and the certificates it gives its own servers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import StateError
from common.host.files import PUBLIC, write_atomically
from common.wire import pki
from common.wire.pki import Authority

RENEW_DAYS = 30
"""A server certificate with fewer days left is made anew."""


def save(folder: Path, authority: Authority) -> None:
    """Write a new authority; raises `StateError` when there is one, in any state."""
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder} holds an authority. It is never made anew: every hospital trusts that one")
    pki.save_key(folder / "ca.key", authority.key)
    pki.save_certificate(folder / "ca.crt", authority.certificate)


def load(folder: Path) -> Authority:
    """Read the authority; raises `StateError` when it is absent, damaged, or key and certificate do not belong."""
    try:
        authority = Authority(key=pki.load_key(folder / "ca.key"), certificate=pki.load_certificate(folder / "ca.crt"))
    except StateError as error:
        raise StateError(
            f"{error}. Restore {folder} from a copy: a new authority would lock every hospital out"
        ) from error
    if authority.certificate.public_key() != authority.key.public_key():
        raise StateError(f"{folder}: ca.key is not the key of ca.crt. Restore both from one copy")
    return authority


def is_due(folder: Path, name: str, hosts: Sequence[str]) -> bool:
    """Whether the certificate of one of our servers is absent or damaged, expires soon or lacks a name.

    Args:
        folder: Folder of the certificate and its key.
        name: Name of the server's files.
        hosts: Names and addresses that the certificate must hold.
    """
    try:
        certificate = pki.load_certificate(folder / f"{name}.crt")
    except StateError:
        return True
    whole = (folder / f"{name}.key").exists()
    return not whole or pki.days_left(certificate) <= RENEW_DAYS or not set(hosts) <= pki.hosts(certificate)


def renew_server(authority: Authority, folder: Path, name: str, hosts: Sequence[str]) -> None:
    """Make a certificate of one of our servers anew, and its key where there is none.

    Args:
        authority: The coordinator's authority.
        folder: Folder of the certificate and its key.
        name: Name of the server's files.
        hosts: Names and addresses that the certificate holds.
    """
    key_file = folder / f"{name}.key"
    key = pki.load_key(key_file) if key_file.exists() else pki.new_key()
    certificate = pki.issue_server(authority, key.public_key(), hosts)
    pki.save_key(key_file, key)
    pki.save_certificate(folder / f"{name}.crt", certificate)


def write_revoked(authority: Authority, path: Path, serials: Iterable[int]) -> None:
    """Write the list of revoked certificates, PEM; for the gateway and for any reverse proxy in its place.

    Args:
        authority: The coordinator's authority.
        path: File of the list.
        serials: Serial numbers of the revoked certificates.
    """
    write_atomically(path, pki.pem(pki.revoke(authority, serials)).encode(), mode=PUBLIC)


def read_revoked(path: Path) -> list[int]:
    """Serial numbers on a list written by `write_revoked`; none when it is absent or damaged."""
    try:
        return pki.revoked_serials(path.read_text(encoding="utf-8"))
    except (OSError, StateError):
        return []
