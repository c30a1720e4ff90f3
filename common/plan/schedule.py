"""The rounds a plan prescribes: which phase each one runs, with which noise, and what it costs a patient."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass

from common.accountant.accounting import GaussianEvent, epsilon, smallest_multiplier
from common.mechanism import registry
from common.mechanism.mechanism import Stage
from common.plan.study_plan import StudyPlan

Phase = str
"""What a site computes: the name of one of `common.mechanism.registry.MECHANISMS`."""

EXACT = 50
"""Gradient rounds whose epsilon is computed one by one; of more, this many are, closest at the beginning."""


@dataclass(frozen=True, kw_only=True)
class Ride:
    """A rider's release in one round, booked with the round's own.

    Attributes:
        rider: Name of one of `common.mechanism.registry.RIDERS`.
        event: The mechanism every site runs for it.
    """

    rider: str
    event: GaussianEvent


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of a study.

    Attributes:
        number: From 1.
        phase: What the sites compute.
        event: The mechanism every site runs, as its ledger books it.
        rides: The riders that the plan pays for in this round.
        epsilon_after: Epsilon of the study at a site that took part in every round up to this one. Of more than
            `EXACT` gradient rounds as many are computed; a round between two has what the later one has.
    """

    number: int
    phase: Phase
    event: GaussianEvent
    epsilon_after: float
    rides: tuple[Ride, ...] = ()

    @property
    def events(self) -> tuple[GaussianEvent, ...]:
        """Everything the round costs, as the ledger books it: the riders first, the round's own last."""
        return (*(ride.event for ride in self.rides), self.event)

    @property
    def trains(self) -> bool:
        """Whether sites train in this round (`common.mechanism.mechanism.Mechanism`)."""
        return registry.mechanism(self.phase).trains


def schedule(plan: StudyPlan) -> tuple[Round, ...]:
    """Derive every round of `plan`, noise included, so that the whole costs at most `plan.privacy.epsilon`.

    "The whole" is every round once, and the sites' verdict on the candidate if the plan asks for one. On top come
    `plan.privacy.spare_rounds` times the costliest round of either phase. The noise follows from the plan alone: no
    message carries it, and no site's data enters it.

    Raises:
        PlanError: The plan's epsilon is too small for its steps, or it has a phase that this version does not know.
    """
    return _schedule(plan)


def verdict_event(plan: StudyPlan) -> GaussianEvent | None:
    """The mechanism behind a site's verdict on the candidate, None where the plan has no gate; booked like a round."""
    if not plan.evaluation.gated:
        return None
    return GaussianEvent(sigma=plan.evaluation.sigma if plan.privacy.enabled else 0.0, sample_rate=1.0, steps=1)


def whole_cost(plan: StudyPlan) -> float:
    """Epsilon of the whole study at a site that takes part in every round once and gives its verdict."""
    events = Counter(event for step in schedule(plan) for event in step.events)
    return epsilon(
        [*(_times(event, runs) for event, runs in events.items()), *_verdict(plan)], delta=plan.privacy.delta
    )


def _verdict(plan: StudyPlan) -> list[GaussianEvent]:
    event = verdict_event(plan)
    return [] if event is None else [event]


@functools.lru_cache(maxsize=64)
def _schedule(plan: StudyPlan) -> tuple[Round, ...]:
    stages, done = registry.stages(plan), list[list[tuple[str, GaussianEvent]]]()
    for stage in stages:
        done.append(stage.rounds(plan, _multiplier(plan, stage, done, last=stage is stages[-1])))
    rounds = [
        Round(number=number, phase=phase, event=event, epsilon_after=math.nan, rides=_rides(plan, phase))
        for number, (phase, event) in enumerate(itertools.chain(*done), start=1)
    ]
    costs = _costs(rounds, plan.privacy.delta)
    return tuple(dataclasses.replace(step, epsilon_after=cost) for step, cost in zip(rounds, costs, strict=True))


def _costs(rounds: list[Round], delta: float) -> list[float]:
    """Epsilon after each round, or, between two that are computed, after a later one: never less than is true."""
    gradient = sum(step.trains for step in rounds)
    before, few = len(rounds) - gradient, min(EXACT, gradient)
    ends = [math.ceil(gradient * (part / few) ** 2) for part in range(1, few + 1)]
    if gradient <= EXACT:
        ends = list(range(1, gradient + 1))
    spent: Counter[GaussianEvent] = Counter()
    costs: list[float] = []
    for end in [*range(1, before + 1), *(before + end for end in ends)]:
        spent.update(event for step in rounds[len(costs) : end] for event in step.events)
        cost = epsilon([_times(event, runs) for event, runs in spent.items()], delta=delta)
        costs += [cost] * (end - len(costs))
    return costs


def _times(event: GaussianEvent, runs: int) -> GaussianEvent:
    """As many runs of one mechanism as one event, which costs the same."""
    return dataclasses.replace(event, steps=event.steps * runs)


def _multiplier(plan: StudyPlan, stage: Stage, earlier: list[list[tuple[str, GaussianEvent]]], *, last: bool) -> float:
    """The least noise of `stage` with which its rounds, the earlier ones and spare ones keep the budget."""
    if not plan.privacy.enabled:
        return 0.0

    def cost(multiplier: float) -> float:
        done = [*earlier, stage.rounds(plan, multiplier)]
        booked = Counter(event for rounds in done for event in _booked(plan, rounds))
        events = [*(_times(event, runs) for event, runs in booked.items()), *(_verdict(plan) if last else [])]
        return max(epsilon([*events, *_spare(plan, rounds)], delta=plan.privacy.delta) for rounds in done)

    share = 1.0 if last else stage.share(plan)
    return smallest_multiplier(cost, limit=plan.privacy.epsilon * share, what=stage.words(plan))


def _booked(plan: StudyPlan, rounds: list[tuple[str, GaussianEvent]]) -> list[GaussianEvent]:
    """All events of these rounds, riders included."""
    return [event for phase, own in rounds for event in (*(ride.event for ride in _rides(plan, phase)), own)]


def _spare(plan: StudyPlan, rounds: list[tuple[str, GaussianEvent]]) -> list[GaussianEvent]:
    """The costliest of a stage's rounds, which differ in sigma alone, as often as the plan keeps rounds spare."""
    return _booked(plan, [min(rounds, key=lambda step: step[1].sigma)]) * plan.privacy.spare_rounds


@functools.lru_cache(maxsize=256)
def _rides(plan: StudyPlan, phase: str) -> tuple[Ride, ...]:
    """What rides on a round of this phase: all rounds of a rider alone cost the plan's share of epsilon for it."""
    return tuple(Ride(rider=rider.name, event=_ride_event(plan, rider.name)) for rider in registry.riders(plan, phase))


@functools.lru_cache(maxsize=64)
def _ride_event(plan: StudyPlan, name: str) -> GaussianEvent:
    if not plan.privacy.enabled:
        return GaussianEvent(sigma=0.0, sample_rate=1.0, steps=1)
    rider = registry.RIDERS[name]
    carrying = [phase for stage in registry.stages(plan) for phase, _ in stage.rounds(plan, 1.0)]
    rounds = sum(rider.rides_on(registry.mechanism(phase)) for phase in carrying)
    least = smallest_multiplier(
        lambda sigma: epsilon([GaussianEvent(sigma=sigma, sample_rate=1.0, steps=rounds)], delta=plan.privacy.delta),
        limit=plan.privacy.epsilon * rider.share(plan),
        what=f"{rounds} {name} releases",
    )
    return GaussianEvent(sigma=least, sample_rate=1.0, steps=1)
