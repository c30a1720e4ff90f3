"""A hospital's state in one attempt at a secure round, on disk before each answer.

    secure/PLAN/ROUND-ATTEMPT.json    made -> booked -> masked -> confirmed -> revealed, or closed

Formal guarantee
    For any requests in any order, and after any crash: one key, one set of masked numbers, one set U and one reveal for
    a round and attempt. The same question gets the same bytes, another one is refused. Numbers that differ from
    those that were masked before are refused, as the difference of two would bare the noised sum itself. For one
    hospital a share of its own mask's key is given or one of its round key, never both: the one U says which.
    The shares leave with T signatures on that very U. The keys are destroyed in the step that stores the reveal.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.site import layout
from common.errors import MessageRefused, StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.secure import masks, shamir
from common.secure.attempt import SIGNATURE_BYTES, Attempt, KeyBook, Table, pack, raw_signature, unpack
from common.secure.masks import BOX_BYTES, KEY_BYTES, Words
from common.secure.opening import own_mask_key, pair_context
from common.wire.signing import Key

_DIGEST_BYTES = 32
_ENTRY_BYTES = KEY_BYTES + SIGNATURE_BYTES


@dataclass
class _State:
    """What is stored; bytes as hexadecimal digits, "" for nothing yet.

    Attributes:
        private: The round key, until the reveal.
        public: Its public half.
        signature: Over it, base64.
        boxes: For the peers, with shares of the private half.
        held: Shares for this hospital of round keys, the own included, by place; until the reveal.
        book: The key book.
        weights: Digest of the weights.
        own: Key of the own mask, until the reveal.
        own_share: The own share of it, until the reveal.
        own_boxes: For the peers, with shares of it.
        commitment: Its SHA-256.
        masked: SHA-256 of the masked numbers.
        cohort: Identity of the data set that they are of.
        commitments: Of the members of U, by place.
        revealed: The two tables that were given.
        closed: Why no leg is answered any more.
    """

    private: str = ""
    public: str = ""
    signature: str = ""
    boxes: str = ""
    held: dict[str, str] = field(default_factory=dict)
    book: str = ""
    weights: str = ""
    own: str = ""
    own_share: str = ""
    own_boxes: str = ""
    commitment: str = ""
    masked: str = ""
    cohort: str = ""
    commitments: str = ""
    revealed: list[str] = field(default_factory=list)
    closed: str = ""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A hospital's own keys: its place in the roster, what it signs with, and what boxes are sealed for."""

    place: int
    identity: Key
    box: bytes


class Session:
    """One attempt at one hospital. The caller holds the site alone (`client.site.site.Site.alone`).

    Args:
        home: The site's home.
        attempt: Which attempt.
        keys: The hospital's own.

    Raises:
        StateError: The stored state cannot be read.
    """

    def __init__(self, home: Path, attempt: Attempt, keys: Keys) -> None:
        self._path = path_of(home, attempt.plan, attempt.round, attempt.attempt)
        self.attempt, self._keys = attempt, keys
        self._state = _read(self._path)

    @property
    def cohort(self) -> str:
        """Identity of the data set that the masked numbers are of; "" before."""
        return self._state.cohort

    def make_key(self) -> tuple[bytes, bytes, Table]:
        """Leg 1: the round key, its signature, and a box for each peer."""
        self._require_open()
        state, attempt = self._state, self.attempt
        if not state.public:
            private = masks.new_private()
            public = masks.public_of(private)
            shares = self._split(private)
            state.held = {str(self._keys.place): shares[self._keys.place].hex()}
            state.private, state.public = private.hex(), public.hex()
            state.signature = self._keys.identity.sign(attempt.key_claim(self._keys.place, public))
            state.boxes = pack(self._sealed(shares, "key share", public=public.hex())).hex()
            self._save()
        boxes = unpack(bytes.fromhex(state.boxes), size=BOX_BYTES, holders=self._holders)
        return bytes.fromhex(state.public), raw_signature(state.signature), boxes

    def open_book(self, data: bytes, boxes: bytes, *, weights: str) -> None:
        """Leg 2, before anything is booked: take over the key book, for these weights alone and for ever.

        Args:
            data: The key book.
            boxes: Those of the peers for this hospital.
            weights: Digest of the weights that came with it.

        Raises:
            MessageRefused: The attempt is under way with another book or other weights, or the book is not one that
                enough hospitals of the roster signed.
        """
        self._require_open()
        state, mine = self._state, self._keys.place
        book = KeyBook.of(data, self.attempt)
        if state.book:
            if (state.book, state.weights) != (data.hex(), weights):
                raise MessageRefused(f"{self._what} is under way with another key book or other weights")
            return
        if not state.public or mine not in book.places or book.public(mine).hex() != state.public:
            raise MessageRefused(f"{self._what}: the key book lacks this hospital's own key")
        if len(book.places) < self.attempt.terms.least:
            raise MessageRefused(f"{self._what}: {len(book.places)} keys, {self.attempt.terms.least} are the fewest")
        for place, box in unpack(boxes, size=BOX_BYTES, holders=self._holders).items():
            if place in book.places and place != mine:
                share = self._unsealed(place, box, "key share", public=book.public(place).hex())
                if share:
                    state.held[str(place)] = share.hex()
        state.book, state.weights = data.hex(), weights
        self._save()

    def require_first(self, cohort: str, *, resumes: bool) -> None:
        """Refuse to compute a second set of numbers for this attempt, before it is booked.

        Args:
            cohort: Identity of the data set that would be computed on.
            resumes: Whether the noise key of the numbers that were masked is there still, so that none has left.

        Raises:
            MessageRefused: Numbers of this attempt may have left.
        """
        self._require_open()
        if self._state.masked and not (resumes and self._state.cohort == cohort):
            raise MessageRefused(f"{self._what} was answered. Ask for a new attempt, which is booked anew")

    def mask(self, values: Words, *, cohort: str) -> tuple[Table, bytes]:
        """Leg 2, after the booking: hide values in place; returns the boxes for the peers and the commitment.

        Args:
            values: The noised integers [n], modulo 2^64.
            cohort: Identity of the data set that they are of.

        Raises:
            MessageRefused: There is no key book yet, or other numbers were masked in this attempt.
        """
        self._require_open()
        state, attempt = self._state, self.attempt
        if not state.book:
            raise MessageRefused(f"{self._what} has no key book")
        book = KeyBook(unpack(bytes.fromhex(state.book), size=_ENTRY_BYTES, holders=self._holders))
        bound = {"book": book.digest, "weights": state.weights}
        if not state.own:
            own = os.urandom(KEY_BYTES)
            shares = self._split(own)
            state.own, state.own_share = own.hex(), shares[self._keys.place].hex()
            state.commitment = hashlib.sha256(own).hexdigest()
            state.own_boxes = pack(self._sealed(shares, "own mask share", **bound)).hex()
        for place in book.places:
            if place != self._keys.place:
                context = pair_context(attempt, self._keys.place, place, **bound)
                key = masks.shared_key(bytes.fromhex(state.private), book.public(place), context)
                masks.mask(values, key, sign=1 if self._keys.place < place else -1)
        masks.mask(values, own_mask_key(attempt, bytes.fromhex(state.own)), sign=1)
        masked = hashlib.sha256(values.tobytes()).hexdigest()
        if state.masked not in ("", masked):
            raise MessageRefused(f"{self._what}: other numbers were masked before. Ask for a new attempt")
        state.masked, state.cohort = masked, cohort
        self._save()
        boxes = unpack(bytes.fromhex(state.own_boxes), size=BOX_BYTES, holders=self._holders)
        return boxes, bytes.fromhex(state.commitment)

    def confirm(self, data: bytes) -> bytes:
        """Leg 3: sign the one set of members, whose commitments these are.

        Raises:
            MessageRefused: This hospital is not in it, it is too small, it is not of the key book, or another set was
                signed.
        """
        state, mine = self._state, self._keys.place
        commitments = unpack(data, size=_DIGEST_BYTES, holders=self._holders)
        if not state.closed and state.commitments and state.commitments == data.hex():
            return self._signed(commitments)  # also after the reveal: it is the same set
        self._require_open()
        if not state.masked:
            raise MessageRefused(f"{self._what}: this hospital has sent no numbers")
        if state.commitments not in ("", data.hex()):
            raise MessageRefused(f"{self._what}: another set of hospitals was signed")
        if commitments.get(mine, b"").hex() != state.commitment:
            raise MessageRefused(f"{self._what}: this hospital's own numbers are not in the set")
        book = unpack(bytes.fromhex(state.book), size=_ENTRY_BYTES, holders=self._holders)
        if len(commitments) < self.attempt.terms.least or not set(commitments) <= set(book):
            raise MessageRefused(
                f"{self._what}: the set has {len(commitments)} hospitals, {self.attempt.terms.least} of the key book "
                "are the fewest"
            )
        state.commitments = data.hex()
        self._save()
        return self._signed(commitments)

    def reveal(self, signatures: bytes, boxes: bytes) -> tuple[bytes, bytes]:
        """Leg 4: with enough signatures on the own set, shares of its members' mask keys and of the others' round keys.

        Args:
            signatures: By place.
            boxes: Those of the members for this hospital, from leg 2.

        Returns:
            Shares of the members' mask keys, and of the round keys of those in the book who are no members; packed.

        Raises:
            MessageRefused: No set was signed here, or too few have signed the same.
        """
        state = self._state
        if state.revealed:
            return bytes.fromhex(state.revealed[0]), bytes.fromhex(state.revealed[1])
        self._require_open()
        if not state.commitments:
            raise MessageRefused(f"{self._what}: this hospital has signed no set")
        commitments = unpack(bytes.fromhex(state.commitments), size=_DIGEST_BYTES, holders=self._holders)
        statement = self._statement(commitments)
        signed = unpack(signatures, size=SIGNATURE_BYTES, holders=self._holders)
        for place, signature in signed.items():
            if place not in commitments:
                raise MessageRefused(f"{self._what}: a signature is of no member of the set")
            self.attempt.verify(statement, signature, place=place, what="the set")
        if len(signed) < self.attempt.terms.threshold:
            raise MessageRefused(
                f"{self._what}: {len(signed)} have signed the set, {self.attempt.terms.threshold} are the fewest"
            )
        own = {self._keys.place: bytes.fromhex(state.own_share)}
        bound = {"book": self._book_digest, "weights": state.weights}
        for place, box in unpack(boxes, size=BOX_BYTES, holders=self._holders).items():
            if place in commitments and place != self._keys.place:
                share = self._unsealed(place, box, "own mask share", **bound)
                if share:
                    own[place] = share
        book = unpack(bytes.fromhex(state.book), size=_ENTRY_BYTES, holders=self._holders)
        gone = {int(place): bytes.fromhex(share) for place, share in state.held.items()
                if int(place) in book and int(place) not in commitments}  # fmt: skip
        state.revealed = [pack(own).hex(), pack(gone).hex()]
        state.private = state.own = state.own_share = ""
        state.held = {}
        self._save()
        return bytes.fromhex(state.revealed[0]), bytes.fromhex(state.revealed[1])

    @property
    def _holders(self) -> int:
        return len(self.attempt.roster.members)

    @property
    def _what(self) -> str:
        return f"attempt {self.attempt.attempt} at round {self.attempt.round}"

    @property
    def _book_digest(self) -> str:
        return hashlib.sha256(bytes.fromhex(self._state.book)).hexdigest()

    def _statement(self, commitments: Table) -> dict[str, Any]:
        return self.attempt.statement(book=self._book_digest, weights=self._state.weights, commitments=commitments)

    def _signed(self, commitments: Table) -> bytes:
        return raw_signature(self._keys.identity.sign(self._statement(commitments)))

    def _split(self, secret: bytes) -> tuple[bytes, ...]:
        return shamir.split(secret, threshold=self.attempt.terms.threshold, holders=self._holders)

    def _sealed(self, shares: tuple[bytes, ...], what: str, **bound: str) -> Table:
        mine, members = self._keys.place, self.attempt.roster.members
        return {
            place: masks.seal(
                shares[place],
                private=self._keys.box,
                public=bytes.fromhex(members[place].box),
                context=self.attempt.context(what, sender=mine, receiver=place, **bound),
            )
            for place in range(len(members))
            if place != mine
        }

    def _unsealed(self, sender: int, box: bytes, what: str, **bound: str) -> bytes:
        """The share in a peer's box; empty where the box is not that peer's: it alone is to blame, and others go on."""
        context = self.attempt.context(what, sender=sender, receiver=self._keys.place, **bound)
        public = bytes.fromhex(self.attempt.roster.members[sender].box)
        try:
            return masks.unseal(box, private=self._keys.box, public=public, context=context)
        except MessageRefused:
            return b""

    def _require_open(self) -> None:
        if self._state.closed:
            raise MessageRefused(f"{self._what} was closed here ({self._state.closed}). Ask for a new attempt")
        if self._state.revealed:
            raise MessageRefused(f"{self._what} is over. Ask for the next round")

    def _save(self) -> None:
        with told(self._path, so=", so this step is not stored and nothing was sent"):
            write_atomically(self._path, json.dumps(asdict(self._state), sort_keys=True).encode(), mode=PRIVATE)


def close_all(home: Path, *, why: str) -> None:
    """Close every attempt of a home that may be a copy: another copy may have signed another set.

    Args:
        home: The site's home.
        why: Two or three words, which a refusal repeats.
    """
    for path in sorted((home / layout.SECURE).glob("*/*.json")):
        with told(path):
            write_atomically(path, json.dumps(asdict(_State(closed=why)), sort_keys=True).encode(), mode=PRIVATE)


def path_of(home: Path, plan: str, number: int, attempt: int) -> Path:
    """Where the state of an attempt lies.

    Args:
        home: The site's home.
        plan: Digest of the plan.
        number: Number of the round.
        attempt: From 1.
    """
    return home / layout.SECURE / plan / f"{number:05d}-{attempt:02d}.json"


def _read(path: Path) -> _State:
    try:
        with told(path):
            return _State(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return _State()
    except (ValueError, TypeError) as error:
        raise StateError(
            f"{path} is damaged ({type(error).__name__}). Nothing was sent. Leave it as it is; the coordinator asks "
            "for a new attempt"
        ) from error
