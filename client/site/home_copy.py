"""What another copy of a home knows outside its ledger: who is who, which plans it knew, which pictures it dropped.

Everything is read and checked before anything is changed here. The stricter of two decisions holds: a plan that was
paused or left in one copy is so here, and a picture that was dropped in one stays out.

Every plan that the other copy booked for has a say in the delta of the total (`client.approval.approvals`). So its
record is taken over, as it lies where this version cannot build the plan. Where neither copy has one, the merge is
refused.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from client.admission.quarantine import Decisions, decide
from client.approval.approvals import (
    Approval,
    Decision,
    State,
    approvals,
    keep_record,
    record_of,
    smallest_delta,
)
from client.cohort.people import People, unite
from common.errors import StateError

_STRICTER: tuple[State, ...] = ("active", "paused", "left")


@dataclass(frozen=True, kw_only=True)
class HomeCopy:
    """What is taken over from another copy of a home.

    Attributes:
        alone: Plans that were approved there alone.
        stricter: Plans known to both, as they are here, with the stricter decision of the other copy.
        records: Records by digest, as they lie there, of plans that were booked for and have no record here.
        people: Everybody that the other copy has met.
        dropped: SHA-256 of the pictures that were dropped there alone.
    """

    alone: tuple[Approval, ...]
    stricter: tuple[tuple[Approval, Decision], ...]
    records: Mapping[str, bytes]
    people: People
    dropped: tuple[str, ...]

    @classmethod
    def read(cls, home: Path, other: Path, *, booked: Iterable[str]) -> Self:
        """Read what `other` knows and `home` does not; nothing is changed.

        Args:
            home: The site's home.
            other: Home of the other copy.
            booked: Digests of the plans that something was booked for in the other copy.

        Raises:
            StateError: A plan was booked for and neither home can tell its delta, or a file of one cannot be read.
        """
        ours = {approval.plan.digest: approval for approval in approvals(home)}
        theirs = {approval.plan.digest: approval for approval in approvals(other)}
        both = [(ours[digest], theirs[digest].decisions[-1]) for digest in sorted(ours.keys() & theirs.keys())]
        decisions, decided = Decisions.load(home), Decisions.load(other)
        People.load(home)
        return cls(
            alone=tuple(approval for digest, approval in theirs.items() if digest not in ours),
            stricter=tuple((known, last) for known, last in both if _rank(last.state) > _rank(known.state)),
            records=_records(home, other, set(booked).difference(ours, theirs)),
            people=People.load(other),
            dropped=tuple(d for d in decided.taken if decided.of(d) == "drop" and decisions.of(d) != "drop"),
        )

    def take(self, home: Path, *, by: str) -> None:
        """Write all of it down in `home`; plans that were approved there alone are noted as left."""
        unite(home, self.people)
        for digest, record in self.records.items():
            keep_record(home, digest, record)
        for approval in self.alone:
            left = dataclasses.replace(approval.decisions[-1], state="left", by=by)
            _note(home, approval, left)
        for approval, decision in self.stricter:
            _note(home, approval, decision)
        if self.dropped:
            decide(home, list(self.dropped), "drop")


def _records(home: Path, other: Path, digests: Iterable[str]) -> dict[str, bytes]:
    """Records in the other copy of plans that have none here."""
    found: dict[str, bytes] = {}
    for digest in sorted(digests):
        if record_of(home, digest) is not None:
            continue
        record = record_of(other, digest)
        if record is None:
            raise StateError(
                f"{other} has booked for plan {digest}, and neither home has a record of it, so it is unknown at "
                "which delta the total is to be stated. Nothing was changed. Approve that plan here again, or put "
                f"approved/{digest} back from a backup; then merge again"
            )
        smallest_delta(other, None, [digest])
        found[digest] = record
    return found


def _rank(state: State) -> int:
    return _STRICTER.index(state)


def _note(home: Path, approval: Approval, decision: Decision) -> None:
    dataclasses.replace(approval, decisions=(*approval.decisions, decision)).save(home)
