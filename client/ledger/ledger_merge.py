"""Booking what a copy of this ledger holds and this one does not: the union counts, nothing twice, nothing less.

Two copies of a home that both went on have one beginning and two ends. The end of the other is booked here on top of
this one's, row by row, as spent. What both had stays as it is, so the union is exact; in doubt it is over-counted. A
last row, the mark, names the hashes of the rows that were taken over. So a server that remembers the other copy's head
finds it here. A copy that was made before the first booking has no row in common with this ledger. That it is a copy is
told by the site's secret (`client.site.adopt`).

Two copies that are asked alike within one second, first of all after they parted, make equal rows of two reservations,
each with a noise key of its own. That they are two is told by what they ended in: a reservation that was settled here
with another reply is booked again. Where one of the two ended in no reply, nothing of it left.

The rows that are taken over, by kind
    reserve   as it was; note: `copy:` and the hash it had there, so that no request is taken for booked already
    settle    as it was, under the new number of its reservation
    cohort    what changed against the cohort known here last, where that cohort is not known here
    withdraw  as it was, where it is not known here
    mark      kind settle; note: `0:copy` and the hashes
"""

from collections.abc import Callable, Sequence

from client.ledger.ledger_store import GENESIS, Draft, Row
from client.ledger.sharing import Sharing
from common.errors import LedgerBehind

MARK = "0:copy"

ChangeOf = Callable[[frozenset[str], frozenset[str]], str]


def taken_over(rows: Sequence[Row]) -> frozenset[str]:
    """Hashes of every row that was booked here out of a copy."""
    marks = (row.note for row in rows if row.kind == "settle" and row.note.startswith(f"{MARK} "))
    return frozenset(digest for note in marks for digest in note.split()[1:])


def require(rows: Sequence[Row], head: str) -> None:
    """Refuse to go on unless the row with this hash is in the ledger, as its own or out of a copy.

    Raises:
        LedgerBehind: It is not, although a reply that left or a withdrawal rests on it.
    """
    if head not in ("", GENESIS, *(row.hash for row in rows)) and head not in taken_over(rows):
        raise LedgerBehind(
            f"ledger: it is behind the receipt {head[:12]} of a reply that has left this site or of a withdrawal: "
            "it is an older copy, or one of two copies that both went on. Nothing is trained. Stop any process that "
            "also serves this site, and book what the other copy holds with `wardround site adopt --merge ITS_HOME`; "
            "where no copy holds it, retire this data set"
        )


def drafts_of(
    ours: Sequence[Row],
    theirs: Sequence[Row],
    *,
    cohorts: Callable[[Sequence[Row]], dict[str, frozenset[str]]],
    change: ChangeOf,
) -> list[Draft]:
    """What is to be booked here of `theirs`.

    Args:
        ours: Every row of this ledger.
        theirs: Every row of its copy.
        cohorts: Patient keys of every cohort in rows, oldest first.
        change: The note of a cohort row, from the patients before and after it.
    """
    common = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a.hash != b.hash), None)
    common = min(len(ours), len(theirs)) if common is None else common
    known = taken_over(ours) | {row.hash for row in ours}
    fresh = [row for row in theirs[common:] if row.hash not in known]
    if not fresh:
        return []
    return _Merge(ours, theirs, cohorts=cohorts, change=change).of(fresh)


class _Merge:
    def __init__(
        self,
        ours: Sequence[Row],
        theirs: Sequence[Row],
        *,
        cohorts: Callable[[Sequence[Row]], dict[str, frozenset[str]]],
        change: ChangeOf,
    ) -> None:
        self._count, self._change = len(ours), change
        self._alike = {b.id: b for a, b in zip(ours, theirs, strict=False) if a.hash == b.hash and b.kind == "reserve"}
        self._settled = dict(row.note.split(":", 1) for row in ours if row.kind == "settle")
        self._theirs = cohorts(theirs)
        self._known = cohorts(ours)
        self._withdrawn = {row.note for row in ours if row.kind == "withdraw"}
        self._numbers: dict[int, int] = {}
        self._drafts: list[Draft] = []

    def of(self, fresh: Sequence[Row]) -> list[Draft]:
        for row in fresh:
            if row.kind == "reserve":
                self._reserve(row)
            elif row.kind == "withdraw" and row.note not in self._withdrawn:
                self._withdrawn.add(row.note)
                self._add(row, note=row.note)
            elif row.kind == "settle" and not row.note.startswith(f"{MARK} "):
                number, _, digest = row.note.partition(":")
                if int(number) in self._alike and self._settled.get(number, digest) != digest:
                    self._reserve(self._alike[int(number)])
                self._add(row, note=f"{self._numbers.get(int(number), int(number))}:{digest}")
        hashes = [row.hash for row in fresh] + sorted(taken_over(fresh))
        self._drafts.append(Draft(kind="settle", note=" ".join([MARK, *hashes])))
        return self._drafts

    def _reserve(self, row: Row) -> None:
        self._cohort(row.cohort)
        sharing = Sharing.read(row.note)
        shared = f" {sharing.words()}" if sharing else ""  # without its attempt: a merged row pays for nothing to come
        self._add(row, note=f"copy:{row.hash}{shared}")

    def _add(self, row: Row, *, note: str) -> None:
        self._drafts.append(
            Draft(kind=row.kind, study=row.study, plan=row.plan, round=row.round, phase=row.phase, sigma=row.sigma,
                  rate=row.rate, steps=row.steps, cohort=row.cohort, note=note)
        )  # fmt: skip
        self._numbers[row.id] = self._count + len(self._drafts)

    def _cohort(self, identity: str) -> None:
        """Record who is in a cohort that is known there alone."""
        if identity in self._known or identity not in self._theirs:
            return
        before = next(reversed(self._known.values()), frozenset())
        self._known[identity] = self._theirs[identity]
        self._drafts.append(Draft(kind="cohort", cohort=identity, note=self._change(before, self._theirs[identity])))
