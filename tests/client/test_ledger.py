"""The ledger is durable, append-only and chained; all studies compose; a refused booking leaves no trace."""

import sqlite3
from pathlib import Path

import pytest

from client.ledger import GENESIS, Entry, Ledger
from common.errors import BudgetExhausted, LedgerCorrupt
from common.privacy import GaussianEvent, epsilon

EVENT = GaussianEvent(sigma=2.0, sample_rate=0.1, steps=10)


def entry(plan: str = "p" * 64, number: int = 1) -> Entry:
    return Entry(study="s", plan=plan, round=number, phase="sgd", event=EVENT, cohort="c" * 64)


def anything(_study: list[GaussianEvent], _everything: list[GaussianEvent]) -> None:
    """Permit every booking."""


def test_booking_survives_a_restart(tmp_path: Path) -> None:
    Ledger(tmp_path / "l.sqlite").reserve(entry(), permit=anything)
    again = Ledger(tmp_path / "l.sqlite")
    assert again.events() == [EVENT]
    assert again.epsilon(delta=1e-5) == epsilon([EVENT], delta=1e-5) > 0


def test_booking_is_on_disk_before_reserve_returns(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    with sqlite3.connect(tmp_path / "l.sqlite") as other:
        assert other.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    with ledger._connect() as database:
        assert database.execute("PRAGMA synchronous").fetchone()[0] == 2
    ledger.reserve(entry(), permit=anything)
    with sqlite3.connect(tmp_path / "l.sqlite") as other:
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
    head = ledger.head()

    def refuse(study: list[GaussianEvent], everything: list[GaussianEvent]) -> None:
        assert study == everything == [EVENT]
        raise BudgetExhausted("no")

    with pytest.raises(BudgetExhausted):
        ledger.reserve(entry(), permit=refuse)
    assert ledger.head() == head
    assert ledger.events() == [EVENT]


def test_rows_cannot_be_changed_or_removed_through_sql(tmp_path: Path) -> None:
    Ledger(tmp_path / "l.sqlite").reserve(entry(), permit=anything)
    with sqlite3.connect(tmp_path / "l.sqlite") as database:
        for statement in ("UPDATE events SET steps = 1", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET sigma = 20 WHERE id = 1",
        "DELETE FROM events WHERE id = 1",
        "UPDATE events SET hash = 'x' WHERE id = 2",
        "UPDATE events SET round = 7 WHERE id = 2",
    ],
)
def test_an_edit_made_past_the_triggers_is_noticed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    ledger.reserve(entry(), permit=anything)
    ledger.reserve(entry(number=2), permit=anything)
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER no_update")
        database.execute("DROP TRIGGER no_delete")
        database.execute(statement)
    with pytest.raises(LedgerCorrupt):
        Ledger(path)
    with pytest.raises(LedgerCorrupt):
        ledger.reserve(entry(), permit=anything)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"this is not a database, whatever its name says " * 100)
    with pytest.raises(LedgerCorrupt, match="restore"):
        Ledger(tmp_path / "l.sqlite")


def test_head_moves_with_every_row(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    heads = [ledger.head()]
    assert heads == [GENESIS]
    for number in range(1, 4):
        ledger.reserve(entry(number=number), permit=anything)
        heads.append(ledger.head())
    assert len(set(heads)) == 4
