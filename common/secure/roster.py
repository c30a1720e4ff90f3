"""The roster of a secure study: its hospitals and their keys, known by one digest that stewards compare by telephone.

    SITE.member.json   one hospital's entry, made by that hospital and signed by its key
    roster.json        every hospital's entry, in the order of their names; the plan names its digest

A coordinator that could invent hospitals could open every sum. So a hospital looks for its own entry, its own keys and
names that its steward knows. The coordinator's signature is not asked for: it adds nothing to that.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.errors import MessageRefused, StateError
from common.host.files import write_atomically
from common.secure.masks import require_public
from common.secure.terms import MOST_HOSPITALS
from common.wire.signing import Key, canonical, verify
from common.wire.site_name import RULE, is_site_name

SCHEMA = 1
MAX_BYTES = 256 * 1024
_HEX = re.compile(r"[0-9a-f]{64}")
_PURPOSE = "wardround roster entry 1"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One hospital of a roster.

    Attributes:
        site: Its public name in studies.
        legal: The legal name by which people know it.
        identity: Public half of the Ed25519 key that it signs with, 64 hex digits; its verdicts bear the same.
        box: Public half of the X25519 key that its peers seal shares for, 64 hex digits.
        proof: Signature by `identity` over the rest, base64.
    """

    site: str
    legal: str
    identity: str
    box: str
    proof: str = ""

    def __post_init__(self) -> None:
        texts = dataclasses.astuple(self)
        if not all(isinstance(text, str) for text in texts) or not is_site_name(self.site):
            raise MessageRefused(f"roster: `site` must be {RULE}")
        if not 1 <= len(self.legal) <= 200 or not self.legal.isprintable() or self.legal != self.legal.strip():
            raise MessageRefused(f"roster: the legal name of {self.site!r} must be one line of 1 to 200 characters")
        if not _HEX.fullmatch(self.identity) or not _HEX.fullmatch(self.box):
            raise MessageRefused(f"roster: the keys of {self.site!r} must be 64 hexadecimal digits each")
        require_public(bytes.fromhex(self.box), whose=self.site)

    def signed(self, key: Key) -> "Member":
        """The entry with its proof by the identity's key."""
        return dataclasses.replace(self, proof=key.sign(self._claim()))

    def require_proof(self) -> None:
        """Raise `SignatureInvalid` unless the identity's own key signed this very entry."""
        verify(self._claim(), self.proof, public=self.identity, what=f"roster entry of {self.site!r}")

    def save(self, path: Path) -> None:
        """Write the entry as a file of its own."""
        content = {"schema": SCHEMA, "kind": "member", **dataclasses.asdict(self)}
        write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Member":
        """Read and check an entry's file.

        Raises:
            MessageRefused: It is no entry of this schema.
            SignatureInvalid: Its own key did not sign it.
            StateError: It cannot be read.
        """
        member = _made(_table(path, "member"), "member")
        member.require_proof()
        return member

    def _claim(self) -> dict[str, str]:
        return {"purpose": _PURPOSE, **{k: v for k, v in dataclasses.asdict(self).items() if k != "proof"}}


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The hospitals of a secure study, in the order of their names. A hospital's place is its number in every message.

    Attributes:
        members: At least three, no name and no key twice.
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        names = [member.site for member in self.members]
        if names != sorted(names) or not 3 <= len(names) <= MOST_HOSPITALS:
            raise MessageRefused(f"a roster lists 3 to {MOST_HOSPITALS} hospitals by name, not {len(names)}")
        for what in ("site", "legal", "identity", "box"):
            twice = [value for value, times in Counter(getattr(m, what) for m in self.members).items() if times > 1]
            if twice:
                raise MessageRefused(f"roster: two hospitals have the same {what} {twice[0][:64]!r}")
        keys = [key for member in self.members for key in (member.identity, member.box)]
        if len(set(keys)) != len(keys):
            raise MessageRefused("roster: a key stands in it for two purposes")
        for member in self.members:
            member.require_proof()

    @classmethod
    def of(cls, members: list[Member]) -> Self:
        """The roster of these hospitals, put in order.

        Raises:
            MessageRefused: There are too few or too many, or two share a name or a key.
            SignatureInvalid: An entry is not its own hospital's.
        """
        return cls(members=tuple(sorted(members, key=lambda member: member.site)))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form, as the plan names it."""
        return hashlib.sha256(
            canonical({"roster": [dataclasses.asdict(member) for member in self.members]})
        ).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' names, in order."""
        return tuple(member.site for member in self.members)

    def place(self, site: str) -> int:
        """Number of a site in the order of the roster, from 0; raises `MessageRefused` where it is not in it."""
        if site not in self.names:
            raise MessageRefused(f"site {site[:64]!r} is not in the roster of this study")
        return self.names.index(site)

    def save(self, path: Path) -> None:
        """Write `roster.json`."""
        content = {"schema": SCHEMA, "kind": "roster", "members": [dataclasses.asdict(m) for m in self.members]}
        write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a `roster.json`.

        Raises:
            MessageRefused: It is no roster of this schema, or two of its hospitals share a name or a key.
            SignatureInvalid: An entry is not its own hospital's.
            StateError: It cannot be read.
        """
        table = _table(path, "roster")
        members = table.pop("members", None)
        if table or not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
            raise MessageRefused(f"{path.name}: not a roster of schema {SCHEMA}. Ask for the file again")
        return cls(members=tuple(_made(member, "roster") for member in members))

    def lines(self) -> list[str]:
        """The roster as stewards read it out: names first, then the beginnings of the keys, then the digest."""
        width = max(len(name) for name in self.names)
        rows = [f"  {m.site:{width}}  {m.identity[:16]}  {m.box[:16]}  {m.legal}" for m in self.members]
        return [f"{len(self.members)} hospitals: site, identity, box key, legal name", *rows, in_groups(self.digest)]


def in_groups(digest: str) -> str:
    """A digest in groups of eight, as it is read out over the telephone."""
    return " ".join(digest[start : start + 8] for start in range(0, len(digest), 8))


def _made(table: dict[str, Any], what: str) -> Member:
    if set(table) != {field.name for field in dataclasses.fields(Member)}:
        raise MessageRefused(f"{what}: an entry has unknown or missing keys. Ask for the file again")
    return Member(**table)


def _table(path: Path, kind: str) -> dict[str, Any]:
    """Content of a file of this kind and schema, without those two keys."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StateError(f"{path} cannot be read ({type(error).__name__}). Give the path of the file") from error
    try:
        table = json.loads(content) if len(content) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or (table.pop("schema", None), table.pop("kind", None)) != (SCHEMA, kind):
        raise MessageRefused(f"{path.name}: not a {kind} of schema {SCHEMA}. Ask for the file again")
    return table
