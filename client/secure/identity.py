"""A hospital's own entry of a roster, and the rosters that its steward has checked: those alone may be used here.

signing/site.key      Ed25519, the identity; verdicts bear it, too
signing/box.key       X25519, 32 bytes (mode 0600): peers seal shares for it
rosters/DIGEST.json   rosters that hold exactly this entry
"""

import re
from pathlib import Path

from client.cohort.identity import SIGNING_KEY
from client.site import layout
from client.site.rules import SitePolicy
from common.errors import PlanRefused, StateError
from common.host.disk import told
from common.host.files import write_once
from common.secure.masks import KEY_BYTES, new_private, public_of
from common.secure.roster import Member, Roster
from common.wire.signing import Key

BOX_KEY = "signing/box.key"


def box_key(home: Path) -> bytes:
    """The private box key, made on first use.

    Raises:
        StateError: The file does not hold a key.
    """
    path = home / BOX_KEY
    with told(path):
        if not path.exists():
            write_once(path, new_private())
        private = path.read_bytes()
    if len(private) != KEY_BYTES:
        raise StateError(f"{path} must hold {KEY_BYTES} bytes, not {len(private)}. Restore it from the site's backup")
    return private


def own_entry(home: Path, *, legal: str) -> Member:
    """This hospital's entry, signed.

    Args:
        home: The site's home.
        legal: Its legal name, as other hospitals know it.

    Raises:
        MessageRefused: The legal name is not one line of text.
        StateError: A key or the policy cannot be used.
    """
    key = Key.at(home / SIGNING_KEY)
    name = SitePolicy.load(home).name
    return Member(site=name, legal=legal, identity=key.public, box=public_of(box_key(home)).hex()).signed(key)


def accept(home: Path, roster: Roster) -> Member:
    """Store a roster that a steward has checked; returns this hospital's own entry of it. Twice is as once.

    Raises:
        PlanRefused: This hospital does not stand in it with its own keys.
        StateError: The disk refuses.
    """
    mine = require_own(home, roster)
    path = _path(home, roster.digest)
    with told(path):
        roster.save(path)
    return mine


def accepted(home: Path, digest: str) -> Roster:
    """The roster of this digest, once it was checked here and still holds this hospital's own keys.

    Raises:
        PlanRefused: It was not checked here, or the own keys are others now.
        StateError: The stored copy is not what was checked.
    """
    path = _path(home, digest)
    if not re.fullmatch(r"[0-9a-f]{64}", digest) or not path.exists():
        raise PlanRefused(
            f"the roster {digest[:16]} was not checked at this site. Compare its digest with the other hospitals by "
            "telephone, then run `wardround site roster check ROSTER`"
        )
    with told(path):
        roster = Roster.load(path)
    if roster.digest != digest:
        raise StateError(f"{path} is not the roster that was checked. Run `wardround site roster check ROSTER` again")
    require_own(home, roster)
    return roster


def require_own(home: Path, roster: Roster) -> Member:
    """This hospital's own entry; that no key stands in a roster twice is the roster's to keep.

    Raises:
        PlanRefused: It is not there under the own name with the own keys.
    """
    name = SitePolicy.load(home).name
    keys = (Key.at(home / SIGNING_KEY).public, public_of(box_key(home)).hex())
    mine = [member for member in roster.members if member.site == name]
    if not mine or (mine[0].identity, mine[0].box) != keys:
        why = "has no entry" if not mine else "has other keys"
        raise PlanRefused(
            f"this site, {name!r}, {why} in the roster. Send the coordinator a new `wardround site roster entry`"
        )
    return mine[0]


def _path(home: Path, digest: str) -> Path:
    return home / layout.ROSTERS / f"{digest[:64]}.json"
