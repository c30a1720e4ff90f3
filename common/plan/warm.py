"""The plan's `[warm]` table: on which public images the nets are trained before a gradient of a patient is taken."""

import re
from dataclasses import dataclass

from common.plan.rules import require

PHANTOMS = "phantoms"


@dataclass(frozen=True, kw_only=True)
class WarmPlan:
    """How the coordinator warms the nets up; read only where `privacy.phases` begins with "warm".

    It happens at the coordinator, on public images, above whatever start the moments phase has left: no hospital takes
    part, no patient's image enters, and it costs no budget.

    Attributes:
        source: "phantoms" (procedural chest radiographs, `common.images.phantoms`), or the SHA-256 (hex) of the .npz
        file of
            public images that the coordinator is given with --warm-data.
        images: Phantoms that are drawn; a file counts as it is.
        steps: Steps of Adam on 64 images each.
        learning_rate: Step size of Adam.
    """

    source: str = PHANTOMS
    images: int = 2000
    steps: int = 300
    learning_rate: float = 0.001

    def __post_init__(self) -> None:
        require(
            self.source == PHANTOMS or re.fullmatch(r"[0-9a-f]{64}", self.source) is not None,
            "warm.source",
            '"phantoms" or the SHA-256 of the public .npz file, 64 hexadecimal digits',
            self.source,
        )
        require(64 <= self.images <= 100_000, "warm.images", "from 64 to 100000", self.images)
        require(1 <= self.steps <= 100_000, "warm.steps", "from 1 to 100000", self.steps)
        require(0 < self.learning_rate <= 1, "warm.learning_rate", "above 0 and at most 1", self.learning_rate)

    @property
    def by_file(self) -> bool:
        """Whether the public images come from a file."""
        return self.source != PHANTOMS
