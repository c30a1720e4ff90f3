"""Which reply counts: each one is checked on its own, and one that fails is left out by the type of its fault."""

import math

import numpy as np
from numpy.typing import NDArray

from common.errors import MessageRefused
from common.mechanism.mechanism import Shapes
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import Refused, Reply, TrainReply, Unreadable
from common.wire.secure_messages import SecureReply
from server.aggregation.plausible import ROUNDED

_NOISE_SLACK = 6.0
"""Standard deviations by which the norm of honest noise may pass its mean: once in 10**8 releases (Gaussian tail)."""
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
    plan: StudyPlan, step: Round, site: str, answer: Reply | SecureReply | Refused | Unreadable
) -> TrainReply | Refused:
    """What `site` answered to round `step`. Its arrays are the sum's to check (`server.aggregation.sums`).

    Args:
        plan: The study plan.
        step: The round.
        site: Name of the site that was asked.
        answer: What it answered, as `server.protocol.exchange` has decoded it.

    Raises:
        Quarantined: The answer is neither a refusal nor a reply to this very round at the plan's cost.
    """
    if isinstance(answer, Refused):
        return answer
    if isinstance(answer, Unreadable):
        raise Quarantined(EXTRA if answer.extra else MALFORMED, answer.why)
    if not isinstance(answer, TrainReply):
        raise Quarantined(MALFORMED, f"the reply is a {answer.kind!r} message")
    if answer.site != site:
        raise Quarantined(OTHER_SITE, "the reply names another site")
    _check_reply(plan, step, answer)
    return answer


def _check_reply(plan: StudyPlan, step: Round, reply: TrainReply) -> None:
    """Refuse a reply to another plan, round or phase, or whose epsilon is not the plan's for this round or less."""
    if (reply.plan, reply.round, reply.phase) != (plan.digest, step.number, step.phase):
        raise Quarantined(OTHER_ROUND, f"the reply answers round {reply.round}, not round {step.number}")
    if reply.delta != plan.privacy.delta or (plan.privacy.enabled and not 0 <= reply.epsilon <= plan.privacy.epsilon):
        raise Quarantined(WRONG_COST, "the reply states a privacy cost that this plan does not allow")


def most(sensitivity: float, *, patients: int, deviation: float, values: int) -> float:
    """Largest L2 norm of a noised sum over patients, each in a ball.

    Args:
        sensitivity: Radius of the ball.
        patients: How many the sum may speak for.
        deviation: Standard deviation of the noise on each value, over the radius.
        values: Length of the sum.
    """
    return sensitivity * (patients * ROUNDED + deviation * (math.sqrt(values) + _NOISE_SLACK))


def check_arrays(arrays: Weights, shapes: Shapes, *, dtype: str = "float32") -> None:
    """Refuse arrays that are not exactly the named ones, of one type, all of them finite.

    Args:
        arrays: Of a reply.
        shapes: Every name that must be there, with its shape.
        dtype: Their type.

    Raises:
        Quarantined: A name is unknown or missing, or an array has another shape or type or is not finite.
    """
    if extra := sorted(set(arrays) - set(shapes)):
        raise Quarantined(EXTRA, f"the reply holds the unknown array {extra[0][:80]!r}")
    if absent := sorted(set(shapes) - set(arrays)):
        raise Quarantined(LACKING, f"the reply lacks the array {absent[0]!r}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise Quarantined(
                MISSHAPEN, f"array {name!r} is {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}"
            )
        if not math.isfinite(squares(array)):
            raise Quarantined(NOT_FINITE, f"array {name!r} holds a value that is not finite")


def squares(array: NDArray[np.float32], origin: NDArray[np.float32] | None = None) -> float:
    """Sum of squares (of differences from `origin`) in float64, a slab at a time; finite for finite float32 values."""
    flat, base, total = array.reshape(-1), None if origin is None else origin.reshape(-1), 0.0
    for start in range(0, flat.size, _SLAB):
        slab = flat[start : start + _SLAB].astype(np.float64)
        if base is not None:
            slab -= base[start : start + _SLAB]
        total += float(slab @ slab)
    return total
