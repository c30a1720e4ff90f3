"""The protocol that every generator of a study keeps: its arrays, its loss, its draw, its layers.

A plan chooses a generator (`common.model.study_model`). Trainer, egress, aggregation, evaluation, release and export
know a generator by this class alone. The names of its nets and of its arrays stay in this room.

    arrays    `arrays`, `load_arrays`; `encoder` and `decoder` say what each is for; gradients train those that require
              a gradient
    loss      `loss`, for the trainer and the warm-up; `choices`, `reconstruct`, `noise_size`
    draw      `decode_latents`, `refine`; `class_shares`, `component_shares`, `texture`
    layers    `layers`, for the trainer's list of layers that keep patients apart
    export    a graph of `decode_latents` and `refine`, for one input of each draw
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.model.linear_start import ClassStart, LinearStart
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan


class Generator(nn.Module, ABC):
    """A linear start and the nets above it. Built only from a plan: nothing else decides its shape.

    Attributes:
        encoder: Prefixes of the arrays that read an image and draw none. They stay at the sites where a plan federates
            the decoder alone.
        decoder: Prefixes of the arrays that drawing needs; a release holds these alone.
        layers: Layers of its own that treat every image on its own and draw nothing, leaves without a trained array.
        start: The closed form of the moments phase; gradients leave it alone.
        size: Pixels on an image's side.
        latent_size: Length k of a latent vector.
        classes: Number of classes, 1 without labels.
        components: Number of components of each class's prior.
        noise_size: Standard normal draws that the loss of one image takes.
        refines: Whether `refine` changes a picture.
    """

    encoder: ClassVar[tuple[str, ...]] = ()
    decoder: ClassVar[tuple[str, ...]]
    layers: ClassVar[tuple[type[nn.Module], ...]] = (LinearStart, ClassStart)
    start: LinearStart
    noise_size: int
    refines: bool = False

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__()
        self.size, self.latent_size = plan.data.image_size, plan.model.latent
        self.classes, self.components = plan.data.classes, plan.model.components
        self.observation_std = plan.model.observation_std

    @abstractmethod
    def silence(self) -> None:
        """Set the last layers of the nets to zero, so that the model is its linear start and nothing else."""

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Training loss of each image, [n]; a function of that image, its label and its draws alone.

        Args:
            images: [n, 1, size, size] in [-1, 1].
            labels: [n] int64.
            noise: [n, noise_size] standard normal draws.
        """

    @abstractmethod
    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the model makes of images [n, 1, size, size] with labels [n], without chance; the same shape."""

    @abstractmethod
    def decode_latents(self, latent: Tensor, labels: Tensor, components: Tensor | None = None) -> Tensor:
        """Images [n, 1, size, size] of latents [n, k] with labels [n]; nominally in [-1, 1], not clamped.

        `components` [n] int64 says which component of its class each latent is of; None takes the first.

        Args:
            latent: Latents, [n, k].
            labels: Index of each one's label, [n].
            components: Component of its class, [n] int64; None takes the first.
        """

    def refine(self, pictures: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Pictures [n, size, size] with detail added by chance, from standard normal `noise` of that shape.

        Args:
            pictures: The decoder's pictures, [n, size, size].
            labels: Index of each one's label, [n].
            noise: Standard normal, [n, size, size].
        """
        del labels, noise
        return pictures

    def choices(self, images: Tensor) -> Tensor:
        """Scores by which `loss` and `reconstruct` choose for each image, [n, m]; m is 0 where they choose nothing.

        A choice shows rounding only where scores tie, so a trial that patients are kept apart compares the scores too.
        """
        return images.new_zeros(len(images), 0)

    def fixed_noise(self, count: int) -> Tensor:
        """Draws [count, noise_size] that never change, for a loss that is compared between images."""
        return torch.zeros(count, self.noise_size)

    def one_hot(self, labels: Tensor) -> Tensor:
        """[n] int64 -> [n, C] float32; written so that it runs under `torch.func.vmap`, unlike `F.one_hot`."""
        return (labels[:, None] == torch.arange(self.classes, device=labels.device)).to(torch.float32)

    def class_shares(self) -> Tensor:
        """Noised shares of the classes, [C] float64, none below 0; all 0 where no moments phase has run."""
        return self.start.frequency.detach().double().clamp(min=0)

    def component_shares(self, index: int) -> Tensor:
        """The same of the components of the class with this index, [J] float64."""
        mine = slice(index * self.components, (index + 1) * self.components)
        return self.start.weight.detach()[mine].double().clamp(min=0)

    def texture(self, index: int) -> Tensor:
        """Standard deviations of the cosine coefficients that latents of this class leave out, pixel units."""
        return self.start.texture_of(index).detach()

    def arrays(self) -> Weights:
        """Every parameter as a float32 array by name, a copy."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.named_parameters()}

    def load_arrays(self, weights: Weights) -> None:
        """Set every parameter; names and shapes must be exactly this model's."""
        self.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()}, strict=True)
