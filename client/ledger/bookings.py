"""What a ledger has booked, as it stands at one moment: mechanisms by plan, by study and in all."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from client.ledger.ledger_store import Row
from client.ledger.sharing import share_of
from common.accountant.accounting import GaussianEvent


@dataclass(frozen=True)
class Bookings:
    """The reservations of a ledger.

    Attributes:
        rows: Oldest first.
    """

    rows: tuple[Row, ...] = ()

    @classmethod
    def among(cls, rows: Iterable[Row]) -> Self:
        """The reservations among a ledger's rows."""
        return cls(tuple(row for row in rows if row.kind == "reserve"))

    def events(self, *, plan: str | None = None, study: str | None = None, alone: bool = False) -> list[GaussianEvent]:
        """Every mechanism booked, oldest first; of one plan's digest or of one study's name alone when given.

        Args:
            plan: Digest of a plan.
            study: Name of a study.
            alone: Count this hospital's own noise only, as if all others colluded.
        """
        return [
            GaussianEvent(sigma=row.sigma, sample_rate=row.rate, steps=row.steps).with_share(
                share_of(row.note) if alone else 1.0
            )
            for row in self.rows
            if plan in (None, row.plan) and study in (None, row.study)
        ]

    def plans(self, *, study: str | None = None) -> frozenset[str]:
        """Digests of the plans that something was booked for; of one study's name alone when given."""
        return frozenset(row.plan for row in self.rows if study in (None, row.study))

    def rounds(self, plan: str) -> frozenset[int]:
        """Numbers of the rounds of this plan that were booked."""
        return frozenset(row.round for row in self.rows if row.plan == plan)
