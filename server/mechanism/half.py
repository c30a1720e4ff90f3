"""The coordinator's half of a mechanism: what an honest release may be, and what the sum of all of them makes.

A module of this room has `HALVES`, by a phase's name a `Half` (`common.mechanism.registry` finds it). Nothing here
knows how releases were added up: that is `server.aggregation.sums`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, cast

from common.mechanism import registry
from common.mechanism.mechanism import Array, Reading
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan

SIDE = "server.mechanism"
"""The room that holds the halves."""


class Total(Protocol):
    """What all sites' releases of one round come to.

    Attributes:
        sites: How many releases are in it.
        spread: Standard deviation of the noise on its sums, over that on one site's release.
    """

    @property
    def sites(self) -> int:
        """See the class."""
        ...

    @property
    def spread(self) -> float:
        """See the class."""
        ...

    def total(self, name: str) -> Array:
        """The sum of one array over the sites, float64."""
        ...

    def mean(self) -> Weights:
        """What the arrays that were trained come to, float32: their mean, or what the plan's strategy takes for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """A round, and what honest arrays of it may be: those of one site, or of a total that shows nothing else.

    Attributes:
        plan: The study plan.
        step: The round.
        weights: The global weights that it starts from.
        patients: Most patients that the arrays may hold.
        spread: Standard deviation of their noise, over that on one site's release.
    """

    plan: StudyPlan
    step: Round
    weights: Weights
    patients: int
    spread: float

    @classmethod
    def of_site(cls, plan: StudyPlan, step: Round, weights: Weights) -> Self:
        """One site's arrays.

        Args:
            plan: The study plan.
            step: The round.
            weights: The global weights that it starts from.
        """
        return cls(plan=plan, step=step, weights=weights, patients=plan.aggregation.max_patients, spread=1.0)


class Half(Protocol):
    """A phase's half."""

    def reach(self, case: Case) -> dict[str, float]:
        """By array, the largest magnitude of any value of honest arrays."""
        ...

    def check(self, case: Case, arrays: Weights) -> None:
        """Refuse finite arrays of the right shapes that no honest site could have made.

        Raises:
            Quarantined: They are too large, or no cohort's.
        """
        ...

    def absorb(self, case: Case, total: Total) -> Weights:
        """The global weights after the round.

        Raises:
            StudyStopped: The sites' releases cannot carry a model.
        """
        ...


def half_of(phase: str) -> Half:
    """The coordinator's half of a phase.

    Raises:
        PlanError: There is no such phase here.
    """
    return cast(Half, registry.half(SIDE, registry.mechanism(phase).module, phase))


def require(rounds: Sequence[Round]) -> None:
    """Refuse rounds that this installation cannot finish, before a hospital pays for the first; raises `PlanError`."""
    for phase in dict.fromkeys(step.phase for step in rounds):
        half_of(phase)


def readings(step: Round, total: Total) -> dict[str, Reading]:
    """What the riders of a round say, by rider; those that the noise drowns are left out."""
    found = {}
    for ride in step.rides:
        rider = registry.RIDERS[ride.rider]
        reading = rider.read(total.total(rider.name), ride.event.sigma * rider.sensitivity * total.spread)
        if reading is not None:
            found[rider.name] = reading
    return found
