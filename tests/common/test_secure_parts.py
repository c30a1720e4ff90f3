"""The parts of a secure sum: shares of keys, masks that cancel, boxes that one hospital opens, numbers that fit."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from common.accountant.accounting import STATED_ERROR
from common.errors import MessageRefused, PlanError
from common.mechanism.masked_sum import LEAST_DEVIATION, deviation, rounding
from common.secure import masks, shamir
from common.secure.masks import derived, mask, new_private, public_of, seal, shared_key, unseal
from common.secure.terms import Terms

SECRET = bytes(range(32))
CONTEXT = {"plan": "p", "round": 1, "attempt": 1}


def test_the_field_is_the_one_of_aes() -> None:
    """FIPS 197, section 4.2: 57 * 83 = c1 and 57 * 13 = fe."""
    left, right = np.array([0x57, 0x57, 0x00, 0x01], np.uint8), np.array([0x83, 0x13, 0x99, 0x99], np.uint8)
    assert shamir.times(left, right).tolist() == [0xC1, 0xFE, 0x00, 0x99]


def test_shares_are_values_of_the_polynomial_whose_value_at_0_is_the_secret() -> None:
    """Worked by hand: 0x2a + 0x57 x + 0x01 x^2, at 1, 2 and 3."""
    shares = shamir.split(b"\x2a", threshold=3, holders=3, random=lambda _: b"\x01\x57")
    at_2 = 0x2A ^ 0xAE ^ 0x04  # 57 * 2 = ae, 2 * 2 = 4
    at_3 = 0x2A ^ (0x57 ^ 0xAE) ^ 0x05
    assert [share[0] for share in shares] == [0x2A ^ 0x57 ^ 0x01, at_2, at_3]


@pytest.mark.parametrize(("threshold", "holders"), [(1, 1), (3, 3), (3, 5), (6, 10), (30, 50), (4, 255)])
def test_any_t_shares_give_the_secret_and_fewer_or_wrong_ones_do_not(threshold: int, holders: int) -> None:
    shares = dict(enumerate(shamir.split(SECRET, threshold=threshold, holders=holders), start=1))
    random = np.random.default_rng(1)
    for _ in range(5):
        some = (1 + random.choice(holders, threshold, replace=False)).tolist()
        assert shamir.combine({place: shares[place] for place in some}) == SECRET
        if threshold > 1:
            assert shamir.combine({place: shares[place] for place in some[1:]}) != SECRET
            wrong = {place: shares[place] for place in some} | {some[0]: bytes(32)}
            assert shamir.combine(wrong) != SECRET
    assert shamir.combine(shares) == SECRET


@pytest.mark.parametrize("secret", [0, 1, 77, 255])
def test_one_share_of_two_is_as_likely_for_every_secret(secret: int) -> None:
    """Through all polynomials, a share takes each value once, and not once in a way that depends on the secret."""
    drawn = [
        shamir.split(bytes([secret]), threshold=2, holders=2, random=lambda _, a=a: bytes([a])) for a in range(256)
    ]
    for holder in (0, 1):
        assert sorted(shares[holder][0] for shares in drawn) == list(range(256))


@pytest.mark.parametrize("call", [
    lambda: shamir.split(SECRET, threshold=4, holders=3),
    lambda: shamir.split(SECRET, threshold=0, holders=3),
    lambda: shamir.split(SECRET, threshold=2, holders=256),
    lambda: shamir.combine({}),
    lambda: shamir.combine({0: b"x"}),
    lambda: shamir.combine({1: b"x", 2: b"xy"}),
])  # fmt: skip
def test_shares_that_cannot_be_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="secret"):
        call()


def test_masks_of_all_pairs_cancel_to_the_bit_over_several_slabs() -> None:
    private = [new_private() for _ in range(4)]
    length = masks._SLAB + 3
    values = np.random.default_rng(0).integers(-(2**62), 2**62, (4, length)).astype(np.uint64)
    masked = values.copy()
    for mine, other in itertools.permutations(range(4), 2):
        key = shared_key(private[mine], public_of(private[other]), CONTEXT)
        mask(masked[mine], key, sign=1 if mine < other else -1)
    assert (masked != values).mean() > 0.99
    np.testing.assert_array_equal(masked.sum(axis=0, dtype=np.uint64), values.sum(axis=0, dtype=np.uint64))


@pytest.mark.parametrize("other", [{**CONTEXT, "round": 2}, {**CONTEXT, "attempt": 2}, {**CONTEXT, "weights": "w"}])
def test_another_context_is_another_mask(other: dict[str, object]) -> None:
    left, right = new_private(), new_private()
    assert shared_key(left, public_of(right), CONTEXT) == shared_key(right, public_of(left), CONTEXT)
    assert shared_key(left, public_of(right), CONTEXT) != shared_key(left, public_of(right), other)
    assert derived(SECRET, CONTEXT) != derived(SECRET, other)


def test_a_key_that_shares_one_secret_with_everybody_is_refused() -> None:
    with pytest.raises(MessageRefused, match="X25519"):
        shared_key(new_private(), bytes(32), CONTEXT)


def test_a_box_opens_for_its_receiver_from_its_sender_in_its_context_alone() -> None:
    sender, receiver, third = new_private(), new_private(), new_private()
    box = seal(SECRET, private=sender, public=public_of(receiver), context=CONTEXT)
    assert len(box) == masks.BOX_BYTES
    assert unseal(box, private=receiver, public=public_of(sender), context=CONTEXT) == SECRET
    assert box != seal(SECRET, private=sender, public=public_of(receiver), context=CONTEXT)
    for private, public, context, content in (
        (third, public_of(sender), CONTEXT, box),
        (receiver, public_of(third), CONTEXT, box),
        (receiver, public_of(sender), {**CONTEXT, "round": 2}, box),
        (receiver, public_of(sender), CONTEXT, box[:-1] + bytes([box[-1] ^ 1])),
        (receiver, public_of(sender), CONTEXT, bytes([box[0] ^ 1]) + box[1:]),
        (receiver, public_of(sender), CONTEXT, b""),
    ):
        with pytest.raises(MessageRefused, match="box"):
            unseal(content, private=private, public=public, context=context)


@pytest.mark.parametrize(("h", "c", "d", "t"), [(3, 1, 0, 3), (4, 1, 1, 3), (10, 1, 2, 6), (50, 8, 8, 30)])
def test_good_numbers_pass_and_two_sets_of_signatures_share_an_honest_hospital(h: int, c: int, d: int, t: int) -> None:
    terms = Terms(hospitals=h, colluding=c, dropouts=d)
    terms.check()
    assert terms.threshold == t
    assert 2 * terms.threshold - c > h
    assert terms.least >= terms.threshold
    assert terms.noisy == h - c - d


@pytest.mark.parametrize(("h", "c", "d"), [
    (2, 1, 0), (101, 1, 0), (3, 0, 0), (3, 2, 0), (3, 1, 1), (4, 1, 2), (10, 1, 5), (4, 1, -1),
])  # fmt: skip
def test_numbers_without_a_claim_are_refused(h: int, c: int, d: int) -> None:
    with pytest.raises(PlanError, match=r"aggregation\.(hospitals|colluding|dropouts)"):
        Terms(hospitals=h, colluding=c, dropouts=d).check()


def test_the_share_of_the_noise_makes_one_curators_noise_of_those_who_are_counted_on() -> None:
    for h, c, d in ((3, 1, 0), (10, 1, 2), (50, 8, 8)):
        terms = Terms(hospitals=h, colluding=c, dropouts=d)
        assert terms.share**2 * terms.noisy == pytest.approx(1.0)
        assert terms.spread(terms.noisy) == pytest.approx(1.0)
        assert deviation(2.0, terms) == pytest.approx(2.0 * 2**24 * terms.share)


def test_a_share_too_small_for_the_bound_is_refused() -> None:
    terms = Terms(hospitals=3, colluding=1, dropouts=0)
    with pytest.raises(PlanError, match="too small to be shared"):
        deviation(LEAST_DEVIATION / 2**24, terms)


def test_what_integers_add_to_epsilon_is_lost_in_what_the_accountant_adds() -> None:
    """A million values, a thousand releases, and less noise than any plan has."""
    assert rounding(10**6, 1 / 16) < 1e-6
    assert 1000 * rounding(10**6, 1 / 16) < STATED_ERROR / 10
