"""The plan's `[privacy]` table: what the study may cost a patient at one site, and how it is spent."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.plan.bounds import Such, Table, Within

MAX_EPSILON = 10.0
"""Above this a Gaussian-DP promise says little; a plan that wants more is refused."""
LEAST_CLIP = 1e-3
"""Least clip of the moments phase: one far below any image's size would leave little but rounding to clip."""

_PHASES = Such(
    lambda phases: phases[phases[:1] == ("warm",) :] in (("moments",), ("sgd",), ("moments", "sgd")),
    'one of ["moments"], ["sgd"], ["moments", "sgd"], each with or without "warm" in front',
)


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan(Table):
    """What the study may cost a patient at one site, and how it is spent.

    Attributes:
        epsilon: Total (epsilon, delta) bound of the whole study, per patient, add/remove adjacency; 0 only with
            `enabled = false`.
        delta: The bound's delta.
        clip_norm: Bound on the L2 norm of one patient's gradient.
        phases: Which phases run: "moments" (closed form from noised sums), then "sgd" (DP-SGD). With "warm" before
            them, the coordinator trains the nets on public images first (`[warm]`), at no cost.
        moments_share: Part of epsilon that the moments phase may take when both phases run.
        mean_clip: Bound on an image in the mean release, root mean square per pixel in [-1, 1] units.
        deviation_clip: Bound on an image's deviation from the released mean, in the same unit.
        spare_rounds: Rounds of any phase that a site may compute afresh without passing epsilon. The noise of every
            round is a little larger for it. 0 is enough against crashes and lost messages, which cost nothing
            (docs/decisions/0005). A round whose patients or weights changed needs one.
        utility_share: Part of epsilon that buys a noised reconstruction error in each gradient round. It is a Gaussian
            release of its own in every ledger. 0 buys none, and then nothing about the fit leaves a site.
        enabled: False trains without noise; only a simulation accepts such a plan.
        unit: What one unit of privacy is: a patient with all of that patient's images.
    """

    table = "privacy"
    costs = {  # noqa: RUF012 - see `Table`
        "epsilon": "budget: all that a patient may pay in this study",
        "delta": "budget: the chance that the bound fails",
        "clip_norm": "noise in proportion; too small a clip bends the gradient",
        "phases": "noise: two phases share epsilon",
        "moments_share": "noise: what one phase gets, the other lacks",
        "mean_clip": "noise in proportion; too small a clip bends bright and dark images",
        "deviation_clip": "noise in proportion; too small a clip flattens images",
        "spare_rounds": "noise: each is paid for, used or not",
        "utility_share": "budget: this part of epsilon",
    }

    epsilon: Annotated[float, Within(0, MAX_EPSILON, above=True)] = 8.0
    delta: Annotated[float, Within(1e-12, 1, below=True)] = 1e-5
    clip_norm: Annotated[float, Within(0, 1000, above=True)] = 1.0
    phases: Annotated[tuple[str, ...], _PHASES] = ("moments", "sgd")
    moments_share: Annotated[float, Within(0, 1, above=True, below=True)] = 0.8
    mean_clip: Annotated[float, Within(LEAST_CLIP, 1)] = 0.7
    deviation_clip: Annotated[float, Within(LEAST_CLIP, 2)] = 0.4
    spare_rounds: Annotated[int, Within(0, 10)] = 0
    utility_share: float = 0.0
    enabled: bool = True
    unit: Literal["patient"] = "patient"

    def _check(self) -> None:
        """Only gradient rounds measure how well the model fits."""
        most = 0.5 if "sgd" in self.phases else 0.0
        self.must(0 <= self.utility_share <= most, "utility_share", 'from 0 to 0.5, and 0 where phases lacks "sgd"')
