"""From checked replies to what they come to: each is added to a running sum, or put beside the others, and dropped."""

from pathlib import Path

import numpy as np

from common.mechanism import utility
from common.model.study_model import trained
from common.model.weights import Weights
from common.plan.aggregation import ROBUST
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply
from server.aggregation import quarantine
from server.aggregation.exact_sum import ExactSum
from server.aggregation.side_by_side import SideBySide
from server.model import closed_form


class Aggregation:
    """One round's replies. What they come to does not depend on the order of arrival, to the bit.

    FedAvg weights are equal, public shares (McMahan et al. 2017 with n_k held equal): no count of patients enters.
    Memory beyond the reply at hand is 8 bytes a value, whatever the number of sites. The robust strategies of the
    gradient phase keep the replies on disk instead (`server.aggregation.side_by_side`), up to 4 bytes a value for each
    site.

    Args:
        plan: The study plan.
        step: The round.
        weights: The global weights that the round starts from.
        folder: Where a robust strategy keeps the replies; None takes the system's folder for temporary files.

    Attributes:
        site_utility: After `join`, how well the model that the round started from redraws the sites' patients; None
            where the plan does not pay for it.
    """

    def __init__(self, plan: StudyPlan, step: Round, weights: Weights, *, folder: Path | None = None) -> None:
        self._plan, self._step, self._weights = plan, step, weights
        most = quarantine.bound(plan, step, weights)
        self._beside: SideBySide | None = None
        if step.phase == "sgd":
            mine = trained(plan, weights)
            reach = {name: most + float(np.abs(array).max(initial=0.0)) for name, array in mine.items()}
            if plan.aggregation.strategy in ROBUST:
                reach = {}
                self._beside = SideBySide({name: array.shape for name, array in mine.items()}, folder=folder)
            if step.utility is not None:
                reach[utility.NAME] = quarantine.most_utility(plan, step.utility)
        else:
            reach = {"release": most}
        self._sum = ExactSum(reach)
        self.site_utility: utility.Utility | None = None

    def add(self, reply: TrainReply) -> None:
        """Add a reply that has passed `server.aggregation.quarantine`.

        Raises:
            StateError: A robust strategy cannot keep it on disk.
        """
        arrays = dict(reply.arrays)
        if self._beside is not None:
            self._beside.add({name: arrays.pop(name) for name in list(arrays) if name != utility.NAME})
        self._sum.add(arrays)

    def join(self) -> Weights:
        """Return what the replies come to, as weights of the whole model; the sum is used up.

        Raises:
            StudyStopped: The sites' releases cannot carry a model.
        """
        if self._step.phase == "sgd":
            if self._step.utility is not None:
                total = self._sum.total(utility.NAME)
                self.site_utility = utility.read(total, sites=self._sum.terms, sigma=self._step.utility.sigma)
            mean = self._sum.mean() if self._beside is None else self._robust(self._beside)
            mean.pop(utility.NAME, None)
            return {**self._weights, **mean}
        return closed_form.absorb(
            self._plan, self._step, self._weights, self._sum.total("release"), sites=self._sum.terms
        )

    def _robust(self, beside: SideBySide) -> Weights:
        rules = self._plan.aggregation
        return beside.median() if rules.strategy == "median" else beside.trimmed_mean(rules.trim_share)
