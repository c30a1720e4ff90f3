"""From checked replies to the next global weights; a reply that fails its check is quarantined, never averaged."""

import math

import numpy as np

from common.errors import MessageRefused
from common.messages import TrainReply
from common.moments import release_length, sensitivity
from common.plan import StudyPlan
from common.schedule import Round
from common.vae import START
from common.weights import Weights, check
from server import closed_form

MOST_PATIENTS = 10_000_000
"""No hospital has more; a release larger than that many patients could make is not honest."""
_UPDATE_SLACK = 10.0


def check_reply(plan: StudyPlan, step: Round, weights: Weights, reply: TrainReply) -> None:
    """Refuse a reply that is not an honest-looking answer to this round.

    Raises:
        MessageRefused: Other plan, round or phase; unknown, missing, misshapen or non-finite arrays; an update or a
            release larger than the round can produce; an epsilon that is not the plan's for this round or less.
    """
    if (reply.plan, reply.round, reply.phase) != (plan.digest, step.number, step.phase):
        raise MessageRefused(f"the reply answers round {reply.round}, not round {step.number}")
    if reply.delta != plan.privacy.delta or (plan.privacy.enabled and not 0 < reply.epsilon <= plan.privacy.epsilon):
        raise MessageRefused("the reply states a privacy cost that this plan does not allow")
    if step.phase == "sgd":
        trained = {name: array.shape for name, array in weights.items() if not name.startswith(START)}
        check(reply.arrays, trained, what="reply")
        size, bound = _update_norm(weights, reply.arrays), _update_bound(plan, trained)
    else:
        check(reply.arrays, {"release": (release_length(plan, step.phase),)}, what="reply")
        size = float(np.linalg.norm(reply.arrays["release"].astype(np.float64)))
        bound = sensitivity(plan, step.phase) * MOST_PATIENTS
    if size > bound:
        raise MessageRefused(f"the reply's norm {size:.3g} is over the bound {bound:.3g}")


def join(plan: StudyPlan, step: Round, weights: Weights, replies: dict[str, TrainReply]) -> Weights:
    """Return the next global weights from checked replies by site name; the order of arrival does not matter."""
    arrays = [replies[site].arrays for site in sorted(replies)]
    if step.phase == "sgd":
        return {**weights, **fed_avg(arrays)}
    return closed_form.absorb(plan, step, weights, [release["release"] for release in arrays])


def fed_avg(updates: list[Weights]) -> Weights:
    """Average weights with equal, public shares (McMahan et al. 2017 with n_k held equal); float64 inside."""
    share = 1.0 / len(updates)
    total = {name: np.zeros(array.shape) for name, array in updates[0].items()}
    for update in updates:
        for name, array in update.items():
            total[name] += share * array
    return {name: array.astype(np.float32) for name, array in total.items()}


def _update_norm(weights: Weights, update: Weights) -> float:
    squares = (np.square(array.astype(np.float64) - weights[name]).sum() for name, array in update.items())
    return math.sqrt(sum(float(square) for square in squares))


def _update_bound(plan: StudyPlan, trained: dict[str, tuple[int, ...]]) -> float:
    """Ten times the way that `local_steps` full steps of Adam could go; for SGD, of clip and noise together."""
    training, values = plan.training, sum(math.prod(shape) for shape in trained.values())
    way = training.local_steps * training.learning_rate * math.sqrt(values)
    if training.optimizer == "sgd":
        way *= 1.0 + 10.0 * plan.privacy.clip_norm
    return _UPDATE_SLACK * way
