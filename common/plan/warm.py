"""The plan's `[warm]` table: on which public images the nets are trained before a gradient of a patient is taken."""

import re
from dataclasses import dataclass

from common.plan.canonical import later
from common.plan.rules import require

PHANTOMS = "phantoms"
_MOST_NAMES = 20
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class WarmPlan:
    """How the coordinator warms the nets up; read only where `privacy.phases` begins with "warm".

    It happens at the coordinator, on public images, above the start that the moments phase has left: no hospital takes
    part, no patient's image enters, and it costs no budget.

    Attributes:
        source: "phantoms" (procedural chest radiographs, `common.images.phantoms`), or the SHA-256 (hex) of the .npz
        file of
            public images that the coordinator is given with --warm-data.
        images: Phantoms that are drawn; a file counts as it is.
        steps: Steps of Adam on 64 images each.
        learning_rate: Step size of Adam.
        studies: Studies that the coordinator rehearses with the public images, each with a noised closed form of its
            own; the denoiser then learns to read any closed form. 0 trains the nets above the study's own start.
        patients: Patients in all hospitals together that a rehearsal counts on; 0 takes the fewest that the plan
            admits.
        named: Where the public images come from and under which licence, one line for each source. The proposal and
            the card repeat it.
    """

    source: str = PHANTOMS
    images: int = 2000
    steps: int = 300
    learning_rate: float = 0.001
    studies: int = later(0, since="0.1.0")
    patients: int = later(0, since="0.1.0")
    named: tuple[str, ...] = later((), since="0.1.0")

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
        require(self.studies == 0 or 8 <= self.studies <= 1000, "warm.studies", "0, or from 8 to 1000", self.studies)
        require(len(self.named) <= _MOST_NAMES, "warm.named", f"at most {_MOST_NAMES} lines", len(self.named))
        require(
            all(0 < len(line) <= _LONGEST_NAME and line.isprintable() for line in self.named),
            "warm.named",
            f"lines of 1 to {_LONGEST_NAME} printable characters",
            list(self.named),
        )
        require(0 <= self.patients <= 10_000_000, "warm.patients", "from 0 to 10000000", self.patients)

    @property
    def by_file(self) -> bool:
        """Whether the public images come from a file."""
        return self.source != PHANTOMS
