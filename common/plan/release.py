"""The plan's `[release]` table: what the finished study generates by itself."""

from dataclasses import dataclass
from typing import Annotated

from common.plan.bounds import Table, Within


@dataclass(frozen=True, kw_only=True)
class ReleasePlan(Table):
    """What the finished study generates by itself.

    Attributes:
        images_per_label: Synthetic images of each label written as DICOM at the end.
        temperature: Scale of the latent draw; below 1 trades variety for plausibility, above 1 the other way,
            which may train a classifier better.
        texture: Scale of the detail that the latents leave out. It is drawn from its noised spectrum. 0 leaves it out
            and looks better. 1 has the real images' variance and mostly trains a classifier better.
        observation: Standard deviation of the white noise added to each drawn pixel, image units in [-1, 1]. It is what
            the model says of a pixel beyond its mean. It looks worse and may train a classifier better.
    """

    table = "release"
    costs = {  # noqa: RUF012 - see `Table`
        "images_per_label": "time and disk at the coordinator",
    }

    images_per_label: Annotated[int, Within(0, 100_000)] = 32
    temperature: Annotated[float, Within(0, 2, above=True)] = 1.0
    texture: Annotated[float, Within(0, 2)] = 0.0
    observation: Annotated[float, Within(0, 1)] = 0.0
