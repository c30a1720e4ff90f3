"""What it is worth to share the noise between hospitals, from public numbers alone (docs/decisions/0014)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from common.accountant.accounting import epsilon
from common.plan.schedule import schedule, verdict_event
from common.plan.study_plan import StudyPlan
from common.secure.terms import MOST_HOSPITALS, Terms


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Shared noise next to each hospital's own.

    Attributes:
        terms: H, c and d.
        own: Deviation of the noise on the sum of all sites where each adds its own, over one curator's.
        shared: The same where they share it.
        epsilon: What the plan costs a patient, at most.
        alone: What it would come to were all other hospitals to collude.
    """

    terms: Terms
    own: float
    shared: float
    epsilon: float
    alone: float

    @property
    def gain(self) -> float:
        """By what factor signal to noise rises."""
        return self.own / self.shared

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON types."""
        return {**dataclasses.asdict(self), "gain": self.gain}

    def lines(self) -> list[str]:
        """The comparison, for a person."""
        terms = self.terms
        return [
            f"noise on the sum of {terms.hospitals} sites, over one curator's: {self.own:.2f} where each adds its own, "
            f"{self.shared:.2f} where they share it,",
            f"so signal/noise is {self.gain:.2f} times as much (aggregation.secure, colluding = {terms.colluding}, "
            f"dropouts = {terms.dropouts}).",
            f"It holds if the coordinator and {terms.colluding} of them collude; if all others do, epsilon is "
            f"{self.alone:.2f} in place of {self.epsilon:.2f}.",
        ]


def worth(plan: StudyPlan, *, sites: int) -> Worth | None:
    """Compare both for so many sites; None where they cannot share: too few, gradient rounds, or no noise at all.

    Args:
        plan: The study plan; where it shares its noise already, its own numbers count.
        sites: Hospitals that take part.

    Raises:
        PlanError: The plan's epsilon is too small for its steps.
    """
    if "sgd" in plan.privacy.phases or not plan.privacy.enabled or not 3 <= sites <= MOST_HOSPITALS:
        return None
    terms = plan.aggregation.terms if plan.aggregation.secure else advised(sites)
    events = [event for step in schedule(plan) for event in step.events]
    verdict = [event] if (event := verdict_event(plan)) else []
    mine = [event.with_share(terms.share) for event in events]
    return Worth(
        terms=terms,
        own=math.sqrt(terms.hospitals),
        shared=terms.spread(terms.hospitals),
        epsilon=epsilon([*events, *verdict], delta=plan.privacy.delta),
        alone=epsilon([*mine, *verdict], delta=plan.privacy.delta),
    )


def advised(sites: int) -> Terms:
    """Numbers that are good for so many hospitals: 3, 1, 0; 4, 1, 1; 10, 1, 2; 50, 8, 8."""
    colluding = 1 if sites < 20 else sites // 6
    threshold = Terms(hospitals=sites, colluding=colluding, dropouts=0).threshold
    wished = 0 if sites < 4 else 1 if sites < 10 else 2 if sites < 20 else sites // 6
    return Terms(hospitals=sites, colluding=colluding, dropouts=min(wished, sites - threshold))
