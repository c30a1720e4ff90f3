"""The hospital's privacy ledger: every mechanism ever run on its patients, in all studies, never forgotten.

Formal guarantee
    An event is on disk before the first gradient of what it pays for is computed: a crash over-counts, nothing
    under-counts. Events are stored, never sums. `common.accountant.accounting.epsilon` derives epsilon from all of them
    (the smaller of two upper bounds, never GDP), because all studies here compose on the same patients. A row cannot be
    changed or removed unnoticed (`client.ledger.ledger_store`).

    One ledger is one data set. Its cohort may change - patients are admitted, patients withdraw - and each row names
    the cohort it ran on by an HMAC of its sorted patient keys. What was spent on an earlier cohort counts in full for
    every later one. A patient who was there from the beginning is covered, one who came later is over-counted. So a
    refusal never depends on who is in the cohort.

Rows by kind
    reserve   study, plan, round, phase, sigma, rate, steps, cohort; note: digest of the request's weights,
              and in a secure round with whom the noise is shared (`client.ledger.sharing`)
    settle    study, plan, round, phase, cohort; note: `entry:digest` of the reply that reservation `entry` ended in
    cohort    cohort; note: JSON of the patient keys added and removed since the cohort row before
    withdraw  note: every key of one patient who withdrew consent, separated by blanks
    What was booked out of a copy of this ledger: `client.ledger.ledger_merge`.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.ledger import ledger_merge
from client.ledger.bookings import Bookings
from client.ledger.ledger_store import GENESIS, Draft, LedgerStore, Row
from client.ledger.sharing import Sharing, request_of
from common.accountant.accounting import GaussianEvent, epsilon
from common.errors import EgressRefused
from common.mechanism.registry import RIDERS
from common.plan.schedule import Ride

__all__ = ["GENESIS", "Entry", "Ledger", "Withdrawal", "rides"]

Permit = Callable[[Bookings], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one reservation pays for.

    Attributes:
        study: Name of the study.
        plan: Digest of its plan.
        round: Round number.
        phase: Phase of that round.
        event: The mechanism.
        rides: The riders' releases that go with it.
        cohort: Identity of the data set it runs on.
        patients: Keys of that data set's patients; empty where membership is not recorded.
        request: Digest of the weights the round starts from.
        sharing: With whom the noise is shared; None where all of it is this hospital's own.
        attempt: Attempt at a round whose noise is shared; 0 for any other.
    """

    study: str
    plan: str
    round: int
    phase: str
    event: GaussianEvent
    cohort: str
    patients: tuple[str, ...] = ()
    request: str = ""
    rides: tuple[Ride, ...] = ()
    sharing: Sharing | None = None
    attempt: int = 0


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """One patient's withdrawal of consent: when it was noted (UTC), and every key the patient was known by."""

    time: str
    keys: tuple[str, ...]


class Ledger:
    """One file per hospital data set; safe to open from several processes at once.

    Attributes:
        home: Folder that it lies in, the site's home.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the ledger at `path` and check every byte of it.

        Raises:
            LedgerCorrupt: The file is not a ledger, was altered, or is an older copy than its seal.
        """
        self._store = LedgerStore(path)
        self.home = path.parent

    def reserve(self, entry: Entry, *, permit: Permit, prepare: Callable[[int], None] = lambda _: None) -> int:
        """Book `entry` durably and return its number. Call before the first gradient; a retry books anew.

        Args:
            entry: What is about to run.
            permit: Called under the ledger's lock with all that is booked so far; if it raises, the ledger stays
                as it was. Two studies can therefore not both take the last of the budget. It must not open the ledger
                itself.
            prepare: Called last before the booking is written, with the number it will have; if it raises, the
                ledger stays as it was. The write may still fail after it.

        Raises:
            EgressRefused: A patient of the entry withdrew after the cohort was read.
        """

        def decide(rows: list[Row]) -> list[Draft]:
            _require_consent(rows, entry.patients)
            permit(Bookings.among(rows))
            drafts = [*_cohort_change(rows, entry), *_bookings(entry)]
            prepare(len(rows) + len(drafts))
            return drafts

        return self._store.append(decide)[-1].id

    def settle(self, number: int, entry: Entry, *, reply_digest: str) -> int:
        """Note that reservation `number` ended in a reply of this digest. Costs nothing and frees nothing.

        Args:
            number: Number of the reservation.
            entry: The entry that was reserved.
            reply_digest: SHA-256 of the finished reply.
        """
        return self._store.append(lambda _: [_draft("settle", entry, note=f"{number}:{reply_digest}")])[-1].id

    def booked(self, plan: str, number: int, request: str) -> list[Row]:
        """Return every reservation for round `number` of this plan on these weights, oldest first.

        Args:
            plan: Digest of the plan.
            number: Number of the round.
            request: Digest of the weights that were sent.
        """
        wanted = ("reserve", plan, number, request)
        rows = [row for row in self.rows() if (row.kind, row.plan, row.round, request_of(row.note)) == wanted]
        return [row for row in rows if not rides(row)]

    def pays_for(self, number: int, entry: Entry) -> bool:
        """Whether reservation `number` is there and is of exactly this entry, its riders included."""
        wanted = _bookings(entry)
        found = self.rows()[max(0, number - len(wanted)) : max(0, number)]
        return [_content(row) for row in found] == [dataclasses.astuple(draft) for draft in wanted]

    def settled(self, number: int, *, plan: str, cohort: str, reply_digest: str, head: str) -> bool:
        """Whether reservation `number` is noted to have ended in this reply, which names a head that was one since.

        Args:
            number: The reservation.
            plan: Digest of its plan.
            cohort: Identity of the data set it ran on.
            reply_digest: Digest of the reply.
            head: Hash of the ledger's last row, as the reply has it.
        """
        rows, wanted = self.rows(), ("settle", plan, cohort, f"{number}:{reply_digest}")
        ends = [row.id for row in rows if (row.kind, row.plan, row.cohort, row.note) == wanted]
        return bool(ends) and head in {row.hash for row in rows[ends[0] - 1 :]}

    def withdraw(self, keys: Sequence[str]) -> None:
        """Note durably that one patient withdrew consent; twice is as once.

        Args:
            keys: Every key the patient is known by, that of the PatientID first.
        """
        note = " ".join(dict.fromkeys(keys))

        def decide(rows: list[Row]) -> list[Draft]:
            known = any(row.kind == "withdraw" and row.note == note for row in rows)
            return [] if known else [Draft(kind="withdraw", note=note)]

        self._store.append(decide)

    def merge(self, theirs: Sequence[Row]) -> int:
        """Book what a copy of this ledger holds and this one does not, as spent; twice is as once.

        Args:
            theirs: Every row of the copy.

        Returns:
            Number of reservations that were booked.
        """
        fresh = self._store.append(lambda rows: ledger_merge.drafts_of(rows, theirs, cohorts=_cohorts, change=_changed))
        return sum(row.kind == "reserve" for row in fresh)

    def withdrawals(self) -> list[Withdrawal]:
        """Every patient who withdrew consent, oldest first."""
        return _withdrawals(self.rows())

    def withdrawn(self) -> frozenset[str]:
        """Every key of every patient who withdrew consent."""
        return _withdrawn(self.rows())

    def consents(self, cohort: str) -> bool:
        """Whether no patient of this booked cohort has withdrawn by now."""
        rows = self.rows()
        return _withdrawn(rows).isdisjoint(_cohorts(rows).get(cohort, ()))

    def require_consent(self, cohort: str) -> None:
        """Refuse to go on with what holds a patient who has withdrawn by now.

        Args:
            cohort: Identity of a cohort that something was booked on.

        Raises:
            EgressRefused: One of its patients has withdrawn.
        """
        rows = self.rows()
        _require_consent(rows, _cohorts(rows).get(cohort, ()))

    def cohorts(self) -> dict[str, frozenset[str]]:
        """Patient keys of every cohort that something was booked on, by the cohort's identity, oldest first."""
        return _cohorts(self.rows())

    def rows(self) -> list[Row]:
        """Every row, oldest first, checked; raises `LedgerCorrupt` as the constructor does."""
        return self._store.rows()

    def events(self, *, plan: str | None = None) -> list[GaussianEvent]:
        """Every reserved mechanism, oldest first; of one plan alone when its digest is given."""
        return self.bookings().events(plan=plan)

    def bookings(self) -> Bookings:
        """All that is booked at this moment."""
        return Bookings.among(self.rows())

    def epsilon(self, *, delta: float, plan: str | None = None, extra: tuple[GaussianEvent, ...] = ()) -> float:
        """Epsilon at `delta` of everything booked (of one plan alone if given), `extra` counted as if booked too.

        Args:
            delta: The delta at which epsilon is stated.
            plan: Digest of one plan; None counts all.
            extra: Events that count as if they were booked.
        """
        return epsilon([*self.events(plan=plan), *extra], delta=delta)

    def head(self) -> str:
        """Check the whole ledger and return the hash of its last row (`GENESIS` when empty)."""
        rows = self.rows()
        return rows[-1].hash if rows else GENESIS

    def require(self, head: str) -> None:
        """Refuse to go on unless the row with this hash is in the chain, or was booked out of a copy.

        Raises:
            LedgerBehind: The ledger has no such row, although a reply that left or a withdrawal rests on it: it was
                rolled back, or two copies of it went on.
        """
        ledger_merge.require(self.rows(), head)


def rides(row: Row) -> bool:
    """Whether a row is a rider's: booked in one transaction with its round's own row, and before it."""
    return row.phase in RIDERS


def _draft(kind: str, entry: Entry, *, sigma: float = 0.0, rate: float = 0.0, steps: int = 0, note: str) -> Draft:
    return Draft(kind=kind, study=entry.study, plan=entry.plan, round=entry.round, phase=entry.phase, sigma=sigma,
                 rate=rate, steps=steps, cohort=entry.cohort, note=note)  # fmt: skip


def _bookings(entry: Entry) -> list[Draft]:
    """The rows that book `entry`, its own the last."""
    riders = [_booking(dataclasses.replace(entry, phase=ride.rider), ride.event) for ride in entry.rides]
    return [*riders, _booking(entry, entry.event)]


def _booking(entry: Entry, event: GaussianEvent) -> Draft:
    note = entry.request if entry.sharing is None else f"{entry.request} {entry.sharing.words()}{_attempt(entry)}"
    return _draft("reserve", entry, sigma=float(event.sigma), rate=float(event.sample_rate), steps=event.steps,
                  note=note)  # fmt: skip


def _attempt(entry: Entry) -> str:
    """The attempt's part of a note: a reservation pays for one attempt alone."""
    return f" attempt={entry.attempt}" if entry.attempt else ""


def _content(row: Row) -> tuple[object, ...]:
    """A row as the draft it was made from, without the place, time and hash it was given."""
    return tuple(getattr(row, field.name) for field in dataclasses.fields(Draft))


def _withdrawals(rows: list[Row]) -> list[Withdrawal]:
    return [Withdrawal(time=row.time, keys=tuple(row.note.split())) for row in rows if row.kind == "withdraw"]


def _withdrawn(rows: list[Row]) -> frozenset[str]:
    return frozenset(key for withdrawal in _withdrawals(rows) for key in withdrawal.keys)


def _require_consent(rows: list[Row], patients: Iterable[str]) -> None:
    if not _withdrawn(rows).isdisjoint(patients):
        raise EgressRefused(
            "a patient of the cohort has withdrawn since the round began; nothing is sent. Ask again: it is then "
            "computed without that patient"
        )


def _cohort_change(rows: list[Row], entry: Entry) -> list[Draft]:
    """The row that records who is in the entry's cohort, unless that is known."""
    known = _cohorts(rows)
    if not entry.patients or entry.cohort in known:
        return []
    before = next(reversed(known.values()), frozenset())
    return [Draft(kind="cohort", cohort=entry.cohort, note=_changed(before, frozenset(entry.patients)))]


def _changed(before: frozenset[str], after: frozenset[str]) -> str:
    return json.dumps({"added": sorted(after - before), "removed": sorted(before - after)})


def _cohorts(rows: Sequence[Row]) -> dict[str, frozenset[str]]:
    known: dict[str, frozenset[str]] = {}
    members: frozenset[str] = frozenset()
    for row in rows:
        if row.kind == "cohort":
            change = json.loads(row.note)
            members = (members | set(change["added"])) - set(change["removed"])
            known[row.cohort] = members
    return known
