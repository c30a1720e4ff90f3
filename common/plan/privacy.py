"""The plan's `[privacy]` table: what the study may cost a patient at one site, and how it is spent."""

from dataclasses import dataclass
from typing import Literal

from common.plan.rules import require

MAX_EPSILON = 10.0
"""Above this a Gaussian-DP promise says little; a plan that wants more is refused."""
LEAST_CLIP = 1e-3
"""Least clip of the moments phase: one far below any image's size would leave little but rounding to clip."""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What the study may cost a patient at one site, and how it is spent.

    Attributes:
        epsilon: Total (epsilon, delta) bound of the whole study, per patient, add/remove adjacency; 0 only with
            `enabled = false`.
        delta: The bound's delta.
        clip_norm: Bound on the L2 norm of one patient's gradient.
        phases: Which phases run: "moments" (closed form from noised sums), then "sgd" (DP-SGD). "warm" before them has
            the coordinator train the nets on public images first (`[warm]`): no round, and no cost.
        moments_share: Part of epsilon that the moments phase may take when both phases run.
        mean_clip: Bound on an image in the mean release, root mean square per pixel in [-1, 1] units.
        deviation_clip: Bound on an image's deviation from the released mean, in the same unit.
        spare_rounds: Rounds that a site may have to compute afresh, of any phase, without passing
            epsilon; the noise of every round is a little larger for it. 0 is enough against crashes and lost messages,
            which cost nothing (docs/decisions/0005); a round whose patients or weights changed needs one.
        utility_share: Part of epsilon that buys a noised reconstruction error in each gradient round, a Gaussian
            release of its own in every ledger; 0 buys none, and then nothing about the fit leaves a site.
        enabled: False trains without noise; only a simulation accepts such a plan.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    clip_norm: float = 1.0
    phases: tuple[str, ...] = ("moments", "sgd")
    moments_share: float = 0.8
    mean_clip: float = 0.7
    deviation_clip: float = 0.4
    spare_rounds: int = 0
    utility_share: float = 0.0
    enabled: bool = True
    unit: Literal["patient"] = "patient"

    def __post_init__(self) -> None:
        require(
            0 < self.epsilon <= MAX_EPSILON,
            "privacy.epsilon",
            f"above 0 and at most {MAX_EPSILON:g}",
            self.epsilon,
        )
        require(1e-12 <= self.delta < 1, "privacy.delta", "from 1e-12 to below 1", self.delta)
        require(0 < self.clip_norm <= 1000, "privacy.clip_norm", "above 0 and at most 1000", self.clip_norm)
        require(
            self.phases[self.phases[:1] == ("warm",) :] in (("moments",), ("sgd",), ("moments", "sgd")),
            "privacy.phases",
            'one of ["moments"], ["sgd"], ["moments", "sgd"], each with or without "warm" in front',
            list(self.phases),
        )
        require(0 < self.moments_share < 1, "privacy.moments_share", "between 0 and 1", self.moments_share)
        require(LEAST_CLIP <= self.mean_clip <= 1, "privacy.mean_clip", f"from {LEAST_CLIP:g} to 1", self.mean_clip)
        require(
            LEAST_CLIP <= self.deviation_clip <= 2,
            "privacy.deviation_clip",
            f"from {LEAST_CLIP:g} to 2",
            self.deviation_clip,
        )
        require(0 <= self.spare_rounds <= 10, "privacy.spare_rounds", "from 0 to 10", self.spare_rounds)
        most = 0.5 if "sgd" in self.phases else 0.0
        require(
            0 <= self.utility_share <= most,
            "privacy.utility_share",
            'from 0 to 0.5, and 0 where phases lacks "sgd"',
            self.utility_share,
        )
