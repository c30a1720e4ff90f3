"""Opening a secure sum: from masked numbers and shares of keys to the exact total, or the name of what is missing."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping

from common.errors import StudyStopped
from common.secure import masks, shamir
from common.secure.attempt import Attempt, KeyBook, Table
from common.secure.masks import Words

_MOST_TRIES = 300
"""Sets of shares that are tried where some are wrong."""


def own_mask_key(attempt: Attempt, own: bytes) -> bytes:
    """Key of the stream of a hospital's own mask."""
    return masks.derived(own, attempt.context("own mask"))


def pair_context(attempt: Attempt, *places: int, book: str, weights: str) -> masks.Context:
    """What the mask of a pair is bound to.

    Both places are in it: a hospital that signs another one's round key as its own, whose private half it lacks, gets
    other streams than that one has. With the same streams it would cancel the other's masks out of everybody's numbers.

    Args:
        attempt: The attempt.
        places: Of the two, in any order.
        book: Digest of the key book.
        weights: Digest of the weights.
    """
    low, high = sorted(places)
    return attempt.context("pair mask", low=low, high=high, book=book, weights=weights)


def opened(
    attempt: Attempt,
    book: KeyBook,
    total: Words,
    *,
    weights: str,
    commitments: Table,
    revealed: Mapping[int, tuple[Table, Table]],
) -> Words:
    """The exact sum of the members' numbers, modulo 2^64.

    Args:
        attempt: The attempt.
        book: Its key book.
        total: Sum of the members' masked numbers, modulo 2^64.
        weights: Digest of the weights that they were computed from.
        commitments: Of the members, by place.
        revealed: By the place of a hospital that revealed, its shares of members' mask keys and of others' round keys.

    Raises:
        StudyStopped: Too few right shares of a key are there.
    """
    clear = total.copy()
    for place, commitment in commitments.items():
        own = _key(attempt, place, ((who, tables[0]) for who, tables in revealed.items()), _hashes_to(commitment))
        masks.mask(clear, own_mask_key(attempt, own), sign=-1)
    for gone in set(book.places) - set(commitments):
        private = _key(attempt, gone, ((who, tables[1]) for who, tables in revealed.items()), _opens(book.public(gone)))
        for place in commitments:
            context = pair_context(attempt, place, gone, book=book.digest, weights=weights)
            key = masks.shared_key(private, book.public(place), context)
            masks.mask(clear, key, sign=-1 if place < gone else 1)
    return clear


def _hashes_to(commitment: bytes) -> Callable[[bytes], bool]:
    return lambda key: hashlib.sha256(key).digest() == commitment


def _opens(public: bytes) -> Callable[[bytes], bool]:
    return lambda key: masks.public_of(key) == public


def _key(attempt: Attempt, place: int, tables: Iterable[tuple[int, Table]], right: Callable[[bytes], bool]) -> bytes:
    """The key of a place from its shares; a wrong share among enough right ones does no harm."""
    shares = {who + 1: table[place] for who, table in tables if place in table}
    sets = itertools.combinations(sorted(shares), attempt.terms.threshold)
    for some in itertools.islice(sets, _MOST_TRIES):
        key = shamir.combine({holder: shares[holder] for holder in some})
        if right(key):
            return key
    raise StudyStopped(
        f"round {attempt.round}: {len(shares)} hospitals gave shares of a key of {attempt.roster.names[place]}, and no "
        f"{attempt.terms.threshold} of them fit. The sum stays closed. Resume the study: they are asked for once more, "
        "and if they stay wrong, a new attempt is begun"
    )
