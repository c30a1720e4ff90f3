"""The plan's `[aggregation]` table: how replies become one model."""

from dataclasses import dataclass
from typing import Literal

from common.plan.rules import require

ROBUST = ("median", "trimmed_mean")
"""Strategies that look at the replies side by side instead of adding them up."""


@dataclass(frozen=True, kw_only=True)
class AggregationPlan:
    """How replies become one model.

    The moments phase always adds: its releases are sums over patients, and nothing else makes sense of them. The
    strategy is that of the gradient phase alone, and all of it is arithmetic on what has left the hospitals already
    (`server.aggregation.strategies`), so it costs no budget.

    Attributes:
        strategy: "fedavg" takes the replies' mean; "fedavgm" takes momentum along from round to round; "fedadam" moves
            each weight by Adam on the mean update; "median" and "trimmed_mean" take each value's median, or its mean
            without the extremes, so that a few wild sites move the model little, for more noise.
        server_learning_rate: How far the server follows, as a multiple of the mean update ("fedavgm"), or how far a
            weight moves in a round at most, about ("fedadam", at most 0.1).
        server_momentum: Part of the last rounds' direction that is kept ("fedavgm", "fedadam").
        adam_decay: Part of the last rounds' squared updates that is kept ("fedadam").
        adam_floor: Added to their root ("fedadam"): updates well below it move a weight less.
        trim_share: Part of the replies that is cut at either end of each value ("trimmed_mean").
        max_patients: Most patients that one site may speak for. A release larger than that many could make, noise
            included, is quarantined; set it near the largest cohort that is expected, so that a site that lies cannot
            outweigh all others.
        min_sites: Quorum: fewest sites whose checked replies make a round.
        deadline_s: Longest wait for a round's replies, seconds.
        retries: How often a round below quorum is asked again before the study stops.
    """

    strategy: Literal["fedavg", "fedavgm", "fedadam", "median", "trimmed_mean"] = "fedavg"
    weighting: Literal["uniform"] = "uniform"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.9
    adam_decay: float = 0.99
    adam_floor: float = 0.001
    trim_share: float = 0.2
    max_patients: int = 10_000_000
    min_sites: int = 2
    deadline_s: float = 3600.0
    retries: int = 1

    def __post_init__(self) -> None:
        require(
            1 <= self.max_patients <= 10_000_000, "aggregation.max_patients", "from 1 to 10000000", self.max_patients
        )
        require(self.min_sites >= 1, "aggregation.min_sites", "1 or more", self.min_sites)
        require(
            0 < self.deadline_s <= 7 * 86400,
            "aggregation.deadline_s",
            "above 0 and at most a week",
            self.deadline_s,
        )
        require(0 <= self.retries <= 10, "aggregation.retries", "from 0 to 10", self.retries)
        most = 0.1 if self.strategy == "fedadam" else 10.0
        require(
            0 < self.server_learning_rate <= most,
            "aggregation.server_learning_rate",
            f"above 0 and at most {most:g} with strategy {self.strategy}",
            self.server_learning_rate,
        )
        for key in ("server_momentum", "adam_decay"):
            value = getattr(self, key)
            require(0 <= value < 1, f"aggregation.{key}", "from 0 to below 1", value)
        require(0 < self.adam_floor <= 1, "aggregation.adam_floor", "above 0 and at most 1", self.adam_floor)
        self._check_robust()

    def _check_robust(self) -> None:
        """A robust strategy must be one even where only the quorum replies: the median of two is their mean."""
        require(0 < self.trim_share < 0.5, "aggregation.trim_share", "above 0 and below 0.5", self.trim_share)
        require(
            self.strategy != "trimmed_mean" or int(self.trim_share * self.min_sites) >= 1,
            "aggregation.trim_share",
            "at least 1 / min_sites, so that a quorum loses a reply at either end",
            self.trim_share,
        )
        require(
            self.strategy not in ROBUST or self.min_sites >= 3,
            "aggregation.min_sites",
            f"3 or more with strategy {self.strategy}",
            self.min_sites,
        )
