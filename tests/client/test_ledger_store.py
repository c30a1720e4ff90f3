"""No byte of the ledger can change, and no older copy be put back, unnoticed; an interrupted write ends well."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger import ledger_store
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import GENESIS, Draft, LedgerStore
from common.errors import DiskFull, FileLocked, LedgerCorrupt
from tests.client.test_ledger import anything, entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small ledger with every kind of row."""
    place = tmp_path / "l.sqlite"
    ledger = Ledger(place)
    number = ledger.reserve(entry(patients=("k1", "k2")), permit=anything)
    ledger.settle(number, entry(), reply_digest="d" * 64)
    ledger.withdraw(["k1"])
    return place


def flipped(content: bytes, position: int) -> bytes:
    """The byte at `position`, changed; which of its bits change depends on the position."""
    return bytes([content[position] ^ ((1 << position % 8) if position % 9 else 0xFF)])


def flips(content: bytes, *, every: int = 1) -> Iterator[tuple[int, bytes]]:
    """`content` with one byte changed, for every position or every n-th."""
    for position in range(0, len(content), every):
        yield position, content[:position] + flipped(content, position) + content[position + 1 :]


@pytest.mark.parametrize("part", ["sqlite", "seal"])
def test_every_single_flipped_byte_is_detected(path: Path, part: str) -> None:
    file = path.with_suffix(f".{part}")
    content = file.read_bytes()
    store, unnoticed = LedgerStore(path), []
    with file.open("r+b", buffering=0) as raw:
        for position in range(len(content)):
            os.pwrite(raw.fileno(), flipped(content, position), position)
            try:
                store.rows()
                unnoticed.append(position)
            except LedgerCorrupt:
                pass
            os.pwrite(raw.fileno(), content[position : position + 1], position)
    assert unnoticed == []
    assert len(store.rows()) == 4


def reseal(path: Path) -> None:
    """What a forger would do after a change: make the seal fit the file."""
    seal = json.loads(path.with_suffix(".seal").read_bytes())
    seal["file"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".seal").write_bytes(json.dumps(seal, sort_keys=True, separators=(",", ":")).encode())


def test_a_flipped_byte_under_a_forged_seal_is_detected_wherever_it_is_read(path: Path) -> None:
    content, rows = path.read_bytes(), LedgerStore(path).rows()
    store, noticed = LedgerStore(path), 0
    for position, changed in flips(content, every=11):
        path.write_bytes(changed)
        reseal(path)
        try:
            assert store.rows() == rows, f"the flip at {position} changed what is read"
        except LedgerCorrupt:
            noticed += 1
    assert noticed > 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET sigma = 20 WHERE id = 2",
        "DELETE FROM events WHERE id = 2",
        "DELETE FROM events WHERE id = 4",
        "UPDATE events SET hash = 'x' WHERE id = 3",
        "UPDATE events SET note = 'k9' WHERE id = 4",
        "INSERT INTO events SELECT 5, time, kind, study, plan, round, phase, sigma, rate, steps, cohort, note, 'h' "
        "FROM events WHERE id = 4",
    ],
)
@pytest.mark.parametrize("forged", [False, True])
def test_an_edit_made_past_the_triggers_is_noticed(path: Path, statement: str, forged: bool) -> None:
    database = sqlite3.connect(path)
    for trigger in ("no_update", "no_delete"):
        database.execute(f"DROP TRIGGER {trigger}")
    database.execute(statement)
    database.commit()
    database.close()
    if forged:
        reseal(path)
    for use in (lambda: Ledger(path), lambda: LedgerStore(path).append(lambda _: [Draft(kind="withdraw")])):
        with pytest.raises(LedgerCorrupt, match="restore the ledger"):
            use()


def test_rows_cannot_be_changed_or_removed_through_sql(path: Path) -> None:
    database = sqlite3.connect(path)
    for statement in ("UPDATE events SET steps = 1", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    database.close()
    assert len(Ledger(path).rows()) == 4


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"this is not a database, whatever its name says " * 100)
    with pytest.raises(LedgerCorrupt, match="restore"):
        Ledger(tmp_path / "l.sqlite")


def test_an_older_copy_put_back_is_refused(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".backup"))
    Ledger(path).reserve(entry(number=2), permit=anything)
    shutil.copy(path.with_suffix(".backup"), path)
    with pytest.raises(LedgerCorrupt, match="not the ones that were sealed"):
        Ledger(path)


def test_an_older_copy_of_ledger_and_seal_is_behind_the_receipt(path: Path) -> None:
    for part in ("sqlite", "seal"):
        shutil.copy(path.with_suffix(f".{part}"), path.with_suffix(f".{part}.backup"))
    ledger = Ledger(path)
    ledger.reserve(entry(number=2), permit=anything)
    receipt = ledger.head()
    for part in ("sqlite", "seal"):
        shutil.copy(path.with_suffix(f".{part}.backup"), path.with_suffix(f".{part}"))
    with pytest.raises(LedgerCorrupt, match="behind the receipt"):
        Ledger(path).require(receipt)


@pytest.mark.parametrize("gone", ["sqlite", "seal"])
def test_a_ledger_without_its_other_half_is_refused(path: Path, gone: str) -> None:
    path.with_suffix(f".{gone}").unlink()
    with pytest.raises(LedgerCorrupt, match="gone"):
        Ledger(path)


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_that_somebody_else_left_is_refused_before_it_is_replayed(path: Path, suffix: str) -> None:
    before = path.read_bytes()
    path.with_name(path.name + suffix).write_bytes(b"\x37\x7f\x06\x82" + bytes(4096))
    with pytest.raises(LedgerCorrupt, match="not wardround"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_full_disk_is_an_error_of_its_type_and_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    head = Ledger(path).head()
    with monkeypatch.context() as patched:
        patched.setattr(ledger_store, "write_atomically", full)
        with pytest.raises(DiskFull, match="No space left"):
            Ledger(path).reserve(entry(number=2), permit=anything)
    assert Ledger(path).head() == head


def test_a_seal_has_one_valid_form(path: Path) -> None:
    seal = path.with_suffix(".seal")
    values = json.loads(seal.read_bytes())
    for other in (json.dumps(values), json.dumps({**values, "more": 1}), json.dumps({**values, "schema": 2}), "[]", ""):
        seal.write_text(other)
        with pytest.raises(LedgerCorrupt, match="seal"):
            Ledger(path)


def test_a_row_that_another_program_keeps_from_being_folded_in_is_not_reported_as_booked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_store, "_PATIENCE_S", 0.05)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM events").fetchone()
    with pytest.raises(FileLocked, match="close that program"):
        Ledger(path).reserve(entry(number=2), permit=anything)
    reader.close()
    assert len(Ledger(path).rows()) == 5  # over-counted, never under-counted


POINTS = ("begin", "announced", "committed", "folded", "end")


def killed_while_appending(path: Path, point: str) -> None:
    """Append a row in a child process that is killed with SIGKILL at this point of the write."""
    child = os.fork()
    if child == 0:  # pragma: no cover - the child never returns
        die_at(point)
        Ledger(path).reserve(entry(number=9), permit=anything)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def die_at(point: str) -> None:  # pragma: no cover - runs in the child
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write_seal, fold = LedgerStore._write_seal, ledger_store._fold
    if point == "begin":
        LedgerStore._write_seal = die  # type: ignore[method-assign, assignment]
    elif point == "announced":
        LedgerStore._insert = die  # type: ignore[method-assign, assignment]
    elif point == "committed":
        ledger_store._fold = die  # type: ignore[assignment]
    elif point == "folded":
        ledger_store._fold = lambda database: (fold(database), die())  # type: ignore[func-returns-value]
    else:

        def write(store: LedgerStore, seal: ledger_store._Seal) -> None:
            write_seal(store, seal)
            if seal.state == "sealed":
                die()

        LedgerStore._write_seal = write  # type: ignore[method-assign]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_a_write_leaves_the_old_rows_or_the_new_ones(path: Path, point: str) -> None:
    killed_while_appending(path, point)
    ledger = Ledger(path)
    assert len(ledger.rows()) == (4 if POINTS.index(point) < 2 else 5)
    ledger.reserve(entry(number=10), permit=anything)
    assert ledger.rows()[-1].round == 10


def test_a_flipped_byte_in_the_log_of_an_interrupted_write_never_loses_a_row_that_was_returned(path: Path) -> None:
    before = Ledger(path).rows()
    killed_while_appending(path, "committed")
    log = path.with_name(path.name + "-wal")
    state = {file: file.read_bytes() for file in (path, path.with_suffix(".seal"), log)}
    announced = json.loads(path.with_suffix(".seal").read_bytes())["next"]
    outcomes = set()
    for _, changed in flips(state[log], every=37):
        for file, content in state.items():
            file.write_bytes(changed if file == log else content)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        try:
            rows = LedgerStore(path).rows()
        except LedgerCorrupt:
            outcomes.add("refused")
            continue
        assert rows[: len(before)] == before
        assert [row.hash for row in rows[len(before) :]] in ([], [announced])
        outcomes.add(len(rows))
    assert outcomes & {4, 5}


def test_a_row_that_was_never_announced_is_refused_after_a_crash(path: Path) -> None:
    killed_while_appending(path, "committed")
    seal = json.loads(path.with_suffix(".seal").read_bytes())
    seal["next"] = "f" * 64
    path.with_suffix(".seal").write_bytes(json.dumps(seal, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(LedgerCorrupt, match="never announced"):
        Ledger(path)


def test_tables_that_were_changed_while_a_write_was_interrupted_are_refused(path: Path) -> None:
    killed_while_appending(path, "announced")
    database = sqlite3.connect(path)
    database.execute("DROP TRIGGER no_delete")
    database.close()
    with pytest.raises(LedgerCorrupt, match="tables are damaged"):
        Ledger(path)


def test_a_write_that_a_crash_cut_short_cannot_hide_a_rollback(path: Path) -> None:
    old = path.read_bytes()
    Ledger(path).reserve(entry(number=2), permit=anything)
    killed_while_appending(path, "announced")
    path.write_bytes(old)
    with pytest.raises(LedgerCorrupt, match="ends before"):
        Ledger(path)


def test_writers_in_many_threads_take_turns(path: Path) -> None:
    def book(first: int) -> None:
        for number in range(first, first + 5):
            Ledger(path).reserve(entry(number=number), permit=anything)

    threads = [threading.Thread(target=book, args=(first,)) for first in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.id for row in Ledger(path).rows()] == list(range(1, 20))
    assert Ledger(path).head() != GENESIS
