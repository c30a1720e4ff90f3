"""The gradient phase: rounds of patient-level DP-SGD on the model's nets, whose weights the server averages."""

import math

from common.accountant.accounting import GaussianEvent
from common.mechanism.mechanism import Mechanism, Shapes, Stage
from common.model.array_table import count, shared_shapes, trained_shapes
from common.plan.study_plan import StudyPlan


def released_shapes(plan: StudyPlan) -> Shapes:
    """Name and shape of every array that a gradient round trains and releases."""
    mine = trained_shapes(plan)
    return {name: shape for name, shape in shared_shapes(plan).items() if name in mine}


def trained_values(plan: StudyPlan) -> int:
    """Number of weights that the gradient phase trains, those that stay at a site included."""
    return count(trained_shapes(plan))


def _ratio(plan: StudyPlan, event: GaussianEvent, patients: int) -> float:
    """E steps of q n C each, which add up, over sigma C sqrt(d) each, which add up by their squares."""
    return event.sample_rate * patients * math.sqrt(event.steps) / (event.sigma * math.sqrt(trained_values(plan)))


def _rounds(plan: StudyPlan, multiplier: float) -> list[tuple[str, GaussianEvent]]:
    training = plan.training
    event = GaussianEvent(sigma=multiplier, sample_rate=training.sample_rate, steps=training.local_steps)
    return [("sgd", event)] * training.rounds


MECHANISMS = (
    Mechanism(
        name="sgd",
        module="sgd",
        trains=True,
        arrays=released_shapes,
        sensitivity=lambda plan: plan.privacy.clip_norm,
        signal_to_noise=_ratio,
        leaves="the refined generator",
        title="gradient steps",
        band="gradient steps",
    ),
)
STAGES = (
    Stage(
        name="sgd",
        rounds=_rounds,
        share=lambda _: 1.0,
        words=lambda plan: f"{plan.training.rounds} rounds of {plan.training.local_steps} steps",
    ),
)
