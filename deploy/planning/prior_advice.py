"""What a plan of public images should do with them: the prior that is learnt from rehearsed studies, and its sizes.

A prior is proposed where the plan names public images by digest, has labels and one component, and an image that folds
into the denoiser's grid. Hospitals then spend the whole epsilon on moments along public directions (docs/decisions/0012
and 0015).

Directions. More of them hold more of an image and spread its signal over more noise. The most are proposed of which one
in eight is clear, by the rule of thumb of `deploy.planning.planner_advice`: on Kermany's radiographs over four sites at
epsilon 8 that is 64, the number that scored best there (docs/decisions/0015).
"""

import dataclasses
import math
from dataclasses import dataclass

from common.model.folding import folding
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from deploy.planning.planner import signal_to_noise

_DIRECTIONS = (16, 32, 64, 96, 128)
_CLEAR = 8
"""One direction in so many has to be clear."""
_MEAN_CLIP = 0.4
"""Of radiographs of one kind around the mean of public ones (docs/decisions/0015)."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A proposal for a plan's prior.

    Attributes:
        source: `warm.source`.
        directions: `warm.directions`, and `model.latent`.
        patients: `warm.patients`.
        studies: `warm.studies`.
        steps: `warm.steps`.
    """

    source: str
    directions: int
    patients: int
    studies: int = 48
    steps: int = 1600

    @property
    def model(self) -> list[str]:
        """Lines of `[model]` beyond latents, base and covariance."""
        return ["channels = []", "denoiser = [32, 48]"]

    @property
    def warm(self) -> list[str]:
        """The table `[warm]`."""
        return ["[warm]", f'source = "{self.source}"', f"studies = {self.studies}", f"directions = {self.directions}",
                f"patients = {self.patients}", f"steps = {self.steps}", "learning_rate = 0.002"]  # fmt: skip

    @property
    def privacy(self) -> list[str]:
        """Lines of `[privacy]` beyond the phases."""
        return [f"mean_clip = {_MEAN_CLIP:g}"]

    @property
    def reason(self) -> str:
        """Why, as a sentence."""
        return (
            f"public images are given, so moments are taken along {self.directions} of their directions and a prior "
            "reads them; no image of them may be of a patient of a hospital"
        )


def propose(plan: StudyPlan, *, patients: int, sites: int) -> Prior | None:
    """The prior for a plan; None where it names no public images or can have none.

    Args:
        plan: The study plan.
        patients: Patients at a site.
        sites: Sites of that size.
    """
    if not (plan.warm.by_file and "warm" in plan.privacy.phases and could_have_one(plan)):
        return None
    directions = _DIRECTIONS[0]
    for tried in _DIRECTIONS:
        if _clear(plan, tried, patients, sites) * _CLEAR >= tried:
            directions = tried
    return Prior(source=plan.warm.source, directions=directions, patients=patients * sites)


def could_have_one(plan: StudyPlan) -> bool:
    """Whether public images would buy a prior: a plan of labels and one component, whose images fold."""
    folds = plan.data.image_size % (2 * folding(plan.data.image_size)) == 0
    return bool(plan.data.labels) and plan.model.components == 1 and folds and plan.training.federated == "all"


def _clear(plan: StudyPlan, directions: int, patients: int, sites: int) -> int:
    """How many of so many directions of a class stand out from the noise (`deploy.planning.planner_advice`)."""
    tried = dataclasses.replace(
        plan,
        model=dataclasses.replace(plan.model, covariance="class", latent=_DIRECTIONS[0] // 2, base=8),
        warm=dataclasses.replace(plan.warm, directions=directions, studies=0),
        privacy=dataclasses.replace(plan.privacy, phases=("warm", "moments"), utility_share=0.0),
    )
    step = next(step for step in schedule(tried) if step.phase == "scatters")
    return int((0.5 * signal_to_noise(tried, step, patients) * math.sqrt(sites)) ** (1 / 1.5))
