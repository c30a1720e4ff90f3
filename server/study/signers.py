"""Whose key a verdict must bear: the public key that each site was enrolled with, in the study's folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import SignatureInvalid, SignerUnknown, StateError
from common.host.files import write_atomically

if TYPE_CHECKING:  # messages are Flower's, which takes a second to load
    from common.wire.messages import Verdict

FILE = "verdict-keys.json"
"""In a study's folder: site name to public key, 64 hex digits. A coordinator's studies link to one file."""
Signers = dict[str, str]


def save(folder: Path, signers: Signers) -> None:
    """Write the keys into `folder`, whole or not at all."""
    write_atomically(folder / FILE, json.dumps(signers, indent=1, sort_keys=True).encode())


def load(folder: Path) -> Signers:
    """The keys that were recorded for the study in `folder`; none where nothing was.

    Raises:
        StateError: The file is there and cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return {str(site): str(key) for site, key in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise StateError(
            f"{path} cannot be read ({type(error).__name__}). Enrol or revoke any site to renew it"
        ) from error


def require(signers: Signers, verdict: "Verdict") -> "Verdict":
    """Return a verdict if the key it is signed by is the one its site was enrolled with.

    Raises:
        SignerUnknown: No key was recorded for the site.
        SignatureInvalid: Another key was.
    """
    if not (enrolled := signers.get(verdict.site, "")):
        raise SignerUnknown(unknown(verdict.site))
    if verdict.public != enrolled:
        raise SignatureInvalid(
            f"the verdict of {verdict.site!r} is signed by {verdict.public[:16]}, but the site was enrolled with "
            f"{enrolled[:16]}. Call the hospital; if its signing key was lost, invite the site again"
        )
    return verdict


def unknown(site: str) -> str:
    """What to do about a site without a recorded key."""
    return (
        f"no verdict key is on record for {site!r}: it was enrolled before keys were recorded. Let it run `wardround "
        "site renew` and enrol that request, then resume the study; a simulation is prepared anew"
    )
