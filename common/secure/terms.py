"""The numbers of a secure sum: who may collude, who may be missing, and what follows for noise and thresholds.

The claim: the noise of H - c - d honest hospitals alone makes the sum private, where c of H collude with the
coordinator and d are missing. So each hospital adds the variance of one curator divided by H - c - d.
"""

import math
from dataclasses import dataclass

from common.plan.rules import require

MOST_HOSPITALS = 100
"""Every hospital holds a share of every other's keys, so messages grow with the square."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """H, c and d, as the approved plan states them.

    Attributes:
        hospitals: H, the hospitals of the roster.
        colluding: c, how many of them may work together with the coordinator; one that it runs itself is one of them.
        dropouts: d, how many may be missing from a round.
    """

    hospitals: int
    colluding: int
    dropouts: int

    def check(self) -> None:
        """Refuse numbers that no claim follows from; raises `PlanError` by `common.plan.rules.require`.

        A hospital knows its own noise, so c is at least 1. Two sets of `threshold` signatures share more than c
        hospitals, so an honest one signed both, and it signs once: there are no two sets of a round.
        """
        most = f"from 3 to {MOST_HOSPITALS}, as with two each knows the other's sum"
        require(3 <= self.hospitals <= MOST_HOSPITALS, "aggregation.hospitals", most, self.hospitals)
        most_colluding = f"from 1 to {self.hospitals - 2}, two below aggregation.hospitals"
        require(1 <= self.colluding <= self.hospitals - 2, "aggregation.colluding", most_colluding, self.colluding)
        spare = self.hospitals - self.threshold
        enough = f"from 0 to {spare}, so that those who are left reach the {self.threshold} signatures of a round"
        require(0 <= self.dropouts <= spare, "aggregation.dropouts", enough, self.dropouts)

    @property
    def least(self) -> int:
        """Fewest hospitals whose sum may be opened: H - d."""
        return self.hospitals - self.dropouts

    @property
    def noisy(self) -> int:
        """Hospitals whose noise is counted on: H - c - d."""
        return self.hospitals - self.colluding - self.dropouts

    @property
    def threshold(self) -> int:
        """T, the signatures that a set needs and the shares that open a key: more than half of H + c."""
        return (self.hospitals + self.colluding) // 2 + 1

    @property
    def share(self) -> float:
        """Standard deviation of one hospital's noise over that of a single curator."""
        return 1.0 / math.sqrt(self.noisy)

    def spread(self, sites: int) -> float:
        """Standard deviation of the noise on a sum of so many hospitals, over that of a single curator."""
        return math.sqrt(sites) * self.share
