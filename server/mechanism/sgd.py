"""The gradient phase at the coordinator: how far an honest update can be, and the average of all of them."""

import math

import numpy as np

from common.model.study_model import trained
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from server.aggregation.quarantine import TOO_LARGE, Quarantined, squares
from server.mechanism.half import Case, Total

_UPDATE_SLACK = 10.0


class GradientRounds:
    """See `server.mechanism.half.Half`. What follows an average is the strategy's (`server.aggregation.strategies`)."""

    def reach(self, case: Case) -> dict[str, float]:
        """See `Half`."""
        most, mine = bound(case.plan, case.weights), trained(case.plan, case.weights)
        return {name: most + float(np.abs(array).max(initial=0.0)) for name, array in mine.items()}

    def check(self, case: Case, arrays: Weights) -> None:
        """See `Half`: an update is bounded by its steps, however many patients are in it."""
        mine = trained(case.plan, case.weights)
        size = math.sqrt(sum(squares(arrays[name], array) for name, array in mine.items()))
        if not size <= (most := bound(case.plan, case.weights)):
            raise Quarantined(TOO_LARGE, f"the reply's norm {size:.3g} is over the bound {most:.3g}")

    def absorb(self, case: Case, total: Total) -> Weights:
        """See `Half`."""
        return {**case.weights, **total.mean()}


def bound(plan: StudyPlan, weights: Weights) -> float:
    """Largest L2 norm of an honest update's way from the global weights.

    Ten times the way that `local_steps` full steps of Adam could go; for SGD, of clip and noise together.
    """
    training, values = plan.training, sum(array.size for array in trained(plan, weights).values())
    way = training.local_steps * training.learning_rate * math.sqrt(values)
    if training.optimizer == "sgd":
        way *= 1.0 + 10.0 * plan.privacy.clip_norm
    return _UPDATE_SLACK * way


HALVES = {"sgd": GradientRounds()}
