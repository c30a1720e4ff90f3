"""The masked sum at the coordinator: masked replies are added modulo 2^64, and only the opened total is looked at."""

from pathlib import Path

import numpy as np

from common.errors import StudyStopped
from common.mechanism import registry
from common.mechanism.masked_sum import GRID
from common.mechanism.mechanism import RELEASE, Array
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.secure.masks import Words
from common.wire.messages import TrainReply
from server.aggregation import quarantine
from server.mechanism.half import Case, half_of


class MaskedSum:
    """See `server.aggregation.sums.RoundSum`. It joins once it was opened (`server.protocol.secure_collection`).

    Args:
        plan: The study plan.
        step: The round.
        weights: The global weights that the round starts from.
        folder: Not used: a running sum is kept, 8 bytes a value.

    Attributes:
        masked: Sum of the masked releases, modulo 2^64.
        sites: How many releases are in it.
    """

    def __init__(self, plan: StudyPlan, step: Round, weights: Weights, *, folder: Path | None = None) -> None:
        del folder
        self._plan, self._step, self._weights = plan, step, weights
        self._shapes = registry.leaving(plan, step.phase)
        self.masked: Words = np.zeros(registry.release_length(plan, step.phase), np.uint64)
        self._clear: Array | None = None
        self.sites = 0

    def check(self, reply: TrainReply) -> None:
        """See `RoundSum`: of a masked reply one can tell its form alone."""
        quarantine.check_arrays(reply.arrays, self._shapes, dtype="uint64")

    def add(self, reply: TrainReply) -> None:
        """See `RoundSum`."""
        self.masked += reply.arrays[RELEASE].astype(np.uint64)
        self.sites += 1

    def opened(self, clear: Words) -> None:
        """Take the sum without its masks."""
        step = registry.sensitivity(self._plan, self._step.phase) / GRID
        self._clear = clear.view(np.int64).astype(np.float64) * step

    def join(self) -> "MaskedSum":
        """See `RoundSum`.

        Raises:
            StudyStopped: It was not opened, or it is no sum of as many honest hospitals; none of them can be named.
        """
        case = Case(
            plan=self._plan,
            step=self._step,
            weights=self._weights,
            patients=self.sites * self._plan.aggregation.max_patients,
            spread=self.spread,
        )
        try:
            half_of(self._step.phase).check(case, {RELEASE: self.total(RELEASE)})  # type: ignore[dict-item]
        except quarantine.Quarantined as error:
            raise StudyStopped(
                f"study {self._plan.name!r}: round {self._step.number}: the sum of {self.sites} hospitals is no honest "
                f"hospitals' ({error}). Under masks no hospital can be named: ask each to check its data and versions"
            ) from error
        return self

    @property
    def spread(self) -> float:
        """See `server.mechanism.half.Total`: each hospital adds its part of the noise."""
        return self._plan.aggregation.terms.spread(self.sites)

    def total(self, name: str) -> Array:
        """See `Total`."""
        if self._clear is None or name != RELEASE:
            raise StudyStopped(f"study {self._plan.name!r}: the sum of {name!r} was not opened. Resume the study")
        return self._clear

    def mean(self) -> Weights:
        """See `Total`; no weights are trained under masks."""
        raise StudyStopped(f"study {self._plan.name!r}: no weights are trained where noise is shared")


HALVES = {"masked": MaskedSum}
