"""A mechanism: all that both sides must agree on about what a site releases in one kind of round.

A phase is one `Mechanism`. This is its common half: what leaves, how much one patient can move it, and its words. Each
side has its own half in a module of the same name: `client.mechanism` what a site computes, `server.mechanism` what the
coordinator takes for plausible and makes of the sum. `common.mechanism.registry` finds every mechanism.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.accountant.accounting import GaussianEvent
from common.plan.study_plan import StudyPlan

Array = NDArray[np.float64]
Shapes = dict[str, tuple[int, ...]]
RELEASE = "release"
"""Name of the array in a reply that holds a noised sum over patients."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """The common half of a phase.

    Attributes:
        name: The phase, as messages, ledgers and tables name it.
        module: Module of `client.mechanism` and `server.mechanism` that holds its other halves.
        trains: Whether sites train weights that the server averages. Otherwise each releases a sum over its patients.
        arrays: Name and shape of every array that leaves a site in a round of this phase, riders left out.
        sensitivity: L2 bound on what one patient adds to the release (to each step's sum where it trains).
        signal_to_noise: Norm of a full agreement of so many patients over the expected norm of the noise of one round,
            whose sigma is above 0.
        leaves: What leaves, as a proposal tells a steward.
        title: What the round finds, as the report heads it.
        band: What the report calls such rounds together.
    """

    name: str
    module: str
    trains: bool = False
    arrays: Callable[[StudyPlan], Shapes]
    sensitivity: Callable[[StudyPlan], float]
    signal_to_noise: Callable[[StudyPlan, GaussianEvent, int], float]
    leaves: str
    title: str
    band: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the server reads out of the sum of a rider's releases.

    Attributes:
        value: The figure.
        std: Its standard deviation by the noise alone.
    """

    value: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Rider:
    """The common half of a small release that rides on the rounds of a phase and is booked as an event of its own.

    Attributes:
        name: Its one array in a reply, and the phase of its ledger row.
        module: Module of `client.mechanism` that holds its other half. The server's is `read`.
        share: Part of epsilon that the plan gives it, all its rounds together; 0 where it does not ride.
        rides_on: Whether it rides on rounds of this mechanism.
        shape: Of its array.
        sensitivity: L2 bound on what one patient adds to it.
        read: From the sum of all sites' releases and the standard deviation of its noise to a figure, or None where
            the noise is as large.
        leaves: Lines of a proposal, from the event that a round pays for.
        title: Heading of its figure in the report.
        column: Name of its figure in the study's tables; its standard deviation has the name with `_std`.
    """

    name: str
    module: str
    share: Callable[[StudyPlan], float]
    rides_on: Callable[[Mechanism], bool]
    shape: tuple[int, ...]
    sensitivity: float
    read: Callable[[Array, float], Reading | None]
    leaves: Callable[[GaussianEvent], list[str]]
    title: str
    column: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Rounds that follow one another in a plan and have one part of its budget: one entry of `privacy.phases`.

    Attributes:
        name: The entry.
        rounds: The stage's rounds at a noise multiplier, each with the name of its mechanism and the event it books.
        share: Part of epsilon that may be spent by the end of the stage, where another stage follows.
        words: What the stage is, where its budget does not suffice.
    """

    name: str
    rounds: Callable[[StudyPlan, float], list[tuple[str, GaussianEvent]]]
    share: Callable[[StudyPlan], float]
    words: Callable[[StudyPlan], str]
