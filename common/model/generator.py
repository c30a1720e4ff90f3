"""The generator that a study trains: what every kind of it can do, whatever its nets are."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from common.model.linear_start import LinearStart
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan


class Generator(nn.Module, ABC):
    """A linear start and the nets above it. Built only from a plan: nothing else decides its shape.

    Attributes:
        start: The closed form of the moments phase; gradients leave it alone.
        size: Pixels on an image's side.
        latent_size: Length k of a latent vector.
        classes: Number of classes, 1 without labels.
        noise_size: Standard normal draws that the loss of one image takes.
        refines: Whether `refine` changes a picture.
    """

    start: LinearStart
    noise_size: int
    refines: bool = False

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__()
        self.size, self.latent_size = plan.data.image_size, plan.model.latent
        self.classes = max(1, len(plan.data.labels))
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
        """

    def refine(self, pictures: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Pictures [n, size, size] with detail added by chance, from standard normal `noise` of that shape."""
        del labels, noise
        return pictures

    def fixed_noise(self, count: int) -> Tensor:
        """Draws [count, noise_size] that never change, for a loss that is compared between images."""
        return torch.zeros(count, self.noise_size)

    def one_hot(self, labels: Tensor) -> Tensor:
        """[n] int64 -> [n, C] float32; written so that it runs under `torch.func.vmap`, unlike `F.one_hot`."""
        return (labels[:, None] == torch.arange(self.classes, device=labels.device)).to(torch.float32)

    def arrays(self) -> Weights:
        """Every parameter as a float32 array by name, a copy."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.named_parameters()}

    def load_arrays(self, weights: Weights) -> None:
        """Set every parameter; names and shapes must be exactly this model's."""
        self.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()}, strict=True)
