"""A sum at the coordinator: what is done with all replies of a round, one by one and together.

A module of this room has `HALVES`, by a sum's name (`common.mechanism.registry.SUMS`) what makes a `RoundSum`. Today's
looks at every reply. One that sees only the total checks that in `join` instead, by the same halves of the mechanisms.
"""

from pathlib import Path
from typing import Protocol, cast

from common.mechanism import registry
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply
from server.mechanism.half import Total

SIDE = "server.aggregation"
"""The room that holds the halves."""


class RoundSum(Protocol):
    """One round's replies. What they come to does not depend on the order of arrival, to the bit."""

    def check(self, reply: TrainReply) -> None:
        """Refuse a reply whose arrays cannot count, as far as one can tell from it alone.

        Raises:
            Quarantined: Arrays are unknown, missing or misshapen, or no honest site's.
        """
        ...

    def add(self, reply: TrainReply) -> None:
        """Add a reply that has passed `check`.

        Raises:
            StateError: It cannot be kept.
        """
        ...

    def join(self) -> Total:
        """Hand over what all replies come to; nothing can be added any more.

        Raises:
            StudyStopped: The total is none that honest sites could have made.
        """
        ...


class Begin(Protocol):
    """Makes the sum of one round."""

    def __call__(self, plan: StudyPlan, step: Round, weights: Weights, *, folder: Path | None = None) -> RoundSum:
        """See `round_sum`."""
        ...


def round_sum(plan: StudyPlan, step: Round, weights: Weights, *, folder: Path | None = None) -> RoundSum:
    """Begin the sum of one round.

    Args:
        plan: The study plan; it names the way to add up.
        step: The round.
        weights: The global weights that the round starts from.
        folder: Where replies may be kept; None takes the system's folder for temporary files.
    """
    chosen = registry.sum_of(plan)
    begin = cast(Begin, registry.half(SIDE, chosen.module, chosen.name))
    return begin(plan, step, weights, folder=folder)
