"""How releases are added up, as both sides must agree on it: what goes over the wire, and what a steward is told.

A sum is a protocol of three parts. What a site sends is its half in `client.mechanism`. What the server does with all
of it (check one by one, join exactly, hand over the total) is its half in `server.aggregation`. Here is what both know.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.mechanism.mechanism import Shapes
from common.model.weights import check
from common.plan.study_plan import StudyPlan


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The common half of a way to add up.

    Attributes:
        name: As `AggregationPlan.sum` names it.
        module: Module of `client.mechanism` and `server.aggregation` that holds its other halves.
        dtype: Of every array on the wire, "float32" or "uint64".
        arrays: From the plan and the arrays that a round's mechanism and riders make to those that go over the wire.
        leaves: Lines that a proposal adds to what leaves.
    """

    name: str
    module: str
    dtype: str
    arrays: Callable[[StudyPlan, Shapes], Shapes]
    leaves: Callable[[StudyPlan], list[str]]

    def check(self, arrays: Mapping[str, NDArray[Any]], shapes: Shapes, *, what: str) -> None:
        """Refuse arrays that are not exactly the named ones, of this sum's type, all of them finite.

        Args:
            arrays: The arrays to check.
            shapes: Every name that must be there, with its shape.
            what: Named in the message.

        Raises:
            MessageRefused: A name is missing or unknown, or an array has another shape or type or is not finite.
        """
        check(arrays, shapes, what=what, dtype=self.dtype)

    def size(self, shapes: Shapes) -> int:
        """Bytes of arrays of these shapes on the wire."""
        return np.dtype(self.dtype).itemsize * sum(int(np.prod(shape)) for shape in shapes.values())
