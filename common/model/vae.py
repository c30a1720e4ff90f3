"""The generator of most plans: a class-conditional variational autoencoder around a linear start.

    decoder(u, c, j) = mean + V (m_cj + L_cj u) + net(u, c)        u ~ N(0, I) for every component j of every class c
    encoder(x, c) = G_cj (V'(x - mean) - m_cj) + net(x, c)         j: the component of c that explains x best

With `model.covariance = "class"`, mean and V are those of the class c (`common.model.linear_start`).

The linear start (mean, V, m_c, L_c, G_c) is the closed-form optimum learnt in the moments phase. It is carried along
and not trained by gradients. Both nets end in a zero-initialised layer when a start is used, so training begins at
the closed form and can only refine it. With a zero start (`phases = ["sgd"]`) this is a plain VAE. The nets are MONAI's
convolutional blocks or, where the plan has `model.hidden`, multilayer perceptrons.
GroupNorm between convolutions: a patient's gradient may depend on that patient's images alone. No buffers.
"""

import itertools
import math

import torch
from monai.networks.nets import VarAutoEncoder
from torch import Tensor, nn
from torch.nn import functional

from common.model.array_table import READING
from common.model.generator import Generator
from common.model.linear_start import DRAWING, start_of
from common.plan.study_plan import StudyPlan


class Vae(Generator):
    """A variational autoencoder: the residual nets are those of `model.channels` or `model.hidden`."""

    encoder = READING
    decoder = (*DRAWING, "decode.", "decodeL.")

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        self.noise_size = self.latent_size
        nets = _perceptrons(plan) if plan.model.hidden else _convolutions(plan)
        self.encode, self.decode, self._seen, self._hidden = nets
        flat = math.prod(self._hidden)
        self.mu = nn.Linear(flat + self.classes, self.latent_size)
        self.logvar = nn.Linear(flat + self.classes, self.latent_size)
        self.decodeL = nn.Linear(self.latent_size + self.classes, flat)
        self.start = start_of(plan)
        if "moments" in plan.privacy.phases:
            self.silence()

    def silence(self) -> None:
        """Set the last layers of both nets to zero, so that the model is its linear start and nothing else."""
        for layer in (self.mu, self.logvar, _last_layer(self.decode)):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def decode_latents(self, latent: Tensor, labels: Tensor, components: Tensor | None = None) -> Tensor:
        """See `Generator`."""
        number = labels * self.components + (0 if components is None else components)
        cells = torch.arange(self.classes * self.components, device=labels.device)
        return self._draw(latent, self.one_hot(labels), (number[:, None] == cells).to(torch.float32))

    def choices(self, images: Tensor) -> Tensor:
        """Log-densities of each image under every component of every class; see `Generator`."""
        if self.components == 1:
            return super().choices(images)
        return self.start.scores(images.flatten(1), self.observation_std)

    def _components(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.start.explain(images.flatten(1), self.one_hot(labels), self.observation_std)

    def _posterior(self, images: Tensor, chosen: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.start.encode(images.flatten(1), component)
        seen = self.encode(images.reshape(len(images), *self._seen))
        features = torch.cat([seen.flatten(1), chosen], dim=1)
        return mean + self.mu(features), (log_variance + self.logvar(features)).clamp(-12, 8)

    def _draw(self, latent: Tensor, chosen: Tensor, component: Tensor) -> Tensor:
        hidden = functional.gelu(self.decodeL(torch.cat([latent, chosen], dim=1)))
        linear = self.start.decode(latent, component).view(latent.shape[0], 1, self.size, self.size)
        residual: Tensor = self.decode(hidden.view(latent.shape[0], *self._hidden))
        return linear + residual.view(linear.shape)

    def loss(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Negative evidence lower bound of each image, [n], in nats (Gaussian pixels, constants left out).

        Args:
            images: [n, 1, size, size] in [-1, 1].
            labels: [n] int64.
            noise: [n, k] standard normal draw of the reparameterisation.

        Source:
            Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 10.
        """
        chosen, component = self.one_hot(labels), self._components(images, labels)
        mean, log_variance = self._posterior(images, chosen, component)
        drawn = self._draw(mean + noise * torch.exp(0.5 * log_variance), chosen, component)
        squared = (drawn - images).flatten(1).square().sum(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return squared / (2 * self.observation_std**2) + divergence

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Decode the posterior mean; see `Generator`."""
        chosen, component = self.one_hot(labels), self._components(images, labels)
        return self._draw(self._posterior(images, chosen, component)[0], chosen, component)


_Nets = tuple[nn.Module, nn.Module, tuple[int, ...], tuple[int, ...]]
"""An encoder, a decoder, the shape of an image that the former takes, and that of what lies between them."""


def _convolutions(plan: StudyPlan) -> _Nets:
    size, channels = plan.data.image_size, plan.model.channels
    blocks = VarAutoEncoder(
        spatial_dims=2,
        in_shape=(1, size, size),
        out_channels=1,
        latent_size=plan.model.latent,
        channels=channels,
        strides=(2,) * len(channels),
        norm=("group", {"num_groups": 4}),
        act="gelu",
        use_sigmoid=False,
    )
    coarse = size // 2 ** len(channels)
    return blocks.encode, blocks.decode, (1, size, size), (channels[-1], coarse, coarse)


def _perceptrons(plan: StudyPlan) -> _Nets:
    pixels, hidden = plan.data.image_size**2, plan.model.hidden
    widths = (pixels, *hidden)
    encode, decode = nn.Sequential(), nn.Sequential()
    for before, after in itertools.pairwise(widths):
        encode.extend([nn.Linear(before, after), nn.GELU()])
    for before, after in itertools.pairwise(reversed(widths)):
        decode.extend([nn.Linear(before, after), nn.GELU()])
    return encode, decode[:-1], (pixels,), (hidden[-1],)


def _last_layer(decode: nn.Module) -> nn.ConvTranspose2d | nn.Linear:
    return [module for module in decode.modules() if isinstance(module, nn.ConvTranspose2d | nn.Linear)][-1]
