"""The plan's `[evaluation]` table: who is set aside, what a site judges the candidate by, and what that costs."""

from dataclasses import dataclass
from typing import Annotated

from common.plan.bounds import Table, Within


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan(Table):
    """How hospitals judge the candidate before anything is released.

    Every site counts votes of its own patients, adds Gaussian noise, and says yes or the type of its no
    (`client.evaluation.votes`). Thresholds are shares of patients, from 0 to 1.

    Attributes:
        held_out_share: Chance that a patient is set aside before the first round and never trains, decided by a hash
            under the site's secret. 0 holds out no patient, and there is no gate.
        sigma: Noise multiplier of the verdict; its price is part of the plan's epsilon.
        images_per_label: Candidate images of each label that a site looks at.
        reach: How far a synthetic image reaches, as a multiple of the distance to its fifth neighbour among the
            synthetic images. 1 is the recall of the literature, which no smooth generator reaches; at 2 noise and
            collapse still reach no patient.
        min_fidelity: Least share of held-out patients within reach of a synthetic image.
        min_utility: Least share of held-out patients that a classifier trained on synthetic images labels correctly;
            not asked of a study without labels.
        max_copied: Largest excess of training patients over held-out ones that some image comes nearer to than
            `near_rmse`.
        near_rmse: Distance, root mean square per pixel in [-1, 1] units, below which an image counts as a copy. Set it
            below what the model's blur redraws of any patient. Where half of all images come that near, chance moves
            the two groups as much as the verdict's noise does. A faultless candidate may be refused then.
    """

    table = "evaluation"
    costs = {  # noqa: RUF012 - see `Table`
        "held_out_share": "noise, as these patients do not train, and the verdict's budget",
        "sigma": "budget: a smaller one costs more and makes a surer verdict",
        "images_per_label": "time at the sites",
    }

    held_out_share: Annotated[float, Within(0, 0.5)] = 0.0
    sigma: Annotated[float, Within(0.5, 100)] = 2.5
    images_per_label: Annotated[int, Within(50, 10_000)] = 500
    reach: Annotated[float, Within(1, 3)] = 2.0
    min_fidelity: Annotated[float, Within(0, 1)] = 0.3
    min_utility: Annotated[float, Within(0, 1)] = 0.6
    max_copied: Annotated[float, Within(0, 1)] = 0.05
    near_rmse: Annotated[float, Within(0, 2)] = 0.1

    @property
    def gated(self) -> bool:
        """Whether sites judge the candidate at all."""
        return self.held_out_share > 0
