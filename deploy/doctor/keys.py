"""Checks of keys and certificates: who can read them, until when they hold, whether they belong together."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import WardroundError
from common.wire import pki
from deploy.doctor.finding import Finding, failure, ok, warning

EXPIRES_SOON_DAYS = 30.0


def modes(home: Path, private: Iterable[Path]) -> Iterator[Finding]:
    """Whether secrets can be read, and the home be written, by their owner alone."""
    found = False
    for path in private:
        if path.exists() and path.stat().st_mode & 0o077:
            found = True
            yield failure(
                "file modes", f"{path} can be read by others ({stat.filemode(path.stat().st_mode)})",
                f"chmod 600 {path}; if others may have read it, make the key anew", blocks=True,
            )  # fmt: skip
    if home.stat().st_mode & 0o022:
        found = True
        yield failure("file modes", f"{home} can be written by others", f"chmod go-w {home}", blocks=True)
    if not found:
        yield ok("file modes", "keys and secrets can be read by their owner alone")


def certificate(what: str, path: Path, authority: Path, *, renew: str, key: Path | None = None) -> Iterator[Finding]:
    """Whether a certificate is of our authority, valid now and for a while, and for the key that lies with it.

    Args:
        what: Names it in the table.
        path: The certificate.
        authority: The authority's certificate.
        renew: How to get a new one.
        key: Its private key, if it is to be here.
    """
    try:
        leaf, root = pki.load_certificate(path), pki.load_certificate(authority)
        pki.require_issued(leaf, root, what=what)
        if key is not None and pki.openssh(pki.load_key(key).public_key()) != pki.openssh(pki.certificate_key(leaf)):
            yield failure(what, f"{path} is not for the key {key}", renew, blocks=True)
            return
    except WardroundError as error:
        yield failure(what, str(error), renew, blocks=True)
        return
    days = pki.days_left(leaf)
    if days < EXPIRES_SOON_DAYS:
        yield warning(what, f"it expires in {days:.0f} days", renew)
    else:
        yield ok(what, f"of our authority, valid for {days:.0f} days")


def authority(path: Path) -> Iterator[Finding]:
    """Whether the authority itself lasts."""
    days = pki.days_left(pki.load_certificate(path))
    if days < 0:
        yield failure("authority", "it has expired", "Enrol every site anew under a new home", blocks=True)
    elif days < 365:
        yield warning("authority", f"it expires in {days:.0f} days", "Plan to enrol every site under a new home")
    else:
        yield ok("authority", f"valid for {days / 365:.0f} years")
