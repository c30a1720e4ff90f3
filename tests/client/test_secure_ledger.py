"""A reservation says with whom its noise is shared: in the ledger itself, in a merged copy, and in none of before."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from client.ledger.ledger import Entry, Ledger
from client.ledger.sharing import Sharing, request_of, share_of
from common.accountant.accounting import GaussianEvent
from common.secure.terms import Terms

SHARING = Sharing(terms=Terms(hospitals=10, colluding=1, dropouts=2), roster="a" * 64)
PLAIN = Entry(study="s", plan="p" * 64, round=1, phase="mean", cohort="c" * 64, request="b" * 64,
              event=GaussianEvent(sigma=2.0, sample_rate=1.0, steps=1))  # fmt: skip
SHARED = dataclasses.replace(PLAIN, round=2, sharing=SHARING)


def book(ledger: Ledger, *entries: Entry) -> None:
    for entry in entries:
        ledger.reserve(entry, permit=lambda _: None)


def alone(ledger: Ledger) -> list[float]:
    return [event.sigma for event in ledger.bookings().events(alone=True)]


def test_a_row_that_shares_noise_counts_its_own_share_alone_and_a_row_of_before_all_of_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    book(ledger, PLAIN, SHARED)
    rows = ledger.bookings().rows
    assert rows[0].note == PLAIN.request
    assert rows[1].note == f"{SHARED.request} secure H=10 c=1 d=2 roster={'a' * 64}"
    assert [Sharing.read(row.note) for row in rows] == [None, SHARING]
    assert [request_of(row.note) for row in rows] == [PLAIN.request] * 2
    assert [event.sigma for event in ledger.events()] == [2.0, 2.0]
    assert alone(ledger) == pytest.approx([2.0, 2.0 / 7**0.5])
    assert ledger.booked(SHARED.plan, 2, SHARED.request) == [rows[1]]
    assert ledger.pays_for(rows[1].id, SHARED)
    assert not ledger.pays_for(rows[1].id, dataclasses.replace(SHARED, sharing=None))


def test_a_booking_of_another_copy_keeps_with_whom_its_noise_was_shared(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "one" / "ledger.sqlite")
    book(ledger, PLAIN)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    other = Ledger(tmp_path / "two" / "ledger.sqlite")
    book(other, SHARED)
    assert ledger.merge(other.rows()) == 1
    assert alone(ledger) == pytest.approx([2.0, 2.0 / 7**0.5])


def test_a_booking_of_one_attempt_pays_for_no_other(tmp_path: Path) -> None:
    """A crash between key and row leaves a key that names the next row: another attempt's, perhaps."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    first, second = (dataclasses.replace(SHARED, attempt=attempt) for attempt in (1, 2))
    book(ledger, second)
    (row,) = ledger.bookings().rows
    assert ledger.pays_for(row.id, second)
    assert not ledger.pays_for(row.id, first)
    assert not ledger.pays_for(row.id, SHARED)
    assert (Sharing.read(row.note), request_of(row.note)) == (SHARING, SHARED.request)


@pytest.mark.parametrize("note", ["", "b" * 64, "secure H=3 c=2 d=1 roster=simulated", "copy:" + "c" * 64])
def test_a_note_that_names_no_sharing_counts_in_full(note: str) -> None:
    assert share_of(note) == 1.0
