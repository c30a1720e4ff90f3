"""The plan's `[warm]` table: on which public images the nets are trained before a gradient of a patient is taken."""

import re
from dataclasses import dataclass
from typing import Annotated

from common.plan.bounds import Such, Table, Within
from common.plan.canonical import later
from common.plan.rules import require

PHANTOMS = "phantoms"
_MOST_NAMES = 20
_LONGEST_NAME = 200
_SOURCE = Such(
    lambda source: source == PHANTOMS or re.fullmatch(r"[0-9a-f]{64}", source) is not None,
    '"phantoms" or the SHA-256 of the public .npz file, 64 hexadecimal digits',
)
_DIRECTIONS = Such(lambda directions: directions == 0 or 8 <= directions <= 256, "0, or from 8 to 256")
_STUDIES = Such(lambda studies: studies == 0 or 8 <= studies <= 1000, "0, or from 8 to 1000")
_NAMED = Such(
    lambda lines: all(0 < len(line) <= _LONGEST_NAME and line.isprintable() for line in lines),
    f"lines of 1 to {_LONGEST_NAME} printable characters",
)


@dataclass(frozen=True, kw_only=True)
class WarmPlan(Table):
    """How the coordinator warms the nets up; read only where `privacy.phases` begins with "warm".

    It happens at the coordinator, on public images, above the start that the moments phase has left: no hospital takes
    part, no patient's image enters, and it costs no budget.

    Attributes:
        source: "phantoms" (procedural chest radiographs, `common.images.phantoms`), or the SHA-256 (hex) of the .npz
            file of public images that the coordinator is given with --warm-data.
        images: Phantoms that are drawn; a file counts as it is.
        steps: Steps of Adam on 64 images each.
        learning_rate: Step size of Adam.
        studies: Studies that the coordinator rehearses with the public images. Each has a noised closed form of its
            own, so the denoiser learns to read any closed form. 0 trains the nets above the study's own start.
        patients: Patients in all hospitals together that a rehearsal counts on; 0 takes the fewest that the plan
            admits.
        directions: Principal directions of the public images. Hospitals take the moments of their classes along them
            and around the public mean, in place of cosine frequencies (docs/decisions/0015); 0 keeps the frequencies.
        named: Where the public images come from and under which licence, one line for each source. The proposal and
            the card repeat it.
    """

    table = "warm"
    costs = {  # noqa: RUF012 - see `Table`
        "images": "time at the coordinator",
        "steps": "time at the coordinator",
        "studies": "time at the coordinator",
    }

    source: Annotated[str, _SOURCE] = PHANTOMS
    images: Annotated[int, Within(64, 100_000)] = 2000
    steps: Annotated[int, Within(1, 100_000)] = 300
    learning_rate: Annotated[float, Within(0, 1, above=True)] = 0.001
    studies: Annotated[int, _STUDIES] = later(0, since="0.1.0")
    patients: Annotated[int, Within(0, 10_000_000)] = later(0, since="0.1.0")
    named: Annotated[tuple[str, ...], _NAMED] = later((), since="0.1.0")
    directions: Annotated[int, _DIRECTIONS] = later(0, since="0.1.0")

    def _check(self) -> None:
        require(len(self.named) <= _MOST_NAMES, "warm.named", f"at most {_MOST_NAMES} lines", len(self.named))

    @property
    def by_file(self) -> bool:
        """Whether the public images come from a file."""
        return self.source != PHANTOMS
