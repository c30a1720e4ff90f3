"""Today's sum at a hospital: its own full noise on its own sum, sent as float32 numbers."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.mechanism.half import Contributions
from client.mechanism.randomness import SecureRandom
from common.mechanism.mechanism import Array
from common.mechanism.registry import sensitivity
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainRequest


class _PlainSum:
    """See `client.mechanism.half.SumHalf`."""

    def released(
        self, mine: Contributions, *, plan: StudyPlan, step: Round, random: SecureRandom
    ) -> NDArray[np.float32]:
        """The float64 sum with noise of the booked multiple of the sensitivity."""
        return self.noised(mine.total(), deviation=step.event.sigma * sensitivity(plan, step.phase), random=random)

    def noised(self, total: Array, *, deviation: float, random: SecureRandom) -> NDArray[np.float32]:
        """Add Gaussian noise of this deviation in float64, and round once."""
        return (total + random.normal(total.shape, std=deviation)).astype(np.float32)

    def sent(self, made: Weights, *, plan: StudyPlan, request: TrainRequest, home: Path, cohort: str) -> Weights:
        """What was made, as it is."""
        del plan, request, home, cohort
        return made


HALVES = {"plain": _PlainSum()}
