"""The ledger is durable, append-only and chained; all studies compose; a refused booking leaves no trace."""

import sqlite3
from pathlib import Path

import pytest

from client.ledger.bookings import Bookings
from client.ledger.ledger import GENESIS, Entry, Ledger
from client.ledger.ledger_store import LedgerStore, Row
from common.accountant.accounting import GaussianEvent, epsilon
from common.errors import BudgetExhausted, LedgerCorrupt

EVENT = GaussianEvent(sigma=2.0, sample_rate=0.1, steps=10)


def entry(plan: str = "p" * 64, number: int = 1, *, cohort: str = "c" * 64, patients: tuple[str, ...] = ()) -> Entry:
    return Entry(
        study="s", plan=plan, round=number, phase="sgd", event=EVENT, cohort=cohort, patients=patients, request="w"
    )


def anything(_booked: object) -> None:
    """Permit every booking."""


def test_booking_survives_a_restart(tmp_path: Path) -> None:
    Ledger(tmp_path / "l.sqlite").reserve(entry(), permit=anything)
    again = Ledger(tmp_path / "l.sqlite")
    assert again.events() == [EVENT]
    assert again.epsilon(delta=1e-5) == epsilon([EVENT], delta=1e-5) > 0


def test_booking_is_on_disk_before_reserve_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[tuple[str, int]] = []
    connect = LedgerStore._insert

    def insert(store: LedgerStore, rows: list[Row]) -> None:
        with store._connect() as database:
            ask = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))
            settings.append(tuple(ask))  # type: ignore[arg-type]
        connect(store, rows)

    monkeypatch.setattr(LedgerStore, "_insert", insert)
    Ledger(tmp_path / "l.sqlite").reserve(entry(), permit=anything)
    assert settings == [("wal", 2)]  # 2 is FULL
    (tmp_path / "copy.sqlite").write_bytes((tmp_path / "l.sqlite").read_bytes())  # the file alone, without its log
    with sqlite3.connect(tmp_path / "copy.sqlite") as other:
        assert other.execute("SELECT COUNT(*) FROM events").fetchone()[0] == 1


def test_all_studies_on_the_same_patients_compose(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.reserve(entry("a" * 64), permit=anything)
    ledger.reserve(entry("b" * 64), permit=anything)
    assert ledger.epsilon(delta=1e-5, plan="a" * 64) == epsilon([EVENT], delta=1e-5)
    assert ledger.epsilon(delta=1e-5) == epsilon([EVENT, EVENT], delta=1e-5)


def test_a_retry_is_a_new_event_and_settling_gives_nothing_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    number = ledger.reserve(entry(), permit=anything)
    before = ledger.epsilon(delta=1e-5)
    ledger.settle(number, entry(), reply_digest="d" * 64)
    assert ledger.epsilon(delta=1e-5) == before
    ledger.reserve(entry(), permit=anything)
    assert ledger.epsilon(delta=1e-5) > before


def test_refused_booking_costs_nothing_and_leaves_the_chain_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.reserve(entry(), permit=anything)
    head, seal = ledger.head(), (tmp_path / "l.seal").read_bytes()

    def refuse(booked: Bookings) -> None:
        assert booked.events(plan="p" * 64) == booked.events(study="s") == booked.events() == [EVENT]
        raise BudgetExhausted("no")

    with pytest.raises(BudgetExhausted):
        ledger.reserve(entry(patients=("k",)), permit=refuse)
    assert ledger.head() == head
    assert (tmp_path / "l.seal").read_bytes() == seal
    assert ledger.events() == [EVENT]


def test_head_moves_with_every_row_and_every_head_is_remembered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    heads = [ledger.head()]
    assert heads == [GENESIS]
    for number in range(1, 4):
        ledger.reserve(entry(number=number), permit=anything)
        heads.append(ledger.head())
    assert len(set(heads)) == 4
    for head in ("", *heads):
        ledger.require(head)
    with pytest.raises(LedgerCorrupt, match="behind the receipt"):
        ledger.require("a" * 64)


def test_what_was_spent_carries_over_to_every_later_cohort(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    cohorts = {"one": ("a", "b"), "grown": ("a", "b", "c"), "shrunk": ("b", "c"), "disjoint": ("x", "y")}
    for number, (identity, patients) in enumerate(cohorts.items(), start=1):
        seen: list[int] = []
        ledger.reserve(
            entry(number=number, cohort=identity, patients=patients),
            permit=lambda booked, seen=seen: seen.extend([len(booked.events(plan="p" * 64)), len(booked.rows)]),  # type: ignore[misc]
        )
        assert seen == [number - 1, number - 1]
    assert ledger.cohorts() == {name: frozenset(patients) for name, patients in cohorts.items()}
    assert ledger.epsilon(delta=1e-5) == epsilon([EVENT] * 4, delta=1e-5)


def test_a_cohort_that_comes_back_is_written_once_and_later_changes_stay_right(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    for identity, patients in (("one", ("a", "b")), ("two", ("a",)), ("one", ("a", "b")), ("three", ("b", "c"))):
        ledger.reserve(entry(cohort=identity, patients=patients), permit=anything)
    assert [row.kind for row in ledger.rows()].count("cohort") == 3
    assert ledger.cohorts() == {"one": {"a", "b"}, "two": {"a"}, "three": {"b", "c"}}


def test_a_reservation_is_found_by_plan_round_and_weights(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    number = ledger.reserve(entry(), permit=anything)
    assert [row.id for row in ledger.booked("p" * 64, 1, "w")] == [number]
    assert ledger.booked("p" * 64, 2, "w") == ledger.booked("p" * 64, 1, "v") == ledger.booked("q" * 64, 1, "w") == []
    asked = {"plan": "p" * 64, "cohort": "c" * 64, "reply_digest": "d"}
    assert not ledger.settled(number, **asked, head=ledger.head())
    ledger.settle(number, entry(), reply_digest="d")
    before, head = (row.hash for row in ledger.rows())
    assert ledger.settled(number, **asked, head=head)
    for other in ({"plan": "q" * 64}, {"cohort": "d" * 64}, {"reply_digest": "e"}):
        assert not ledger.settled(number, **{**asked, **other}, head=head)
    for foreign in (before, GENESIS, "", "f" * 64):
        assert not ledger.settled(number, **asked, head=foreign)
    ledger.withdraw(["k"])
    assert ledger.settled(number, **asked, head=ledger.head())


def test_withdrawals_are_rows_of_the_chain_and_twice_is_as_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.withdraw(["k1", "k2", "k1"])
    head = ledger.head()
    ledger.withdraw(["k1", "k2"])
    assert ledger.head() == head
    ledger.withdraw(["k3"])
    assert [w.keys for w in Ledger(tmp_path / "l.sqlite").withdrawals()] == [("k1", "k2"), ("k3",)]
    assert ledger.withdrawn() == {"k1", "k2", "k3"}
    assert ledger.events() == []
