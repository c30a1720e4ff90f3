"""Patient-level DP-SGD: each step is one subsampled Gaussian mechanism, and a round is the steps that were booked.

Formal guarantee (one step)
    Neighbouring relation: add or remove all images of one patient.
    Sampling: each patient is drawn with probability `sample_rate`, independently, by `SecureRandom`.
    Sensitivity: a drawn patient's gradient is that of the mean loss over at most K of the patient's images (and their
    views), clipped to L2 norm C, and gradients are summed in float64. So one patient moves the sum by at most C, with
    however many images (`client.mechanism.gradients` has the proof).
    Noise: standard deviation sigma C on every coordinate, drawn by `SecureRandom` and added in float64. Only the
    noised sum is rounded to the parameters' float32, once.
    What follows is post-processing: the division by a public constant (never the realised sample), the optimizer, the
    average, the reply.
    FedProx (Li et al. 2020, arXiv 1812.06127, equation 2) adds mu/2 |w - w_0|^2 to the loss. Its gradient mu (w - w_0)
    is not clipped and not noised: w_0 is the weights that the round started from, public or a site's own of
    earlier booked rounds (`client.mechanism.local_encoder`), and w a function of w_0 and of
    the noised sums of the round's earlier steps, which the accountant counts as released one by one. So the term is a
    function of what this mechanism has released already, is added after the noise, and costs nothing.
    A step that draws no patient is the same step on noise alone; it is taken and counted.
    So a step is (sigma, sample_rate)-subsampled Gaussian, and a round what its ledger entry says.

Opacus' optimizer carries sigma, C and the divisor. Its hooks are not used: their convolution samplers are silently
wrong on non-contiguous input, their unit is the image, and Opacus' loader and memory manager lose steps across rounds
(docs/sharp_edges.md).
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import nn

from client.cohort.cache import Cache
from client.mechanism import isolation
from client.mechanism.gradients import Layout, PatientGradients, book_keep_pass, clipped_sum
from client.mechanism.patient_views import passes
from client.mechanism.randomness import SecureRandom
from common.accountant.accounting import GaussianEvent
from common.errors import PlanRefused
from common.model.generator import Generator
from common.plan.study_plan import StudyPlan

_KNOWN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm, nn.GELU, nn.Identity)
"""PyTorch's layers that treat every image on its own and draw nothing; a generator names its own (`layers`)."""


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
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise")
        self._drawn: Future[NDArray[np.float64]] | None = None

    def draw_noise(self) -> None:
        """Begin to draw the step's noise on a thread of its own, while gradients are computed on another thread.

        Where those have more, the noise is drawn by `add_noise` instead: another thread that computes makes OpenMP put
        its own to sleep between operations, which costs more than the noise. The draws are the same either way, as long
        as no other code uses the source of randomness until `add_noise` has returned.
        """
        self._drawn = self._beside.submit(self._noise)

    def add_noise(self) -> None:
        """Put the clipped sum plus noise of standard deviation sigma C into `p.grad`.

        Raises:
            RuntimeError: There is no sum, or it was noised before: two noised copies of a sum hold less noise than one.
        """
        if any(parameter.summed_grad is None for parameter in self.params):
            raise RuntimeError("no clipped sum is there to add noise to, or it was noised before")
        drawn = torch.from_numpy(self._noise() if self._drawn is None else self._drawn.result())
        self._drawn = None
        for parameter, noise in zip(self.params, torch.split(drawn, [p.numel() for p in self.params]), strict=True):
            noised = noise.view_as(parameter).to(parameter.device).add_(parameter.summed_grad)
            parameter.grad = noised.to(parameter.dtype)
            parameter.summed_grad = None

    def _noise(self) -> NDArray[np.float64]:
        size = sum(parameter.numel() for parameter in self.params)
        return self._random.normal((size,), std=self.noise_multiplier * self.max_grad_norm)

    def scale_grad(self) -> None:
        """Divide by the expected number of patients: a public constant, for any draw."""
        for parameter in self.params:
            parameter.grad.div_(self.expected_batch_size)


class PatientTrainer:
    """Trains a study's model on one site's cache. Build one for each round; it holds no state across rounds."""

    def __init__(
        self,
        model: Generator,
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
            PlanRefused: The model has a buffer or a layer that is not known to keep patients apart.
        """
        refuse_unsafe(model, own=model.layers)
        self.model = model.to(device).train()
        self.cache = cache
        self.device = device
        self._training = plan.training
        self._event = event
        self._random = random
        self._generator = random.torch_generator()
        self._layout = Layout(model)
        self.slots = isolation.gradient_slots(plan, expected=event.sample_rate * divisor_patients, device=device)
        drawn_back = self._layout.parameters.values() if plan.training.proximal else ()
        self._anchor = [parameter.detach().clone() for parameter in drawn_back]
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[plan.training.optimizer]
        self.optimizer = PatientOptimizer(
            kind(self._layout.parameters.values(), lr=plan.training.learning_rate),
            random=random,
            sigma=event.sigma,
            clip_norm=plan.privacy.clip_norm,
            expected_patients=event.sample_rate * divisor_patients,
        )

    def run(self) -> None:
        """Take all the round's steps."""
        keep_heap()
        for _ in range(self._event.steps):
            self.step()

    def step(self) -> None:
        """Take one step on a fresh Poisson sample of patients."""
        sample = self._random.poisson_sample(self.cache.patients, rate=self._event.sample_rate).tolist()
        if torch.get_num_threads() == 1:
            self.optimizer.draw_noise()
        self.accumulate(sample)
        self.optimizer.add_noise()
        self.optimizer.scale_grad()
        self._draw_back()
        self.optimizer.original_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _draw_back(self) -> None:
        """Add FedProx's gradient, the way back to where the round started; see the module's guarantee."""
        if not self._training.proximal:
            return
        for parameter, start in zip(self._layout.parameters.values(), self._anchor, strict=True):
            parameter.grad.add_(parameter.detach() - start, alpha=self._training.proximal)  # type: ignore[union-attr]

    def accumulate(self, patients: list[int]) -> None:
        """Leave the sum of the patients' clipped gradients in each `summed_grad`, float64; 0 without patients."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(self._layout.size, dtype=torch.float64, device=self.device)
        clipped_sum(self.patient_gradients(patients), clip_norm=self.optimizer.max_grad_norm, total=total)
        for parameter, part in self._layout.views(total):
            parameter.summed_grad = part  # type: ignore[attr-defined]

    def patient_gradients(self, patients: list[int]) -> Iterator[PatientGradients]:
        """Yield the unclipped gradients of the mean loss of each patient, some patients at a time."""
        chosen = passes(
            self.cache,
            patients,
            training=self._training,
            draws=self.model.noise_size,
            generator=self._generator,
            slots=self.slots,
        )
        for part in chosen:
            tensors = (part.images, part.labels, part.noise, part.shares)
            images, labels, noise, shares = (value.to(self.device) for value in tensors)
            yield book_keep_pass(self._layout, self.model.loss, images, labels, noise, shares, slots=part.slots)


def keep_heap() -> None:
    """Have glibc keep freed memory for the next pass: fetching it anew from the kernel costs up to a third of a step.

    Freeing one large block raises its thresholds for giving memory back (to 31 and 62 MiB); elsewhere it does nothing.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def refuse_unsafe(model: nn.Module, *, own: tuple[type[nn.Module], ...] = ()) -> None:
    """Refuse a model whose per-patient gradients might not be of that patient alone.

    Args:
        model: The model to train.
        own: Layers that its generator names as its own (`common.model.generator.Generator.layers`). None of PyTorch's
            becomes known by it, and none with an array that gradients train.

    Raises:
        PlanRefused: The model has a buffer (running statistics, codebooks) or a layer that is not one of the few known
            to treat each image on its own: batch normalisation mixes patients, dropout draws noise that was not booked.
    """
    if buffers := [name for name, _ in model.named_buffers()]:
        raise PlanRefused(f"the model has the buffer {buffers[0]!r}; anything updated from data outside the clip leaks")
    for name, module in model.named_modules():
        if next(module.children(), None) is None and not _is_known(module, own):
            raise PlanRefused(
                f"the model's layer {name!r} ({type(module).__name__}) is not known to keep patients apart"
            )


def _is_known(layer: nn.Module, own: tuple[type[nn.Module], ...]) -> bool:
    if type(layer) in _KNOWN:
        return True
    theirs = type(layer).__module__.startswith("torch.") or any(p.requires_grad for p in layer.parameters())
    return type(layer) in own and not theirs
