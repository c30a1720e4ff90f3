"""One attempt at a secure round, as both sides name it: its contexts, its key book, and the statement that is signed.

A hospital is known by its place in the roster, from 0. Tables of equal pieces by place travel as bytes (`pack`).
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import MessageRefused, SignatureInvalid
from common.secure.masks import KEY_BYTES, Context, require_public
from common.secure.roster import Roster
from common.secure.terms import Terms
from common.wire.signing import verify

SIGNATURE_BYTES = 64
MOST_ATTEMPTS = 64
"""Attempts at one round; each that was answered is a booking of its own, so a plan has room for few."""

Table = dict[int, bytes]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What every key, box and signature of an attempt is bound to. All but the two numbers are the approved plan's.

    Attributes:
        plan: Digest of the plan.
        roster: The hospitals.
        terms: Who may collude and who may be missing.
        round: Number of the round.
        attempt: From 1.
    """

    plan: str
    roster: Roster
    terms: Terms
    round: int
    attempt: int

    def context(self, purpose: str, **more: Any) -> Context:
        """A context of this attempt alone."""
        return {"purpose": f"wardround {purpose} 1", "plan": self.plan, "roster": self.roster.digest,
                "round": self.round, "attempt": self.attempt, **more}  # fmt: skip

    def key_claim(self, place: int, public: bytes) -> Context:
        """What a hospital signs with its round key."""
        return self.context("round key", place=place, public=public.hex())

    def statement(self, *, book: str, weights: str, commitments: Table) -> Context:
        """What a hospital signs in the confirm leg: whose sum is to be opened, of which numbers.

        Args:
            book: Digest of the key book.
            weights: Digest of the weights that the round starts from.
            commitments: SHA-256 of the key of each member's own mask, by place.
        """
        members = {str(place): commitments[place].hex() for place in sorted(commitments)}
        return self.context("confirm", book=book, weights=weights, commitments=members)

    def verify(self, record: Context, signature: bytes, *, place: int, what: str) -> None:
        """Refuse what the hospital at a place did not sign.

        Args:
            record: What was signed.
            signature: 64 bytes.
            place: Of the signer.
            what: What was signed, for the message.

        Raises:
            MessageRefused: The signature is not that hospital's over this.
        """
        try:
            text = base64.b64encode(signature).decode()
            verify(record, text, public=self.roster.members[place].identity, what=what)
        except (SignatureInvalid, IndexError) as error:
            raise MessageRefused(
                f"{what} of place {place} is not signed by the hospital that the roster names"
            ) from error


@dataclass(frozen=True)
class KeyBook:
    """Everybody's round keys: by place, 32 bytes of a public key and 64 of its signature."""

    entries: Table

    def public(self, place: int) -> bytes:
        """The round key of a place."""
        return self.entries[place][:KEY_BYTES]

    @property
    def places(self) -> tuple[int, ...]:
        """Who is in it, in order."""
        return tuple(sorted(self.entries))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of its bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Its one form."""
        return pack(self.entries)

    @classmethod
    def of(cls, data: bytes, attempt: Attempt) -> "KeyBook":
        """Read and check a key book: every key is signed by the hospital that the roster names, for this attempt.

        Raises:
            MessageRefused: It is not.
        """
        book = cls(unpack(data, size=KEY_BYTES + SIGNATURE_BYTES, holders=len(attempt.roster.members)))
        for place, entry in book.entries.items():
            claim = attempt.key_claim(place, entry[:KEY_BYTES])
            attempt.verify(claim, entry[KEY_BYTES:], place=place, what="the round key")
            require_public(entry[:KEY_BYTES], whose=attempt.roster.names[place])
        if len({book.public(place) for place in book.entries}) != len(book.entries):
            raise MessageRefused("two hospitals of a key book have one round key")
        return book


def raw_signature(text: str) -> bytes:
    """The 64 bytes of a base64 signature; raises `MessageRefused` where it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MessageRefused("a signature of the secure sum is no base64") from error
    if len(raw) != SIGNATURE_BYTES:
        raise MessageRefused("a signature of the secure sum has not 64 bytes")
    return raw


def pack(table: Mapping[int, bytes]) -> bytes:
    """Pieces by place as bytes: a byte for the place, then the piece, in order."""
    return b"".join(bytes([place]) + table[place] for place in sorted(table))


def unpack(data: bytes, *, size: int, holders: int) -> Table:
    """Read what `pack` made.

    Args:
        data: Bytes from the wire.
        size: Of each piece.
        holders: Places are below this.

    Raises:
        MessageRefused: It is not pieces of that size by rising places.
    """
    if len(data) % (1 + size):
        raise MessageRefused("a table of the secure sum is cut off")
    table: Table = {}
    for start in range(0, len(data), 1 + size):
        place = data[start]
        if place >= holders or (table and place <= max(table)):
            raise MessageRefused("a table of the secure sum names a place twice, out of order or beyond the roster")
        table[place] = data[start + 1 : start + 1 + size]
    return table
