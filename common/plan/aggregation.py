"""The plan's `[aggregation]` table: how replies become one model."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.plan.bounds import Matching, Such, Table, Within
from common.plan.canonical import later
from common.secure.terms import Terms

ROBUST = ("median", "trimmed_mean")
"""Strategies that look at the replies side by side instead of adding them up."""


@dataclass(frozen=True, kw_only=True)
class AggregationPlan(Table):
    """How replies become one model.

    The moments phase always adds: its releases are sums over patients, and nothing else makes sense of them. The
    strategy is that of the gradient phase alone, and all of it is arithmetic on what has left the hospitals already
    (`server.aggregation.strategies`), so it costs no budget.

    Attributes:
        strategy: The replies' mean with "fedavg". Momentum from round to round with "fedavgm". Adam on the mean update
            with "fedadam". Each value's median or mean without extremes with "median" and "trimmed_mean": a few wild
            sites then move the model little, for more noise.
        weighting: "uniform" counts every site alike; the sizes of cohorts stay at the sites.
        server_learning_rate: How far the server follows: a multiple of the mean update with "fedavgm". With "fedadam",
            about the most that a weight moves in a round, at most 0.1.
        server_momentum: Part of the last rounds' direction that is kept ("fedavgm", "fedadam").
        adam_decay: Part of the last rounds' squared updates that is kept ("fedadam").
        adam_floor: Added to their root ("fedadam"): updates well below it move a weight less.
        trim_share: Part of the replies that is cut at either end of each value ("trimmed_mean").
        max_patients: Most patients that one site may speak for. A release larger than that many could make, noise
            included, is quarantined. Set it near the largest cohort that is expected: then a site that lies cannot
            outweigh all others.
        min_sites: Quorum: fewest sites whose checked replies make a round.
        deadline_s: Longest wait for a round's replies, seconds.
        retries: How often a round below quorum is asked again before the study stops.
        secure: The noise is shared between the hospitals of a roster, and the server sees their sum alone
            (docs/decisions/0014).
        hospitals: Number of hospitals of that roster.
        colluding: How many of them may work together with the coordinator, and the sum stays private.
        dropouts: How many of them may be missing from a round.
        roster: Digest of the roster; "" in a simulation, which makes one.
    """

    table = "aggregation"
    costs = {  # noqa: RUF012 - see `Table`
        "strategy": "no budget; median and trimmed_mean have more noise than a mean",
        "deadline_s": "time: a round may wait that long for a lost site",
        "retries": "time; no budget, as a round that is asked again is paid once",
    }

    strategy: Literal["fedavg", "fedavgm", "fedadam", "median", "trimmed_mean"] = "fedavg"
    weighting: Literal["uniform"] = "uniform"
    server_learning_rate: float = 1.0
    server_momentum: Annotated[float, Within(0, 1, below=True)] = 0.9
    adam_decay: Annotated[float, Within(0, 1, below=True)] = 0.99
    adam_floor: Annotated[float, Within(0, 1, above=True)] = 0.001
    trim_share: Annotated[float, Within(0, 0.5, above=True, below=True)] = 0.2
    max_patients: Annotated[int, Within(1, 10_000_000)] = 10_000_000
    min_sites: Annotated[int, Within(1)] = 2
    deadline_s: Annotated[float, Such(lambda wait: 0 < wait <= 7 * 86400, "above 0 and at most a week")] = 3600.0
    retries: Annotated[int, Within(0, 10)] = 1
    secure: bool = later(False, since="0.1.0")
    hospitals: Annotated[int, Within(0)] = later(0, since="0.1.0")
    colluding: Annotated[int, Within(0)] = later(0, since="0.1.0")
    dropouts: Annotated[int, Within(0)] = later(0, since="0.1.0")
    roster: Annotated[str, Matching(r"([0-9a-f]{64})?", "64 hexadecimal digits")] = later("", since="0.1.0")

    @property
    def sum(self) -> str:
        """How releases are added up: the name of one of `common.mechanism.registry.SUMS`."""
        return "masked" if self.secure else "plain"

    @property
    def terms(self) -> Terms:
        """Who shares the noise; meaningful where `secure` is set."""
        return Terms(hospitals=self.hospitals, colluding=self.colluding, dropouts=self.dropouts)

    @property
    def share(self) -> float:
        """Standard deviation of a hospital's own noise over that which a round is booked with; 1 where it adds all."""
        return self.terms.share if self.secure else 1.0

    def _check(self) -> None:
        """The server's step fits its strategy, and a robust one is robust even where only the quorum replies.

        The median of two is their mean.
        """
        most = 0.1 if self.strategy == "fedadam" else 10.0
        self.must(
            0 < self.server_learning_rate <= most,
            "server_learning_rate",
            f"above 0 and at most {most:g} with strategy {self.strategy}",
        )
        self.must(
            self.strategy != "trimmed_mean" or int(self.trim_share * self.min_sites) >= 1,
            "trim_share",
            "at least 1 / min_sites, so that a quorum loses a reply at either end",
        )
        self.must(
            self.strategy not in ROBUST or self.min_sites >= 3, "min_sites", f"3 or more with strategy {self.strategy}"
        )
        if not self.secure:
            unused = (self.hospitals, self.colluding, self.dropouts) == (0, 0, 0)
            self.must(unused and not self.roster, "secure", "true with hospitals, colluding, dropouts or roster")
            return
        self.terms.check()
        self.must(
            self.min_sites == self.terms.least,
            "min_sites",
            f"{self.terms.least} with secure: hospitals less dropouts, as the sum of fewer is not opened",
        )
        self.must(self.strategy not in ROBUST, "strategy", "one that adds up, with secure: no reply is seen alone")
