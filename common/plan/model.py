"""The plan's `[model]` table: the shape of the variational autoencoder."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.plan.bounds import Such, Table, Within
from common.plan.canonical import later

_CHANNELS = Such(lambda channels: all(c > 0 and c % 4 == 0 for c in channels), "multiples of 4")
_HIDDEN = (
    Such(lambda hidden: len(hidden) <= 4, "at most 4 layers"),
    Such(lambda hidden: all(4 <= width <= 1024 for width in hidden), "from 4 to 1024 each"),
)
_DENOISER = (
    Such(lambda channels: len(channels) in (0, 2), "2 levels"),
    Such(lambda channels: all(4 <= c <= 256 for c in channels), "from 4 to 256 each"),
)


@dataclass(frozen=True, kw_only=True)
class ModelPlan(Table):
    """The shape of the variational autoencoder.

    Attributes:
        latent: Latent size k.
        channels: Channels of each stride-2 level of convolutional nets, finest first; multiples of 4.
        hidden: Widths of the hidden layers of multilayer perceptrons, the pixels' side first; they take the place of
            the convolutions, and `channels` is empty then.
        base: Cosine frequencies per axis that the closed-form start is learnt in.
        components: Gaussians J of each class's prior. Above 1, three rounds find their centres and a fourth their
            spread. They pay with patients by the thousand and little noise, and spoil a small cohort.
        covariance: "shared" learns one mean and one set of directions for all classes. "class" learns a mean,
            directions and a rest for each class alone (docs/decisions/0009).
        denoiser: Channels of the fine and of the coarse level of a denoiser. The gradient rounds then train it in place
            of residual nets, and `channels` is empty. It adds detail that no Gaussian has (`common.model.refined`).
        observation_std: Standard deviation of a pixel around the decoder's mean, image units in [-1, 1].
    """

    table = "model"
    costs = {  # noqa: RUF012 - see `Table`
        "latent": "noise: more directions share the signal",
        "channels": "noise and time: every weight is noised in the gradient phase",
        "hidden": "noise and time: every weight is noised in the gradient phase",
        "base": "noise and message size, by the fourth power in the second round",
        "components": "noise; above 1 also four more rounds",
        "covariance": 'noise with "class": each class has its own patients alone. One round less',
        "denoiser": "time, at the sites and in drawing; noise little, as its weights are shared across positions",
    }

    latent: Annotated[int, Within(2, 128)] = 16
    channels: Annotated[tuple[int, ...], _CHANNELS] = (16, 32)
    hidden: Annotated[tuple[int, ...], *_HIDDEN] = later((), since="0.1.0")
    base: Annotated[int, Within(4, 32)] = 16
    components: Annotated[int, Within(1, 32)] = 1
    covariance: Literal["shared", "class"] = later("shared", since="0.1.0")
    denoiser: Annotated[tuple[int, ...], *_DENOISER] = later((), since="0.1.0")
    observation_std: Annotated[float, Within(0.01, 2)] = 0.25

    def _check(self) -> None:
        """The nets are of one kind, and a class with a covariance of its own has one component."""
        other = "model.hidden" if self.hidden else "model.denoiser" if self.denoiser else ""
        if other:
            self.must(not self.channels, "channels", f"[] with {other}")
        else:
            self.must(2 <= len(self.channels) <= 5, "channels", "2 to 5 levels")
        self.must(
            self.components == 1 or self.covariance == "shared", "components", '1 with model.covariance = "class"'
        )
