"""The generator with `model.denoiser`: a linear VAE draws a picture, and a denoiser finds the detail in it.

    picture = mean_c + V_c L_c u                       the closed form of the class c (`common.model.linear_start`)
    image   = D-steps(picture + texture + noise, c)    the denoiser D of `common.model.denoiser`

Training: D learns to take white noise off a patient's images. Drawing: a picture of the closed form is blurred by
noise until it could be a real image under the same noise. The denoiser then takes the noise off in a few steps of the
probability flow (Karras et al. 2022, section 3; SDEdit, Meng et al. 2022, starts in the same way).
"""

from typing import cast

import torch
from torch import Tensor

from common.model.denoiser import Denoiser, drawing_levels, levels
from common.model.generator import Generator
from common.model.linear_start import DRAWING, ClassStart, start_of
from common.plan.study_plan import StudyPlan

_MEASURED = 0.2
"""Noise on an image that the model is asked to reconstruct."""


class RefinedVae(Generator):
    """A linear VAE by class, and the denoiser that gradients train."""

    decoder = (*DRAWING, "refiner.")
    start: ClassStart
    refines = True

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        self.noise_size = 1 + self.size**2
        self.refiner = Denoiser(size=self.size, classes=self.classes, channels=plan.model.denoiser)
        self.start = cast(ClassStart, start_of(plan))

    def silence(self) -> None:
        """See `Generator`."""
        self.refiner.silence()

    def loss(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Mean square error of the noise that is left, in units of the error that the closed form expects, [n].

        `noise` holds for each image one draw that chooses the level and one for each pixel; see `Generator`.

        Args:
            images: Images, [n, 1, size, size].
            labels: Index of each one's label, [n].
            noise: The draws of each image; see `Generator`.
        """
        clean, level = images[:, 0], levels(noise[:, 0])
        noisy = clean + level[:, None, None] * noise[:, 1:].view_as(clean)
        chosen = self.one_hot(labels)
        expected, error = self._expect(noisy, chosen, level)
        found = self.refiner(noisy, expected, chosen, level)
        missed: Tensor = (found - (clean - expected) / error).square().flatten(1).mean(1)
        return missed

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images, freed of a fixed pattern of noise that was added to them; see `Generator`."""
        pattern = self.fixed_noise(1)[:, 1:].view(1, self.size, self.size).to(images.device)
        level = torch.full((len(images),), _MEASURED, device=images.device)
        cleaned = self.denoise(images[:, 0] + _MEASURED * pattern, self.one_hot(labels), level)
        return cleaned[:, None]

    def decode_latents(self, latent: Tensor, labels: Tensor, components: Tensor | None = None) -> Tensor:
        """The closed form's pictures, before `refine`; see `Generator`."""
        del components  # a class of such a plan has one
        return self.start.decode(latent, self.one_hot(labels)).view(-1, 1, self.size, self.size)

    @torch.no_grad()
    def refine(self, pictures: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """See `Generator`; the result is clamped to [-1, 1]."""
        chosen, steps = self.one_hot(labels), drawing_levels()
        found = pictures + self.start.textured(noise, chosen, white=steps[0])
        for now, then in zip(steps, [*steps[1:], 0.0], strict=True):
            clean = self.denoise(found, chosen, found.new_full((found.shape[0],), now))
            found = clean + (found - clean) * (then / now)
        return found.clamp(-1.0, 1.0)

    def denoise(self, noisy: Tensor, chosen: Tensor, level: Tensor) -> Tensor:
        """Estimate the images [n, size, size] under white noise of deviations `level` [n] and one-hot classes.

        Args:
            noisy: Images with white noise, [n, size, size].
            chosen: One-hot classes, [n, C].
            level: Standard deviation of each image's noise, [n].
        """
        expected, error = self._expect(noisy, chosen, level)
        cleaned: Tensor = expected + error * self.refiner(noisy, expected, chosen, level)
        return cleaned

    def fixed_noise(self, count: int) -> Tensor:
        """See `Generator`: the middle level, and the same pattern for each image."""
        pattern = torch.randn(self.noise_size, generator=torch.Generator().manual_seed(0))
        pattern[0] = 0.0
        return pattern.expand(count, -1)

    def _expect(self, noisy: Tensor, chosen: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the closed form makes of noisy images, and its expected error, [n, size, size] and [n, 1, 1]."""
        expected, error = self.start.posterior(noisy, chosen, level)
        return expected, error[:, None, None]
