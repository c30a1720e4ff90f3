"""With whom the noise of a reservation is shared, as its row says: so that what the own share is worth stays derivable.

A row of a secure round has the words of `Sharing` in its note, behind the digest of the request's weights. Its sigma is
that of the sum in the worst case that the plan allows. Rows without them carry their whole noise themselves.
"""

import re
from dataclasses import dataclass
from typing import Self

from common.plan.study_plan import StudyPlan
from common.secure.terms import Terms

_WORDS = re.compile(r"secure H=(\d+) c=(\d+) d=(\d+) roster=([0-9a-f]{64}|simulated)")


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who shares the noise.

    Attributes:
        terms: H, c and d.
        roster: Digest of the roster, "simulated" in a simulation.
    """

    terms: Terms
    roster: str

    @classmethod
    def of(cls, plan: StudyPlan) -> Self | None:
        """With whom a plan shares its noise; None where each hospital adds all of it."""
        rules = plan.aggregation
        return cls(terms=rules.terms, roster=rules.roster or "simulated") if rules.secure else None

    @classmethod
    def read(cls, note: str) -> Self | None:
        """What the note of a row says; None where the row carries its whole noise itself."""
        if (found := _WORDS.search(note)) is None:
            return None
        hospitals, colluding, dropouts = (int(number) for number in found.groups()[:3])
        terms = Terms(hospitals=hospitals, colluding=colluding, dropouts=dropouts)
        return cls(terms=terms, roster=found[4]) if terms.noisy > 0 else None

    @property
    def share(self) -> float:
        """Standard deviation of the own noise over that of the row."""
        return self.terms.share

    def words(self) -> str:
        """The part of a note."""
        terms = self.terms
        return f"secure H={terms.hospitals} c={terms.colluding} d={terms.dropouts} roster={self.roster}"


def request_of(note: str) -> str:
    """Digest of the request's weights, as the note of a reservation begins."""
    return note.partition(" ")[0]


def share_of(note: str) -> float:
    """Standard deviation of the own noise over that of the row, from the row's note."""
    sharing = Sharing.read(note)
    return sharing.share if sharing else 1.0
