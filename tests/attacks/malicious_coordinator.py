"""A coordinator that holds one hospital's keys tries to open less than the sum of a secure round.

    python -m tests.attacks.malicious_coordinator

Seven hospitals share their noise; one colludes and two may be missing. The coordinator answers each leg as it likes,
and knows the colluding hospital's keys and shares. Tried are: two sets of hospitals, one for each half; both shares of
one hospital; other weights for one; an invented hospital in the key book; keys of an earlier round; a set of too few;
numbers that come after their hospital was declared gone; the difference of two answers to one attempt.

Prints what each try came to; exit code 1 if the numbers of one honest hospital, or of fewer than five, were opened.
"""

import base64
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from common.errors import MessageRefused, WardroundError
from common.secure.attempt import KeyBook, Table, pack, unpack
from common.secure.masks import new_private, public_of
from common.secure.opening import opened
from tests.client.secure_world import WEIGHTS, Sent, Values, World

COLLUDING = 3
HONEST = (0, 1, 2, 4, 5, 6)


def main() -> int:
    """Try each and say what came of it."""
    worked = 0
    for attack in TRIES:
        print(attack.__doc__)
        with tempfile.TemporaryDirectory() as folder:
            learnt = attack(World(Path(folder), 7, 1, 2))
        print(f"  {'IT WORKS' if learnt else 'learnt nothing but refusals, as it should be'}")
        worked += learnt
    print(f"\n{worked} of {len(TRIES)} attacks work")
    return 1 if worked else 0


def two_sets(world: World) -> bool:
    """Two sets, one for each half, so that their difference shows single hospitals."""
    book, sent = honest_legs(world)
    halves = [(0, 1, 2, COLLUDING, 4), (COLLUDING, 2, 4, 5, 6)]
    signed = [
        signatures(world, book, {place: sent.commitments[place] for place in members}, members) for members in halves
    ]
    found = [reveals(world, sent, table, members) for table, members in zip(signed, halves, strict=True)]
    return all(len(shares) + 1 >= world.terms.threshold for shares in found)


def both_shares(world: World) -> bool:
    """Both keys of one hospital: it is a member in the set that is signed, and gone in a set that is claimed later."""
    book, sent = honest_legs(world)
    everybody = tuple(range(7))
    signed = signatures(world, book, sent.commitments, everybody)
    shares = reveals(world, sent, signed, everybody)
    own = sum(0 in tables[0] for tables in shares.values())
    gone = sum(0 in tables[1] for tables in shares.values())
    fewer = {place: sent.commitments[place] for place in range(1, 7)}
    again = signatures(world, book, fewer, tuple(range(1, 7)))
    gone += sum(0 in tables[1] for tables in reveals(world, sent, again, tuple(range(1, 7))).values())
    print(f"  shares of its mask's key: {own}, of its round key: {gone}; {world.terms.threshold} open one")
    return own + 1 >= world.terms.threshold and gone + 1 >= world.terms.threshold


def other_weights(world: World) -> bool:
    """Other weights for one hospital, so that its numbers stand out of the sum."""
    book, boxes = world.book()
    sent = world.train(book, boxes, range(7), weights=lambda place: "e" * 64 if place == 0 else WEIGHTS)
    signed = signatures(world, book, sent.commitments, tuple(range(7)))
    shares = reveals(world, sent, signed, tuple(range(7)))
    return opens(world, book, sent, shares, tuple(range(7)))


def invented_hospital(world: World) -> bool:
    """An invented hospital in the key book, whose round key the coordinator knows."""
    book, boxes = world.book()
    entries = unpack(book, size=96, holders=7)
    mine = public_of(new_private())
    claim = world.attempt().key_claim(6, mine)
    forged = {**entries, 6: mine + base64.b64decode(world.identities[COLLUDING].sign(claim))}
    return any(tried(lambda place=place: world.train(pack(forged), boxes, [place])) for place in HONEST[:-1])


def replayed_keys(world: World) -> bool:
    """Keys of the round before, which were opened there."""
    book, boxes = world.book()
    later = world.attempt(2)
    world.book(attempt=later)
    return any(tried(lambda place=place: world.train(book, boxes, [place], later)) for place in HONEST)


def too_few(world: World) -> bool:
    """A set of four, of whom one colludes."""
    book, sent = honest_legs(world)
    members = (0, 1, 2, COLLUDING)
    commitments = {place: sent.commitments[place] for place in members}
    return len(signatures(world, book, commitments, members)) > 1


def late_numbers(world: World) -> bool:
    """The late numbers of a hospital that was declared gone, whose round key is open."""
    book, boxes = world.book()
    members = tuple(range(6))
    sent = world.train(book, boxes, members)
    shares = reveals(world, sent, signatures(world, book, sent.commitments, members), members)
    late = world.train(book, boxes, [6])
    alone = Sent(late.masked, late.boxes, late.commitments)
    return opens(world, book, alone, shares, (6,))


def two_answers(world: World) -> bool:
    """The difference of two answers to one attempt, as the masks of both are the same."""
    _, _ = world.book()
    book, boxes = world.book()
    world.train(book, boxes, [0])
    world.values[0] = world.values[0] + 1  # another cohort, or fresh noise
    return tried(lambda: world.train(book, boxes, [0]))


def honest_legs(world: World) -> tuple[bytes, Sent]:
    """The first two legs as they should be."""
    book, boxes = world.book()
    return book, world.train(book, boxes, range(7))


def signatures(world: World, book: bytes, commitments: Table, members: Iterable[int]) -> Table:
    """What the members sign of a set; the colluding one signs all."""
    digest = KeyBook.of(book, world.attempt()).digest
    record = world.attempt().statement(book=digest, weights=WEIGHTS, commitments=commitments)
    signed = {COLLUDING: base64.b64decode(world.identities[COLLUDING].sign(record))}
    for place in set(members) - {COLLUDING}:
        try:
            signed[place] = world.session(place).confirm(pack(commitments))
        except MessageRefused as error:
            print(f"  refused: {error}")
    return signed


def reveals(world: World, sent: Sent, signed: Table, members: Iterable[int]) -> dict[int, tuple[Table, Table]]:
    """What the honest members give for these signatures."""
    found = {}
    for place in set(members) - {COLLUDING}:
        try:
            own, gone = world.reveal(sent, signed, place)
            found[place] = (world.table(own), world.table(gone))
        except MessageRefused as error:
            print(f"  refused: {error}")
    return found


def opens(
    world: World, book: bytes, sent: Sent, shares: dict[int, tuple[Table, Table]], members: tuple[int, ...]
) -> bool:
    """Whether the shares open the sum of these members or of any one of them."""
    attempt = world.attempt()
    for some in {members, *((place,) for place in members)}:
        total = np.sum([sent.masked[place] for place in some], axis=0, dtype=np.uint64)
        commitments = {place: sent.commitments[place] for place in some}
        try:
            clear: Values = opened(attempt, KeyBook.of(book, attempt), total, weights=WEIGHTS, commitments=commitments,
                                   revealed=shares).view(np.int64)  # fmt: skip
        except WardroundError as error:
            print(f"  stays closed: {error}")
            continue
        if any(
            (clear == world.plain(part)).any() for size in (1, 2, 3, 4) for part in itertools.combinations(some, size)
        ):
            return True
    return False


def tried(ask: Callable[[], object]) -> bool:
    """Whether a hospital answers."""
    try:
        ask()
    except MessageRefused as error:
        print(f"  refused: {error}")
        return False
    return True


TRIES = (
    two_sets, both_shares, other_weights, invented_hospital, replayed_keys, too_few, late_numbers, two_answers,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
