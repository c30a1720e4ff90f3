"""Hospitals of a secure sum with all of their keys, and the legs of an attempt as an honest coordinator runs them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.secure.session import Keys, Session
from common.secure.attempt import Attempt, KeyBook, Table, pack
from common.secure.masks import new_private, public_of
from common.secure.opening import opened
from common.secure.roster import Member, Roster
from common.secure.terms import Terms
from common.wire.signing import Key

PLAN, WEIGHTS = "a" * 64, "b" * 64
Values = NDArray[np.int64]


@dataclasses.dataclass
class Sent:
    """What came of the train leg: masked numbers, boxes and commitment, by place."""

    masked: dict[int, NDArray[np.uint64]]
    boxes: dict[int, Table]
    commitments: Table


class World:
    """H hospitals; c may collude and d may be missing.

    Args:
        folder: Where their homes are made.
        hospitals: H.
        colluding: c.
        dropouts: d.
    """

    def __init__(self, folder: Path, hospitals: int, colluding: int, dropouts: int) -> None:
        self.folder = folder
        self.identities, self.private, members = [], [], []
        for number in range(hospitals):
            home = folder / f"s{number:02d}"
            home.mkdir(parents=True)
            self.identities.append(Key.at(home / "site.key"))
            self.private.append(new_private())
            member = Member(site=home.name, legal=f"Hospital {number}", identity=self.identities[-1].public,
                            box=public_of(self.private[-1]).hex())  # fmt: skip
            members.append(member.signed(self.identities[-1]))
        self.roster = Roster.of(members)
        self.terms = Terms(hospitals=hospitals, colluding=colluding, dropouts=dropouts)
        self.terms.check()
        random = np.random.default_rng(hospitals)
        self.values: list[Values] = [random.integers(-(2**50), 2**50, 40) for _ in range(hospitals)]

    def attempt(self, number: int = 1, attempt: int = 1, *, plan: str = PLAN) -> Attempt:
        return Attempt(plan=plan, roster=self.roster, terms=self.terms, round=number, attempt=attempt)

    def session(self, place: int, attempt: Attempt | None = None) -> Session:
        """Read from disk each time, as after a crash."""
        keys = Keys(place=place, identity=self.identities[place], box=self.private[place])
        return Session(self.folder / f"s{place:02d}", attempt or self.attempt(), keys)

    def book(
        self, places: Iterable[int] | None = None, attempt: Attempt | None = None
    ) -> tuple[bytes, dict[int, Table]]:
        """Leg 1: the key book, and every hospital's boxes by sender."""
        entries, boxes = {}, {}
        for place in range(self.terms.hospitals) if places is None else places:
            public, signature, sealed = self.session(place, attempt).make_key()
            entries[place], boxes[place] = public + signature, sealed
        return pack(entries), boxes

    def train(
        self, book: bytes, boxes: Mapping[int, Table], places: Iterable[int], attempt: Attempt | None = None,
        weights: Callable[[int], str] = lambda _: WEIGHTS,
    ) -> Sent:  # fmt: skip
        """Leg 2 at these hospitals."""
        sent = Sent({}, {}, {})
        for place in places:
            mine = pack({sender: table[place] for sender, table in boxes.items() if sender != place})
            self.session(place, attempt).open_book(book, mine, weights=weights(place))
            values = self.values[place].astype(np.uint64)
            sent.boxes[place], sent.commitments[place] = self.session(place, attempt).mask(values, cohort="c")
            sent.masked[place] = values
        return sent

    def signatures(self, sent: Sent, places: Iterable[int], attempt: Attempt | None = None) -> Table:
        """Leg 3: all who sent are the set."""
        return {place: self.session(place, attempt).confirm(pack(sent.commitments)) for place in places}

    def reveal(self, sent: Sent, signed: Table, place: int, attempt: Attempt | None = None) -> tuple[bytes, bytes]:
        """Leg 4 at one hospital."""
        mine = pack({sender: table[place] for sender, table in sent.boxes.items() if sender != place})
        return self.session(place, attempt).reveal(pack(signed), mine)

    def open(
        self, book: bytes, sent: Sent, revealed: Mapping[int, tuple[bytes, bytes]], attempt: Attempt | None = None
    ) -> Values:
        attempt = attempt or self.attempt()
        total = np.sum(list(sent.masked.values()), axis=0, dtype=np.uint64)
        tables = {place: (self.table(own), self.table(gone)) for place, (own, gone) in revealed.items()}
        clear = opened(attempt, KeyBook.of(book, attempt), total, weights=WEIGHTS, commitments=sent.commitments,
                       revealed=tables)  # fmt: skip
        return clear.view(np.int64)

    def table(self, data: bytes) -> Table:
        from common.secure.attempt import unpack

        return unpack(data, size=32, holders=self.terms.hospitals)

    def plain(self, places: Iterable[int]) -> Values:
        return np.sum([self.values[place] for place in places], axis=0, dtype=np.int64)
