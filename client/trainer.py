"""Patient-level DP-SGD: per-patient gradients by torch.func, Opacus' DPOptimizer for the clip and the noise.

Formal guarantee (one step)
    Neighbouring relation: add or remove all images of one patient. A Poisson sample holds each patient with
    probability `sample_rate`. A sampled patient's gradient is that of the mean loss over at most K of the patient's
    images; it is clipped to L2 norm C, so the sum moves by at most C. Gaussian noise of standard deviation sigma C is
    added to the sum, drawn in float64 from `SecureRandom`. The divisor is a public constant, never the realised
    sample. An empty sample takes the same step on noise alone. So each step is one subsampled Gaussian mechanism with
    noise multiplier sigma, and what follows (Adam, averaging, sending) is post-processing.

Why not Opacus' hooks: its convolution samplers are silently wrong on non-contiguous input, its per-sample unit is the
image, and its loader and memory manager lose steps across rounds (docs/sharp_edges.md).
"""

from collections.abc import Iterator

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from client.cache import Cache
from client.randomness import SecureRandom
from common.errors import PlanRefused
from common.plan import StudyPlan
from common.privacy import GaussianEvent
from common.vae import Vae

_PATIENTS_AT_ONCE = 16
"""Patients whose gradients are held at once; 8 to 32 is fastest on CPU and bounds memory."""


class PatientOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with noise from `SecureRandom`, drawn and added in float64, rounded once."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        random: SecureRandom,
        sigma: float,
        clip_norm: float,
        expected_patients: float,
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=sigma, max_grad_norm=clip_norm, expected_batch_size=expected_patients
        )
        self._random = random

    def add_noise(self) -> None:
        """Put the clipped sum plus noise of standard deviation sigma C into `p.grad`."""
        for parameter in self.params:
            total = parameter.summed_grad
            noise = self._random.normal(tuple(total.shape), std=self.noise_multiplier * self.max_grad_norm)
            noised = total.double() + torch.from_numpy(noise).to(total.device)
            parameter.grad = noised.to(parameter.dtype).view_as(parameter)
            total._processed = True  # Opacus' own mark that a sum may not be noised twice


class PatientTrainer:
    """Trains a study's model on one site's cache. Build one for each round; it holds no state across rounds."""

    def __init__(
        self,
        model: Vae,
        cache: Cache,
        *,
        plan: StudyPlan,
        event: GaussianEvent,
        random: SecureRandom,
        divisor_patients: int,
        device: torch.device,
    ) -> None:
        """Prepare a round.

        Args:
            model: The model to train, in place.
            cache: The site's patients.
            plan: The approved plan.
            event: Noise multiplier, sampling rate and steps of this round, as booked in the ledger.
            random: Source of noise and sampling.
            divisor_patients: Public cohort size that the expected sample is computed from.
            device: Where to compute.

        Raises:
            PlanRefused: The model has a buffer or a layer that mixes patients.
        """
        refuse_unsafe(model)
        self.model = model.to(device).train()
        self.cache = cache
        self.device = device
        self._event = event
        self._random = random
        self._generator = random.torch_generator()
        self._images_per_patient = plan.training.images_per_patient
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[plan.training.optimizer]
        self.optimizer = PatientOptimizer(
            kind(self._parameters.values(), lr=plan.training.learning_rate),
            random=random,
            sigma=event.sigma,
            clip_norm=plan.privacy.clip_norm,
            expected_patients=event.sample_rate * divisor_patients,
        )
        self._gradients = vmap(grad(self._patient_loss), in_dims=(None, 0, 0, 0, 0))

    def run(self) -> None:
        """Take all the round's steps."""
        for _ in range(self._event.steps):
            self.step()

    def step(self) -> None:
        """Take one step on a fresh Poisson sample of patients."""
        sample = self._random.poisson_sample(self.cache.patients, rate=self._event.sample_rate).tolist()
        self.accumulate(sample)
        self.optimizer.add_noise()
        self.optimizer.scale_grad()
        self.optimizer.original_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def accumulate(self, patients: list[int]) -> None:
        """Leave the sum of the patients' clipped gradients in each parameter's `summed_grad`; zeros for nobody."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self._parameters.values():
            parameter.summed_grad = torch.zeros_like(parameter)
        for gradients in self.patient_gradients(patients):
            for name, parameter in self._parameters.items():
                parameter.grad_sample = gradients[name]
            self.optimizer.clip_and_accumulate()
        for parameter in self._parameters.values():
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)

    def patient_gradients(self, patients: list[int]) -> Iterator[dict[str, Tensor]]:
        """Yield unclipped gradients [p, *shape] by parameter, for at most 16 patients at a time.

        A patient whose gradient is not finite contributes zeros: one NaN would otherwise void every patient's step.
        """
        latent = self.model.latent_size
        for first in range(0, len(patients), _PATIENTS_AT_ONCE):
            chosen = patients[first : first + _PATIENTS_AT_ONCE]
            x, y, w = self.cache.patients_images(chosen, self._images_per_patient, self._generator)
            noise = torch.randn((len(chosen), x.shape[1], latent), generator=self._generator)
            frozen = {name: p.detach() for name, p in self._parameters.items()}
            gradients = self._gradients(frozen, *(part.to(self.device) for part in (x, y, w, noise)))
            finite = torch.stack([g.flatten(1).isfinite().all(1) for g in gradients.values()]).all(0)
            yield {name: torch.where(finite.view(-1, *(1,) * (g.dim() - 1)), g, 0.0) for name, g in gradients.items()}

    def _patient_loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        losses: Tensor = functional_call(
            _Loss(self.model),
            {f"model.{k}": v for k, v in {**self._fixed, **parameters}.items()},
            (x, y, noise),
        )
        mean: Tensor = (losses * w).sum() / w.sum().clamp(min=1.0)
        return mean


class _Loss(nn.Module):
    """Makes `Vae.loss` the forward call that `functional_call` runs."""

    def __init__(self, model: Vae) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return self.model.loss(x, y, noise)


def refuse_unsafe(model: nn.Module) -> None:
    """Refuse a model whose per-patient gradients would not be of that patient alone.

    Raises:
        PlanRefused: The model has a buffer (running statistics, codebooks), batch normalisation, or dropout.
    """
    if buffers := [name for name, _ in model.named_buffers()]:
        raise PlanRefused(f"the model has the buffer {buffers[0]!r}; anything updated from data outside the clip leaks")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise PlanRefused(
                f"the model's layer {name!r} ({type(module).__name__}) mixes patients or draws unseen noise"
            )
