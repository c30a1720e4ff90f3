"""From checked replies to the next global weights: each reply is added to a running sum and dropped."""

import numpy as np

from common import utility
from common.messages import TrainReply
from common.plan import StudyPlan
from common.schedule import Round
from common.weights import Weights
from server import closed_form, quarantine
from server.exact_sum import ExactSum


class Aggregation:
    """One round's sum. What it comes to does not depend on the order of arrival, to the bit.

    FedAvg weights are equal, public shares (McMahan et al. 2017 with n_k held equal): no count of patients enters.
    Memory beyond the reply at hand is 8 bytes a value, whatever the number of sites.

    Args:
        plan: The study plan.
        step: The round.
        weights: The global weights that the round starts from.

    Attributes:
        site_utility: After `join`, how well the model that the round started from redraws the sites' patients; None
            where the plan does not pay for it.
    """

    def __init__(self, plan: StudyPlan, step: Round, weights: Weights) -> None:
        self._plan, self._step, self._weights = plan, step, weights
        most = quarantine.bound(plan, step, weights)
        if step.phase == "sgd":
            reach = {
                name: most + float(np.abs(array).max(initial=0.0))
                for name, array in quarantine.trained(weights).items()
            }
            if step.utility is not None:
                reach[utility.NAME] = quarantine.most_utility()
        else:
            reach = {"release": most}
        self._sum = ExactSum(reach)
        self.site_utility: utility.Utility | None = None

    def add(self, reply: TrainReply) -> None:
        """Add a reply that has passed `server.quarantine`."""
        self._sum.add(reply.arrays)

    def join(self) -> Weights:
        """Return the next global weights; the sum is used up.

        Raises:
            StudyStopped: The sites' releases cannot carry a model.
        """
        if self._step.phase == "sgd":
            if self._step.utility is not None:
                total = self._sum.total(utility.NAME)
                self.site_utility = utility.read(total, sites=self._sum.terms, sigma=self._step.utility.sigma)
            mean = self._sum.mean()
            mean.pop(utility.NAME, None)
            return {**self._weights, **mean}
        return closed_form.absorb(
            self._plan, self._step, self._weights, self._sum.total("release"), sites=self._sum.terms
        )
