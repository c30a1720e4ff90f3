"""Today's sum: each reply is checked on its own, added to a running sum or kept next to the others, and dropped."""

import math
from pathlib import Path

from common.mechanism import registry
from common.mechanism.mechanism import Array
from common.model.weights import Weights
from common.plan.aggregation import ROBUST
from common.plan.schedule import Ride, Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply
from server.aggregation import quarantine
from server.aggregation.exact_sum import ExactSum
from server.aggregation.side_by_side import SideBySide
from server.mechanism.half import Case, half_of


class PlainSum:
    """See `server.aggregation.sums.RoundSum`.

    FedAvg weights are equal, public shares (McMahan et al. 2017 with n_k held equal): no count of patients enters.
    Memory beyond the reply at hand is 8 bytes a value, for any number of sites. The robust strategies of the
    gradient phase keep the replies on disk instead (`server.aggregation.side_by_side`), up to 4 bytes a value for each
    site.

    Args:
        plan: The study plan.
        step: The round.
        weights: The global weights that the round starts from.
        folder: Where a robust strategy keeps the replies; None takes the system's folder for temporary files.
    """

    def __init__(self, plan: StudyPlan, step: Round, weights: Weights, *, folder: Path | None = None) -> None:
        self._plan, self._case = plan, Case.of_site(plan, step, weights)
        self._half, self._shapes = half_of(step.phase), registry.leaving(plan, step.phase)
        self._riders = {ride.rider: self._most(ride) for ride in step.rides}
        reach = self._half.reach(self._case)
        self._beside: SideBySide | None = None
        if step.trains and plan.aggregation.strategy in ROBUST:
            self._beside = SideBySide({name: self._shapes[name] for name in reach}, folder=folder)
            reach = {}
        self._sum = ExactSum(reach | self._riders)

    def check(self, reply: TrainReply) -> None:
        """See `RoundSum`."""
        quarantine.check_arrays(reply.arrays, self._shapes)
        for name, most in self._riders.items():
            if quarantine.squares(reply.arrays[name]) > most**2:
                raise quarantine.Quarantined(
                    quarantine.TOO_LARGE, f"the reply's {name} release is larger than any hospital's"
                )
        self._half.check(self._case, reply.arrays)

    def add(self, reply: TrainReply) -> None:
        """See `RoundSum`; raises `StateError` where a robust strategy cannot keep the reply on disk."""
        arrays = dict(reply.arrays)
        if self._beside is not None:
            self._beside.add({name: arrays.pop(name) for name in list(arrays) if name not in self._riders})
        self._sum.add(arrays)

    def join(self) -> "PlainSum":
        """See `RoundSum`: the sum is its own total."""
        return self

    @property
    def sites(self) -> int:
        """See `server.mechanism.half.Total`."""
        return self._sum.terms

    @property
    def spread(self) -> float:
        """See `Total`: each site has added its own full noise."""
        return math.sqrt(self._sum.terms)

    def total(self, name: str) -> Array:
        """See `Total`."""
        return self._sum.total(name)

    def mean(self) -> Weights:
        """See `Total`; the trained arrays are used up."""
        if self._beside is None:
            return self._sum.mean([name for name in self._shapes if name not in self._riders])
        rules = self._plan.aggregation
        return self._beside.median() if rules.strategy == "median" else self._beside.trimmed_mean(rules.trim_share)

    def _most(self, ride: Ride) -> float:
        """Largest L2 norm of an honest rider's release."""
        rider = registry.RIDERS[ride.rider]
        return quarantine.most(
            rider.sensitivity,
            patients=self._case.patients,
            deviation=ride.event.sigma,
            values=math.prod(rider.shape),
        )


HALVES = {"plain": PlainSum}
