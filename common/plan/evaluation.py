"""The plan's `[evaluation]` table: who is set aside, what a site judges the candidate by, and what that costs."""

from dataclasses import dataclass

from common.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
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
            below what the model's blur redraws of anybody: where half of all images come that near, the two groups
            differ by chance as much as by the verdict's noise, and a faultless candidate may be refused.
    """

    held_out_share: float = 0.0
    sigma: float = 2.5
    images_per_label: int = 500
    reach: float = 2.0
    min_fidelity: float = 0.3
    min_utility: float = 0.6
    max_copied: float = 0.05
    near_rmse: float = 0.1

    def __post_init__(self) -> None:
        for key, low, high in (
            ("held_out_share", 0.0, 0.5),
            ("sigma", 0.5, 100.0),
            ("images_per_label", 50, 10_000),
            ("reach", 1.0, 3.0),
            ("min_fidelity", 0.0, 1.0),
            ("min_utility", 0.0, 1.0),
            ("max_copied", 0.0, 1.0),
            ("near_rmse", 0.0, 2.0),
        ):
            value = getattr(self, key)
            if not low <= value <= high:
                raise PlanError(f"plan: `evaluation.{key}` must be from {low:g} to {high:g}, not {value!r}")

    @property
    def gated(self) -> bool:
        """Whether sites judge the candidate at all."""
        return self.held_out_share > 0
