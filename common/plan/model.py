"""The plan's `[model]` table: the shape of the variational autoencoder."""

from dataclasses import dataclass
from typing import Literal

from common.plan.canonical import later
from common.plan.rules import require


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The shape of the variational autoencoder.

    Attributes:
        latent: Latent size k.
        channels: Channels of each stride-2 level of convolutional nets, finest first; multiples of 4.
        hidden: Widths of the hidden layers of multilayer perceptrons, the pixels' side first; they take the place of
            the convolutions, and `channels` is empty then.
        base: Cosine frequencies per axis that the closed-form start is learnt in.
        components: Gaussians J of each class's prior. Above 1, three rounds find their centres and a fourth their
            spread; they pay with patients by the thousand and little noise, and spoil a small cohort.
        covariance: "shared" learns one mean and one set of directions for all classes, and each class's Gaussian on
            them. "class" learns a mean, directions and a rest for each class alone (docs/decisions/0009).
        denoiser: Channels of the fine and of the coarse level of a denoiser, which the gradient rounds then train in
            place of residual nets; `channels` is empty then. It adds detail that no Gaussian has
            (`common.model.refined`).
        observation_std: Standard deviation of a pixel around the decoder's mean, image units in [-1, 1].
    """

    latent: int = 16
    channels: tuple[int, ...] = (16, 32)
    hidden: tuple[int, ...] = later((), since="0.1.0")
    base: int = 16
    components: int = 1
    covariance: Literal["shared", "class"] = later("shared", since="0.1.0")
    denoiser: tuple[int, ...] = later((), since="0.1.0")
    observation_std: float = 0.25

    def __post_init__(self) -> None:
        require(2 <= self.latent <= 128, "model.latent", "from 2 to 128", self.latent)
        if self.hidden:
            require(not self.channels, "model.channels", "[] with model.hidden", list(self.channels))
            require(len(self.hidden) <= 4, "model.hidden", "at most 4 layers", list(self.hidden))
            require(all(4 <= w <= 1024 for w in self.hidden), "model.hidden", "from 4 to 1024 each", list(self.hidden))
        elif self.denoiser:
            require(not self.channels, "model.channels", "[] with model.denoiser", list(self.channels))
            require(len(self.denoiser) == 2, "model.denoiser", "2 levels", list(self.denoiser))
            require(
                all(4 <= c <= 256 for c in self.denoiser), "model.denoiser", "from 4 to 256 each", list(self.denoiser)
            )
        else:
            require(2 <= len(self.channels) <= 5, "model.channels", "2 to 5 levels", list(self.channels))
        require(
            all(c > 0 and c % 4 == 0 for c in self.channels),
            "model.channels",
            "multiples of 4",
            list(self.channels),
        )
        require(4 <= self.base <= 32, "model.base", "from 4 to 32", self.base)
        require(1 <= self.components <= 32, "model.components", "from 1 to 32", self.components)
        require(
            self.components == 1 or self.covariance == "shared",
            "model.components",
            '1 with model.covariance = "class"',
            self.components,
        )
        require(0.01 <= self.observation_std <= 2, "model.observation_std", "from 0.01 to 2", self.observation_std)
