"""A hospital's half of a mechanism: what it computes in a round, on what, and in which form it is sent.

A module named by `common.mechanism` has `HALVES`: by a phase's name a `Half`, by a rider's a `RiderHalf`, by a sum's a
`SumHalf`. What a half returns is noised already.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from numpy.typing import NDArray

from client.cohort.cache import Cache
from client.mechanism import local_encoder
from client.mechanism.randomness import SecureRandom
from common.accountant.accounting import GaussianEvent
from common.mechanism import registry
from common.mechanism.mechanism import Array
from common.model.generator import Generator
from common.model.study_model import model_of
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainRequest

SIDE = "client.mechanism"
"""The room that holds the halves."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One booked round at one hospital: all that a half may use.

    Attributes:
        plan: The site's own approved copy.
        step: The round, as it is booked.
        weights: What the server sent, checked.
        cohort: The patients who are booked.
        random: Source of noise and sampling, under the key that the round was booked with.
        home: The site's home.
        device: Where to compute.
        divisor_patients: Public cohort size that the expected sample is computed from.
    """

    plan: StudyPlan
    step: Round
    weights: Weights
    cohort: Cache
    random: SecureRandom
    home: Path
    device: torch.device
    divisor_patients: int

    def model(self) -> Generator:
        """The model that the round starts from, with the site's own encoder where the plan leaves it here."""
        model = model_of(self.plan)
        model.load_arrays({**self.weights, **local_encoder.for_round(self.home, self.plan, self.step.number)})
        return model


class Half(Protocol):
    """A phase's half."""

    def release(self, work: Work) -> Weights:
        """Compute and noise what the round releases."""
        ...


RiderHalf = Callable[[Work, GaussianEvent], Weights]
"""A rider's half: computes and noises its release, of the event that pays for it, from the model as it came."""


class Contributions(Protocol):
    """What a round's patients add up to, in two forms; neither leaves a site without noise."""

    def total(self) -> Array:
        """The sum over patients, float64."""
        ...

    def vectors(self) -> Iterator[Array]:
        """The vector of each patient, made of that patient's images alone."""
        ...


class SumHalf(Protocol):
    """A sum's half: the noise of a sum over patients, and the form in which a release is sent."""

    def released(self, mine: Contributions, *, plan: StudyPlan, step: Round, random: SecureRandom) -> NDArray[Any]:
        """The sum of a round's own mechanism over this site's patients, with the noise that the site owes.

        Args:
            mine: What the patients add.
            plan: The site's own approved copy.
            step: The round, as it is booked.
            random: Source of the noise.
        """
        ...

    def noised(self, total: Array, *, deviation: float, random: SecureRandom) -> NDArray[Any]:
        """A rider's sum over this site's patients with the noise that the site owes.

        Args:
            total: The sum, float64.
            deviation: Standard deviation of the noise that makes this one sum private.
            random: Source of the noise.
        """
        ...

    def sent(self, made: Weights, *, plan: StudyPlan, request: TrainRequest, home: Path, cohort: str) -> Weights:
        """What leaves, in the form that it leaves in.

        Args:
            made: All that the round has made to leave.
            plan: The site's own approved copy.
            request: What was asked.
            home: The site's home.
            cohort: Identity of the data set that it was made of.
        """
        ...


def half_of(phase: str) -> Half:
    """The hospital's half of a phase.

    Raises:
        PlanError: There is no such phase here.
    """
    return cast(Half, registry.half(SIDE, registry.mechanism(phase).module, phase))


def sum_half(plan: StudyPlan) -> SumHalf:
    """The hospital's half of the plan's sum."""
    chosen = registry.sum_of(plan)
    return cast(SumHalf, registry.half(SIDE, chosen.module, chosen.name))


def compute(work: Work) -> Weights:
    """Run every mechanism of the round, the riders first, and return what they make."""
    made: Weights = {}
    for ride in work.step.rides:  # of the model as it came: what is learnt below enters the next round's
        rider = cast(RiderHalf, registry.half(SIDE, registry.RIDERS[ride.rider].module, ride.rider))
        made |= rider(work, ride.event)
    return half_of(work.step.phase).release(work) | made


def require(plan: StudyPlan, rounds: Sequence[Round]) -> None:
    """Refuse a plan of which this installation cannot run every round; raises `PlanError`."""
    sum_half(plan)
    for phase in dict.fromkeys(step.phase for step in rounds):
        half_of(phase)
        for rider in registry.riders(plan, phase):
            registry.half(SIDE, rider.module, rider.name)


def load() -> None:
    """Load every half there is, as a process does that is to be copied; raises `PlanError` where one is missing."""
    for declared in (registry.MECHANISMS, registry.RIDERS, registry.SUMS):
        for name, one in declared.items():
            registry.half(SIDE, one.module, name)
