"""The plan's `[release]` table: what the finished study generates by itself."""

from dataclasses import dataclass

from common.plan.rules import require


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """What the finished study generates by itself.

    Attributes:
        images_per_label: Synthetic images of each label written as DICOM at the end.
        temperature: Scale of the latent draw; below 1 trades variety for plausibility, above 1 the other way,
            which may train a classifier better.
        texture: Scale of the detail that the latents leave out and that is drawn from its noised spectrum; 0 leaves it
            out and looks better, 1 has the real images' variance and mostly trains a classifier better.
        observation: Standard deviation of the white noise added to each drawn pixel, image units in [-1, 1]: what the
            model says of a pixel beyond its mean. Looks worse; may train a classifier better.
    """

    images_per_label: int = 32
    temperature: float = 1.0
    texture: float = 0.0
    observation: float = 0.0

    def __post_init__(self) -> None:
        require(
            0 <= self.images_per_label <= 100_000,
            "release.images_per_label",
            "from 0 to 100000",
            self.images_per_label,
        )
        require(0 < self.temperature <= 2, "release.temperature", "above 0 and at most 2", self.temperature)
        require(0 <= self.texture <= 2, "release.texture", "from 0 to 2", self.texture)
        require(0 <= self.observation <= 1, "release.observation", "from 0 to 1", self.observation)
