"""Which reply counts: each one is checked on its own, and one that fails is left out by the type of its fault."""

import math

import numpy as np
from numpy.typing import NDArray

from common.accountant.accounting import GaussianEvent
from common.errors import MessageRefused
from common.mechanism import utility
from common.mechanism.moments import release_length, sensitivity
from common.model.study_model import trained
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import Refused, Reply, TrainReply, Unreadable
from server.aggregation.plausible import ROUNDED, contradiction

_NOISE_SLACK = 6.0
"""Standard deviations by which the norm of honest noise may pass its mean: once in 10**8 releases (Gaussian tail)."""
_UPDATE_SLACK = 10.0
_SLAB = 2**18

EXTRA, LACKING, MISSHAPEN, NOT_FINITE = "ExtraKey", "MissingArray", "WrongShape", "NotFinite"
TOO_LARGE, OTHER_ROUND, OTHER_SITE = "NormOverBound", "WrongRound", "WrongSite"
WRONG_COST, MALFORMED, NO_COHORT = "WrongCost", "MalformedReply", "NoCohort"


class Quarantined(MessageRefused):
    """A reply that is not an honest-looking answer to its round; it is never averaged.

    Attributes:
        reason: One of this module's reasons, fit to be shown.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def counted(
    plan: StudyPlan,
    step: Round,
    weights: Weights,
    site: str,
    answer: Reply | Refused | Unreadable,
) -> TrainReply | Refused:
    """What `site` answered to round `step`, checked as `check_reply` does.

    Args:
        plan: The study plan.
        step: The round.
        weights: The global weights that the round started from.
        site: Name of the site that was asked.
        answer: What it answered, as `server.protocol.exchange` has decoded it.

    Raises:
        Quarantined: The answer is neither a refusal nor a reply that can count.
    """
    if isinstance(answer, Refused):
        return answer
    if isinstance(answer, Unreadable):
        raise Quarantined(EXTRA if answer.extra else MALFORMED, answer.why)
    if not isinstance(answer, TrainReply):
        raise Quarantined(MALFORMED, f"the reply is a {answer.kind!r} message")
    if answer.site != site:
        raise Quarantined(OTHER_SITE, "the reply names another site")
    check_reply(plan, step, weights, answer)
    return answer


def check_reply(plan: StudyPlan, step: Round, weights: Weights, reply: TrainReply) -> None:
    """Refuse a reply that is not an honest-looking answer to this round.

    Raises:
        Quarantined: Other plan, round or phase; unknown, missing, misshapen or non-finite arrays; an update or a
            release larger than the round can produce, or that no cohort's sums could be; an epsilon that is not the
            plan's for this round or less.
    """
    if (reply.plan, reply.round, reply.phase) != (plan.digest, step.number, step.phase):
        raise Quarantined(OTHER_ROUND, f"the reply answers round {reply.round}, not round {step.number}")
    if reply.delta != plan.privacy.delta or (plan.privacy.enabled and not 0 <= reply.epsilon <= plan.privacy.epsilon):
        raise Quarantined(WRONG_COST, "the reply states a privacy cost that this plan does not allow")
    if step.phase == "sgd":
        paid = {utility.NAME: (2,)} if step.utility is not None else {}
        _check_arrays(reply.arrays, {name: array.shape for name, array in trained(plan, weights).items()} | paid)
        size = math.sqrt(sum(_squares(reply.arrays[name], array) for name, array in trained(plan, weights).items()))
        if step.utility is not None and _squares(reply.arrays[utility.NAME]) > most_utility(plan, step.utility) ** 2:
            raise Quarantined(TOO_LARGE, "the reply's utility release is larger than any hospital's")
    else:
        _check_arrays(reply.arrays, {"release": (release_length(plan, step.phase),)})
        size = math.sqrt(_squares(reply.arrays["release"]))
    if not size <= (most := bound(plan, step, weights)):
        raise Quarantined(TOO_LARGE, f"the reply's norm {size:.3g} is over the bound {most:.3g}")
    if step.phase != "sgd" and (fault := contradiction(plan, step, reply.arrays["release"].astype(np.float64))):
        raise Quarantined(NO_COHORT, f"the reply's release is nobody's: {fault}")


def most_utility(plan: StudyPlan, event: GaussianEvent) -> float:
    """Largest L2 norm of an honest utility release, which `event` has noised."""
    return _most(plan, utility.SENSITIVITY, event, length=2)


def bound(plan: StudyPlan, step: Round, weights: Weights) -> float:
    """Largest L2 norm of an honest reply: of the release, or of the update's way from the global weights.

    For updates, ten times the way that `local_steps` full steps of Adam could go; for SGD, of clip and noise together.
    """
    if step.phase != "sgd":
        return _most(plan, sensitivity(plan, step.phase), step.event, length=release_length(plan, step.phase))
    training, values = plan.training, sum(array.size for array in trained(plan, weights).values())
    way = training.local_steps * training.learning_rate * math.sqrt(values)
    if training.optimizer == "sgd":
        way *= 1.0 + 10.0 * plan.privacy.clip_norm
    return _UPDATE_SLACK * way


def _most(plan: StudyPlan, bound: float, event: GaussianEvent, *, length: int) -> float:
    """Largest norm of a noised sum over the plan's most patients, each in a ball of radius `bound`."""
    return bound * (plan.aggregation.max_patients * ROUNDED + event.sigma * (math.sqrt(length) + _NOISE_SLACK))


def _check_arrays(arrays: Weights, shapes: dict[str, tuple[int, ...]]) -> None:
    if extra := sorted(set(arrays) - set(shapes)):
        raise Quarantined(EXTRA, f"the reply holds the unknown array {extra[0][:80]!r}")
    if absent := sorted(set(shapes) - set(arrays)):
        raise Quarantined(LACKING, f"the reply lacks the array {absent[0]!r}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise Quarantined(
                MISSHAPEN, f"array {name!r} is {array.dtype}{list(array.shape)}, not float32{list(shape)}"
            )
        if not math.isfinite(_squares(array)):
            raise Quarantined(NOT_FINITE, f"array {name!r} holds a value that is not finite")


def _squares(array: NDArray[np.float32], origin: NDArray[np.float32] | None = None) -> float:
    """Sum of squares (of differences from `origin`) in float64, a slab at a time; finite for finite float32 values."""
    flat, base, total = array.reshape(-1), None if origin is None else origin.reshape(-1), 0.0
    for start in range(0, flat.size, _SLAB):
        slab = flat[start : start + _SLAB].astype(np.float64)
        if base is not None:
            slab -= base[start : start + _SLAB]
        total += float(slab @ slab)
    return total
