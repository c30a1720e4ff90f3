"""One attempt at a secure sum: exact for everybody who may be missing, the same bytes twice, and a no to all else."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from client.secure.session import close_all, path_of
from common.errors import MessageRefused, StateError, StudyStopped
from common.secure import masks, shamir
from common.secure.attempt import KeyBook, pack, unpack
from common.secure.masks import derived, new_private
from common.secure.opening import own_mask_key, pair_context
from tests.client.secure_world import PLAN, WEIGHTS, Sent, World


@pytest.fixture
def seven(tmp_path: Path) -> World:
    return World(tmp_path, 7, 1, 2)


def trained(world: World, places: range = range(7)) -> tuple[bytes, Sent]:
    book, boxes = world.book()
    return book, world.train(book, boxes, places)


@pytest.mark.parametrize(("h", "c", "d"), [(3, 1, 0), (4, 1, 1), (7, 1, 2), (10, 1, 2)])
@pytest.mark.parametrize("leg", ["none", "keys", "train", "confirm", "reveal"])
def test_the_sum_is_exact_with_d_absent_from_any_leg_on(tmp_path: Path, h: int, c: int, d: int, leg: str) -> None:
    world, everybody = World(tmp_path, h, c, d), list(range(h))
    there = everybody[d:]
    at = {name: there if ["keys", "train", "confirm", "reveal"].index(name) >= order else everybody
          for order in [["keys", "train", "confirm", "reveal", "none"].index(leg)]
          for name in ("keys", "train", "confirm", "reveal")}  # fmt: skip
    book, boxes = world.book(at["keys"])
    sent = world.train(book, boxes, at["train"])
    signed = world.signatures(sent, at["confirm"])
    revealed = {place: world.reveal(sent, signed, place) for place in at["reveal"]}
    np.testing.assert_array_equal(world.open(book, sent, revealed), world.plain(at["train"]))


def test_masked_numbers_say_nothing_without_a_reveal_and_two_hospitals_masks_differ(seven: World) -> None:
    _, sent = trained(seven)
    total = np.sum(list(sent.masked.values()), axis=0, dtype=np.uint64).view(np.int64)
    assert (total != seven.plain(range(7))).all()
    high = np.stack([sent.masked[place] >> np.uint64(56) for place in range(7)])
    assert len(np.unique(high)) > 100  # values below 2^50 would fill two of 256


def test_every_leg_answers_the_same_bytes_when_it_is_asked_again(seven: World) -> None:
    book, boxes = seven.book()
    assert seven.book() == (book, boxes)
    first, second = seven.train(book, boxes, range(7)), seven.train(book, boxes, range(7))
    for place in range(7):
        np.testing.assert_array_equal(first.masked[place], second.masked[place])
    assert (first.boxes, first.commitments) == (second.boxes, second.commitments)
    signed = seven.signatures(first, range(7))
    assert seven.signatures(first, range(7)) == signed
    revealed = seven.reveal(first, signed, 3)
    assert seven.reveal(first, signed, 3) == revealed
    assert seven.session(3).reveal(b"", b"") == revealed


def test_the_sum_of_one_plan_round_or_attempt_uses_no_key_of_another(seven: World) -> None:
    book, boxes = seven.book()
    for other in (seven.attempt(2), seven.attempt(1, 2), seven.attempt(plan="c" * 64)):
        fresh, _ = seven.book(attempt=other)
        assert fresh != book
        with pytest.raises(MessageRefused, match="not signed"):
            seven.train(book, boxes, [0], other)


def test_a_key_book_that_was_forged_is_refused(seven: World) -> None:
    book, boxes = seven.book()
    entries = unpack(book, size=96, holders=7)
    swapped = {**entries, 2: entries[3], 3: entries[2]}
    invented = {**entries, 2: bytes(32) + entries[2][32:]}
    twice = {**entries, 3: entries[2]}
    for table in (swapped, invented, twice):
        with pytest.raises(MessageRefused, match="not signed"):
            seven.train(pack(table), boxes, [0])
    with pytest.raises(MessageRefused, match="own key"):
        seven.train(pack({place: entry for place, entry in entries.items() if place}), boxes, [0])
    with pytest.raises(MessageRefused, match="4 keys, 5 are the fewest"):
        seven.train(pack({place: entries[place] for place in range(4)}), boxes, [0])
    for torn in (book[:-1], book + b"\x09" + bytes(96), book[97:] + book[:97]):
        with pytest.raises(MessageRefused, match="table"):
            seven.train(torn, boxes, [0])


def test_a_key_book_of_a_key_that_was_lost_is_refused(seven: World, tmp_path: Path) -> None:
    """A home without its state makes a new key, and hides nothing by the old one."""
    book, boxes = seven.book()
    path_of(tmp_path / "s00", PLAN, 1, 1).unlink()
    seven.session(0).make_key()
    with pytest.raises(MessageRefused, match="own key"):
        seven.train(book, boxes, [0])


def test_numbers_are_masked_on_one_set_of_weights_and_one_key_book(seven: World) -> None:
    book, boxes = seven.book()
    seven.train(book, boxes, [0])
    with pytest.raises(MessageRefused, match="another key book or other weights"):
        seven.train(book, boxes, [0], weights=lambda _: "d" * 64)
    smaller = pack({place: entry for place, entry in unpack(book, size=96, holders=7).items() if place != 6})
    with pytest.raises(MessageRefused, match="another key book or other weights"):
        seven.train(smaller, boxes, [0])


def test_other_numbers_are_never_masked_by_the_same_keys(seven: World) -> None:
    """The difference of two would bare the difference of two noised sums."""
    book, boxes = seven.book()
    seven.train(book, boxes, [0])
    seven.values[0] = seven.values[0] + 1
    with pytest.raises(MessageRefused, match="other numbers were masked"):
        seven.train(book, boxes, [0])
    for cohort, resumes in (("other", True), ("c", False)):
        with pytest.raises(MessageRefused, match="was answered"):
            seven.session(0).require_first(cohort, resumes=resumes)
    seven.session(0).require_first("c", resumes=True)


def test_numbers_without_a_key_book_are_not_masked(seven: World) -> None:
    seven.book()
    with pytest.raises(MessageRefused, match="no key book"):
        seven.session(0).mask(np.zeros(3, np.uint64), cohort="c")


def test_weights_that_differ_at_one_hospital_open_nothing(seven: World) -> None:
    book, boxes = seven.book()
    sent = seven.train(book, boxes, range(7), weights=lambda place: "e" * 64 if place == 2 else WEIGHTS)
    signed = seven.signatures(sent, range(7))
    for place in range(7):
        with pytest.raises(MessageRefused, match="not signed"):
            seven.reveal(sent, signed, place)


def test_there_is_one_set_for_ever(seven: World) -> None:
    _, sent = trained(seven)
    seven.signatures(sent, [0])
    fewer = pack({place: sent.commitments[place] for place in range(6)})
    with pytest.raises(MessageRefused, match="another set"):
        seven.session(0).confirm(fewer)
    other = pack({**sent.commitments, 5: bytes(32)})
    with pytest.raises(MessageRefused, match="another set"):
        seven.session(0).confirm(other)


@pytest.mark.parametrize(("places", "why"), [
    ([0, 1, 2, 3], "4 hospitals, 5"), ([1, 2, 3, 4, 5, 6], "own numbers"), ([], "own numbers"),
])  # fmt: skip
def test_a_set_that_is_too_small_or_lacks_this_hospital_is_not_signed(
    seven: World, places: list[int], why: str
) -> None:
    _, sent = trained(seven)
    with pytest.raises(MessageRefused, match=why):
        seven.session(0).confirm(pack({place: sent.commitments[place] for place in places}))


def test_a_set_with_a_hospital_outside_the_key_book_or_with_invented_numbers_is_not_signed(seven: World) -> None:
    book, boxes = seven.book(range(6))
    sent = seven.train(book, boxes, range(6))
    with pytest.raises(MessageRefused, match="of the key book"):
        seven.session(0).confirm(pack({**sent.commitments, 6: bytes(32)}))
    with pytest.raises(MessageRefused, match="own numbers"):
        seven.session(0).confirm(pack({**sent.commitments, 0: bytes(32)}))


def test_a_hospital_that_sent_no_numbers_signs_no_set(seven: World) -> None:
    _, sent = trained(seven, range(6))
    with pytest.raises(MessageRefused, match="no numbers"):
        seven.session(6).confirm(pack({**sent.commitments, 6: bytes(32)}))


def test_two_sets_to_two_halves_open_neither(seven: World) -> None:
    """A coordinator with one colluding hospital, which signs both: honest ones sign once."""
    _, sent = trained(seven)
    left = pack({place: sent.commitments[place] for place in range(5)})
    right = pack({place: sent.commitments[place] for place in range(2, 7)})
    signed_left = {place: seven.session(place).confirm(left) for place in (0, 1, 2)}
    signed_right = {place: seven.session(place).confirm(right) for place in (4, 5, 6)}
    statement = seven.attempt().statement
    for places, signed, member in ((range(5), signed_left, 0), (range(2, 7), signed_right, 5)):
        commitments = {place: sent.commitments[place] for place in places}
        digest = KeyBook.of(seven.book()[0], seven.attempt()).digest
        record = statement(book=digest, weights=WEIGHTS, commitments=commitments)
        colluding = base64.b64decode(seven.identities[3].sign(record))
        with pytest.raises(MessageRefused, match="4 have signed the set, 5 are the fewest"):
            seven.session(member).reveal(pack({**signed, 3: colluding}), b"")


def test_signatures_that_are_no_members_or_of_another_set_open_nothing(seven: World) -> None:
    book, boxes = seven.book()
    sent = seven.train(book, boxes, range(6))
    signed = seven.signatures(sent, range(6))
    for table, why in (
        ({**signed, 6: signed[5]}, "no member"),
        ({**signed, 5: signed[4]}, "not signed"),
        ({place: signed[place] for place in range(4)}, "4 have signed"),
        ({}, "0 have signed"),
    ):
        with pytest.raises(MessageRefused, match=why):
            seven.session(0).reveal(pack(table), b"")
    with pytest.raises(MessageRefused, match="signed no set"):
        seven.session(6).reveal(pack(signed), b"")


def test_of_no_hospital_are_both_shares_given(seven: World) -> None:
    """The message that Flower's SecAgg+ answers with both: a hospital that sent is named as gone in the reveal."""
    book, boxes = seven.book()
    sent = seven.train(book, boxes, range(6))
    signed = seven.signatures(sent, range(6))
    for place in range(6):
        own, gone = (seven.table(data) for data in seven.reveal(sent, signed, place))
        assert set(own) == set(range(6))
        assert set(gone) == {6}
        with pytest.raises(MessageRefused, match="over"):
            seven.session(place).confirm(pack({p: sent.commitments[p] for p in range(5)}))


def test_late_numbers_of_one_who_was_declared_gone_stay_hidden(seven: World) -> None:
    """Its round key can be made then, its own mask's key cannot."""
    book, boxes = seven.book()
    sent = seven.train(book, boxes, range(6))
    signed = seven.signatures(sent, range(6))
    revealed = {place: seven.reveal(sent, signed, place) for place in range(6)}
    late = seven.train(book, boxes, [6])
    assert not any(6 in seven.table(own) for own, _ in revealed.values())
    both = Sent({**sent.masked, **late.masked}, {}, {**sent.commitments, **late.commitments})
    with pytest.raises(StudyStopped, match="s06"):
        seven.open(book, both, revealed)
    with pytest.raises(MessageRefused, match="over"):
        seven.session(0).confirm(pack(both.commitments))


def test_a_wrong_share_among_enough_right_ones_does_no_harm_and_too_few_stop_the_sum(seven: World) -> None:
    book, sent = trained(seven)
    signed = seven.signatures(sent, range(7))
    revealed = {place: seven.reveal(sent, signed, place) for place in range(7)}
    bad = {place: bytes([value[0] ^ 1]) + value[1:] for place, value in seven.table(revealed[1][0]).items()}
    spoiled = {**revealed, 1: (pack(bad), b"")}
    np.testing.assert_array_equal(seven.open(book, sent, spoiled), seven.plain(range(7)))
    few = {place: spoiled[place] for place in (0, 1, 2, 3, 4)}
    with pytest.raises(StudyStopped, match="stays closed"):
        seven.open(book, sent, few)


def test_a_box_that_is_not_its_senders_costs_the_round_nothing(seven: World) -> None:
    book, boxes = seven.book()
    boxes[1] = {place: bytes(64) for place in boxes[1]}
    sent = seven.train(book, boxes, range(7))
    sent.boxes[2] = {place: box[:-1] + bytes([box[-1] ^ 1]) for place, box in sent.boxes[2].items() if place != 0}
    sent.boxes[2][0] = bytes(64)
    signed = seven.signatures(sent, range(7))
    revealed = {place: seven.reveal(sent, signed, place) for place in range(7)}
    with pytest.raises(StudyStopped, match="key of s02"):
        seven.open(book, sent, revealed)


def test_keys_are_destroyed_in_the_step_that_stores_the_reveal(seven: World, tmp_path: Path) -> None:
    _, sent = trained(seven)
    signed = seven.signatures(sent, range(7))
    path = path_of(tmp_path / "s00", PLAN, 1, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    before = json.loads(path.read_text())
    seven.reveal(sent, signed, 0)
    after = path.read_text()
    for secret in (before["private"], before["own"], before["own_share"], *before["held"].values()):
        assert secret
        assert secret not in after.replace(json.loads(after)["revealed"][0], "")


def test_a_closed_attempt_answers_no_leg_and_a_damaged_state_is_not_made_anew(seven: World, tmp_path: Path) -> None:
    book, sent = trained(seven)
    close_all(tmp_path / "s00", why="adopted home")
    session = seven.session(0)
    for leg in (session.make_key, lambda: session.open_book(book, b"", weights=WEIGHTS),
                lambda: session.confirm(pack(sent.commitments)), lambda: session.reveal(b"", b""),
                lambda: session.require_first("c", resumes=True)):  # fmt: skip
        with pytest.raises(MessageRefused, match="adopted home"):
            leg()
    assert seven.session(0, seven.attempt(1, 2)).make_key()
    path_of(tmp_path / "s01", PLAN, 1, 1).write_text("{")
    with pytest.raises(StateError, match="damaged"):
        seven.session(1)


@pytest.mark.parametrize("other", ["weights", "book"])
def test_masks_are_bound_to_weights_and_key_book(seven: World, other: str) -> None:
    """What a hospital masks for other weights, or under another book, does not cancel."""
    bound = {"book": "1" * 64, "weights": WEIGHTS}
    attempt, key = seven.attempt(), new_private()
    keys = {derived(key, pair_context(attempt, 0, 1, **both)) for both in (bound, {**bound, other: "2" * 64})}
    assert len(keys) == 2


def test_a_round_key_that_was_copied_cancels_no_honest_mask(tmp_path: Path) -> None:
    """X25519 ignores the top bit: a colluder's key with it turned is another key of the same secret."""
    world, honest, copier = World(tmp_path, 4, 1, 0), range(3), 3
    attempt = world.attempt()
    keys = {place: world.session(place).make_key() for place in honest}
    copied = bytearray(keys[0][0])
    copied[-1] ^= 0x80
    signed = world.identities[copier].sign(attempt.key_claim(copier, bytes(copied)))
    entries = {place: public + signature for place, (public, signature, _) in keys.items()}
    book = pack({**entries, copier: bytes(copied) + base64.b64decode(signed)})
    sent = world.train(book, {place: boxes for place, (_, _, boxes) in keys.items()}, honest)
    sent.commitments[copier] = bytes(32)
    signatures = {place: world.session(place).confirm(pack(sent.commitments)) for place in honest}
    own = {place: world.table(world.reveal(sent, signatures, place)[0]) for place in honest}
    total = sent.masked[1] + sent.masked[2]
    for place in (1, 2):
        key = shamir.combine({holder + 1: own[holder][place] for holder in honest})
        masks.mask(total, own_mask_key(attempt, key), sign=-1)
    assert (total.view(np.int64) != world.plain((1, 2))).all(), "two of three honest hospitals' sum was bared"


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
def test_a_round_key_that_shares_no_secret_is_refused_by_name(seven: World, key: bytes) -> None:
    attempt = seven.attempt()
    book, boxes = seven.book()
    entries = dict(KeyBook.of(book, attempt).entries)
    entries[2] = key + base64.b64decode(seven.identities[2].sign(attempt.key_claim(2, key)))
    mine = pack({sender: table[0] for sender, table in boxes.items() if sender != 0})
    with pytest.raises(MessageRefused, match="s02"):
        seven.session(0).open_book(pack(entries), mine, weights=WEIGHTS)
