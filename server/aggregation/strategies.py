"""From the replies' average to the next global weights: momentum, Adam and the average over rounds.

All of it is a function of what has left the hospitals already and of public constants, so it is post-processing of
their Gaussian mechanisms and costs no patient anything (Dwork & Roth 2014, proposition 2.1).

Flower's own strategies have this arithmetic inside their round loop, which this server does not use (decision 3). The
formulas are theirs, of flwr 1.41: `FedAvgM` (Hsu et al. 2019, arXiv 1909.06335) and `FedAdam` (Reddi et al. 2020, arXiv
2003.00295, with the bias correction of Kingma & Ba 2014; Flower counts one round more in it). tests/server compares the
results with Flower's.

What has to outlast a round is the server's memory: arrays by name, one for each trained array and kind, which the
checkpoint holds with the weights.
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.errors import StudyStopped
from common.mechanism.registry import mechanism
from common.model.study_model import trained
from common.model.weights import Weights
from common.plan.schedule import Phase
from common.plan.study_plan import StudyPlan

MOMENTUM, SQUARES, EMA = "momentum/", "squares/", "ema/"
"""Prefixes of the memory's names."""
_Array = NDArray[np.float32]
_KINDS = {"fedavgm": (MOMENTUM,), "fedadam": (MOMENTUM, SQUARES)}


def memory_shapes(plan: StudyPlan, weights: Weights, *, rounds: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the server's memory.

    Args:
        plan: The study plan.
        weights: The global weights.
        rounds: Gradient rounds done; before the first there is nothing to remember.
    """
    kinds = _KINDS.get(plan.aggregation.strategy, ()) + ((EMA,) if plan.training.ema else ())
    mine = trained(plan, weights) if rounds else {}
    return {kind + name: array.shape for kind in kinds for name, array in mine.items()}


def advance(
    plan: StudyPlan, phase: Phase, *, before: Weights, average: Weights, memory: Weights, rounds: int
) -> tuple[Weights, Weights]:
    """Take one step from the weights before the round.

    Args:
        plan: The study plan.
        phase: Phase of the round; what a round makes that does not train is taken as it is.
        before: The global weights that the round started from.
        average: What the replies came to, all arrays of the model; those that were not trained are `before`'s own.
        memory: What the last round left; see `memory_shapes`.
        rounds: Gradient rounds before this one.

    Returns:
        The next global weights and the next memory.

    Raises:
        StudyStopped: A value of either is no finite float32 any more.
    """
    if not mechanism(phase).trains:
        return average, memory
    weights, kept = dict(average), dict(memory)
    for name, value in trained(plan, average).items():
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, with words
            weights[name] = _moved(plan, name, before[name], value, kept, rounds)
        if plan.training.ema:
            kept[EMA + name] = _averaged(plan.training.ema, memory.get(EMA + name), weights[name], rounds)
    if not all(np.isfinite(array).all() for array in (*weights.values(), *kept.values())):
        raise StudyStopped(
            f"study {plan.name!r}: round {rounds + 1} of the gradient phase leaves weights that are not finite "
            f"with strategy {plan.aggregation.strategy}. Lower `aggregation.server_learning_rate` in a new plan"
        )
    return weights, kept


def released(weights: Weights, memory: Weights) -> Weights:
    """The weights whose decoder is released: the average over rounds where the plan keeps one, else the last round's.

    An average is the weighted mean of the global weights after each gradient round so far, the round before last
    weighing `training.ema` times the last. What no gradient trains, the closed-form start, is the last round's.
    """
    return weights | {name.removeprefix(EMA): value for name, value in memory.items() if name.startswith(EMA)}


def _moved(plan: StudyPlan, name: str, before: _Array, average: _Array, kept: Weights, rounds: int) -> _Array:
    """One array after the server's step; its memory in `kept` is brought up to date."""
    rules = plan.aggregation
    if rules.strategy not in _KINDS:
        return average
    update = average.astype(np.float64) - before
    last = kept[MOMENTUM + name].astype(np.float64) if rounds else np.zeros_like(update)
    if rules.strategy == "fedavgm":
        move = momentum = rules.server_momentum * last + update
    else:
        beta, decay, turn = rules.server_momentum, rules.adam_decay, rounds + 1
        momentum = beta * last + (1 - beta) * update
        squares = (1 - decay) * update**2 + (decay * kept[SQUARES + name].astype(np.float64) if rounds else 0.0)
        kept[SQUARES + name] = squares.astype(np.float32)
        right = math.sqrt(1 - decay**turn) / (1 - beta**turn)
        move = right * momentum / (np.sqrt(squares) + rules.adam_floor)
    kept[MOMENTUM + name] = momentum.astype(np.float32)
    return (before + rules.server_learning_rate * move).astype(np.float32)


def _averaged(decay: float, last: _Array | None, value: _Array, rounds: int) -> _Array:
    """The bias-corrected exponential average (Kingma & Ba 2014, section 3), as a running mean: it needs no correction.

    With e_t = decay e_(t-1) + (1 - decay) w_t and e_0 = 0, the corrected m_t = e_t / (1 - decay^t) moves by
    (1 - decay) / (1 - decay^t) of its way to w_t.
    """
    if last is None:
        return value
    share = (1 - decay) / (1 - decay ** (rounds + 1))
    return (last + share * (value.astype(np.float64) - last)).astype(np.float32)
