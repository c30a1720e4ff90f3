"""The rounds a plan prescribes: which phase each one runs, with which noise, and what it costs a patient."""

import dataclasses
import functools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from common.accountant.accounting import GaussianEvent, epsilon, smallest_multiplier
from common.plan.study_plan import StudyPlan

Phase = Literal["mean", "subspace", "prior", "centres", "mixture", "means", "scatters", "sgd", "verdict"]
"""What a site computes; "verdict" is no round of `schedule`, it comes after the last one."""

MOMENT_SHARES: tuple[tuple[Phase, float], ...] = (("mean", 0.10), ("subspace", 0.50), ("prior", 0.40))
"""How the moments phase divides its privacy among its releases, as shares of the sum of 1 / sigma^2."""
MIXTURE_SHARES: tuple[tuple[Phase, float], ...] = (
    ("mean", 0.05),
    ("subspace", 0.25),
    ("prior", 0.14),
    ("centres", 0.08),
    ("centres", 0.08),
    ("centres", 0.08),
    ("mixture", 0.32),
)
"""The same where a class's prior has several components (chosen on Fashion-MNIST and MNIST, docs/decisions/0008)."""

CLASS_SHARES: tuple[tuple[Phase, float], ...] = (("means", 0.15), ("scatters", 0.85))
"""The same where each class has its own covariance (`model.covariance`, docs/decisions/0009)."""


EXACT = 50
"""Gradient rounds whose epsilon is computed one by one; of more, this many are, closest at the beginning."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of a study.

    Attributes:
        number: From 1.
        phase: What the sites compute.
        event: The mechanism every site runs, as its ledger books it.
        utility: The mechanism that releases the round's reconstruction error; None where the plan does not pay for one.
        epsilon_after: Epsilon of the study at a site that took part in every round up to this one. Of more than
            `EXACT` gradient rounds as many are computed; a round between two has what the later one has.
    """

    number: int
    phase: Phase
    event: GaussianEvent
    epsilon_after: float
    utility: GaussianEvent | None = None

    @property
    def events(self) -> tuple[GaussianEvent, ...]:
        """Everything the round costs, as the ledger books it: the utility release first, the round's own last."""
        return (self.event,) if self.utility is None else (self.utility, self.event)


def schedule(plan: StudyPlan) -> tuple[Round, ...]:
    """Derive every round of `plan`, noise included, so that the whole costs at most `plan.privacy.epsilon`.

    "The whole" is every round once, and the sites' verdict on the candidate if the plan asks for one. On top come
    `plan.privacy.spare_rounds` times the costliest round of either phase. The noise follows from the plan alone: no
    message carries it, and no site's data enters it.

    Raises:
        PlanError: The plan's epsilon is too small for its steps.
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
    steps = _moment_events(plan) + _gradient_events(plan)
    paid = _utility_event(plan)
    rounds = [
        Round(number=number, phase=phase, event=event, epsilon_after=math.nan, utility=paid if phase == "sgd" else None)
        for number, (phase, event) in enumerate(steps, start=1)
    ]
    costs = _costs(rounds, plan.privacy.delta)
    return tuple(dataclasses.replace(step, epsilon_after=cost) for step, cost in zip(rounds, costs, strict=True))


def _costs(rounds: list[Round], delta: float) -> list[float]:
    """Epsilon after each round, or, between two that are computed, after a later one: never less than is true."""
    gradient = sum(step.phase == "sgd" for step in rounds)
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


def _moment_events(plan: StudyPlan) -> list[tuple[Phase, GaussianEvent]]:
    if "moments" not in plan.privacy.phases:
        return []
    share = plan.privacy.moments_share if "sgd" in plan.privacy.phases else 1.0

    def events(multiplier: float) -> list[tuple[Phase, GaussianEvent]]:
        return [
            (phase, GaussianEvent(sigma=multiplier / part**0.5, sample_rate=1.0, steps=1))
            for phase, part in _moment_shares(plan)
        ]

    if not plan.privacy.enabled:
        return events(0.0)

    def cost(multiplier: float) -> float:
        booked = [event for _, event in events(multiplier)]
        last = [] if "sgd" in plan.privacy.phases else _verdict(plan)
        return epsilon([*booked, *_spare(plan, booked), *last], delta=plan.privacy.delta)

    least = smallest_multiplier(
        cost,
        limit=plan.privacy.epsilon * share,
        what="the moments phase",
    )
    return events(least)


def _moment_shares(plan: StudyPlan) -> tuple[tuple[Phase, float], ...]:
    if plan.model.covariance == "class":
        return CLASS_SHARES
    return MOMENT_SHARES if plan.model.components == 1 else MIXTURE_SHARES


def _gradient_events(plan: StudyPlan) -> list[tuple[Phase, GaussianEvent]]:
    if "sgd" not in plan.privacy.phases:
        return []
    training = plan.training

    def event(multiplier: float, rounds: int) -> GaussianEvent:
        return GaussianEvent(sigma=multiplier, sample_rate=training.sample_rate, steps=rounds * training.local_steps)

    if not plan.privacy.enabled:
        return [("sgd", event(0.0, 1))] * training.rounds
    before = [booked for _, booked in _moment_events(plan)]
    paid = _utility_event(plan)
    utility = [] if paid is None else [_times(paid, training.rounds)]
    spare_utility = [] if paid is None else [paid] * plan.privacy.spare_rounds

    def cost(multiplier: float) -> float:
        booked = [*before, *utility, event(multiplier, training.rounds), *_verdict(plan)]
        spares = [_spare(plan, before)] if before else []
        spares.append(_spare(plan, [event(multiplier, 1)]) + spare_utility)
        return max(epsilon([*booked, *spare], delta=plan.privacy.delta) for spare in spares)

    least = smallest_multiplier(
        cost,
        limit=plan.privacy.epsilon,
        what=f"{training.rounds} rounds of {training.local_steps} steps",
    )
    return [("sgd", event(least, 1))] * training.rounds


@functools.lru_cache(maxsize=64)
def _utility_event(plan: StudyPlan) -> GaussianEvent | None:
    """What each gradient round pays for its utility release: all of them alone cost the plan's share of epsilon."""
    share, rounds = plan.privacy.utility_share, plan.training.rounds
    if not share:
        return None
    if not plan.privacy.enabled:
        return GaussianEvent(sigma=0.0, sample_rate=1.0, steps=1)
    least = smallest_multiplier(
        lambda sigma: epsilon([GaussianEvent(sigma=sigma, sample_rate=1.0, steps=rounds)], delta=plan.privacy.delta),
        limit=plan.privacy.epsilon * share,
        what=f"{rounds} utility releases",
    )
    return GaussianEvent(sigma=least, sample_rate=1.0, steps=1)


def _spare(plan: StudyPlan, events: list[GaussianEvent]) -> list[GaussianEvent]:
    """The costliest of one phase's events, which differ in sigma alone, as often as the plan keeps rounds spare."""
    return [min(events, key=lambda event: event.sigma)] * plan.privacy.spare_rounds
