"""The masked sum at a hospital: patients' integers, the own part of the noise, and the masks of one attempt.

Formal guarantee
    The release is the exact integer sum of `client.mechanism.grid`, in which one patient counts for a vector of norm at
    most 2^24, plus an independent discrete Gaussian of the own share of the booked noise (`common.mechanism.masked_sum`
    has the proof for the sum of H - c - d such shares, and for one share alone). It leaves under masks alone
    (`client.secure.session`), which are taken off a sum of H - d hospitals or more.
"""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from client.mechanism.discrete_gaussian import discrete_gaussian
from client.mechanism.grid import summed
from client.mechanism.half import Contributions
from client.mechanism.randomness import SecureRandom
from client.secure.standing import session_of
from common.errors import MessageRefused, PlanError
from common.mechanism.masked_sum import BOXES, COMMITMENT, deviation
from common.mechanism.mechanism import RELEASE, Array
from common.mechanism.registry import release_length, sensitivity
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.secure.masks import BOX_BYTES
from common.wire.messages import TrainRequest
from common.wire.secure_messages import MaskedRequest


class _MaskedSum:
    """See `client.mechanism.half.SumHalf`."""

    def released(
        self, mine: Contributions, *, plan: StudyPlan, step: Round, random: SecureRandom
    ) -> NDArray[np.uint64]:
        """The exact sum with the own part of the noise, as it is before the masks."""
        share = deviation(step.event.sigma, plan.aggregation.terms)
        length, most = release_length(plan, step.phase), sensitivity(plan, step.phase)
        total = summed(mine.vectors(), length=length, sensitivity=most)
        return (total + discrete_gaussian(length, deviation=share, random=random)).astype(np.uint64)

    def noised(self, total: Array, *, deviation: float, random: SecureRandom) -> NoReturn:
        """No rider goes with a masked sum."""
        del total, deviation, random
        raise PlanError("no rider goes with a secure sum. Leave privacy.utility_share at 0")

    def sent(
        self, made: Weights, *, plan: StudyPlan, request: TrainRequest, home: Path, cohort: str
    ) -> dict[str, NDArray[Any]]:
        """The release under the masks of the attempt that was asked for, with its boxes and commitment."""
        if not isinstance(request, MaskedRequest):
            raise MessageRefused(f"plan {plan.name!r} shares its noise, so a round is asked for with a key book")
        values = made[RELEASE].astype(np.uint64)
        session = session_of(home, plan, number=request.round, attempt=request.attempt)
        boxes, commitment = session.mask(values, cohort=cohort)
        table = np.zeros((plan.aggregation.hospitals, BOX_BYTES // 8), "<u8")
        for place, box in boxes.items():
            table[place] = np.frombuffer(box, "<u8")
        return {RELEASE: values, BOXES: table, COMMITMENT: np.frombuffer(commitment, "<u8")}


HALVES = {"masked": _MaskedSum()}
