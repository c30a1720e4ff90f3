"""Today's sum at a hospital: its own full noise on its own sum, sent as float32 numbers."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.mechanism.randomness import SecureRandom
from common.mechanism.mechanism import Array
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan


class _PlainSum:
    """See `client.mechanism.half.SumHalf`."""

    def noised(self, total: Array, *, deviation: float, random: SecureRandom) -> NDArray[np.float32]:
        """Add Gaussian noise of this deviation in float64, and round once."""
        return (total + random.normal(total.shape, std=deviation)).astype(np.float32)

    def sent(self, made: Weights, *, plan: StudyPlan, step: Round, weights: str, home: Path) -> Weights:
        """What was made, as it is."""
        del plan, step, weights, home
        return made


HALVES = {"plain": _PlainSum()}
