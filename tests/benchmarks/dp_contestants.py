"""Five ways to take one training step on the same passes: without privacy, ours, and three that Opacus offers."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from client.mechanism.patient_views import Pass, passes, slots_of
from client.mechanism.randomness import SecureRandom
from client.mechanism.trainer import PatientTrainer
from common.accountant.accounting import GaussianEvent
from common.model.generator import Generator
from common.model.study_model import initial
from common.plan.study_plan import DataPlan, ModelPlan, PrivacyPlan, StudyPlan, TrainingPlan
from tests.client.cohorts import small_cohort

SIGMA = 1.0


class Contestant(Protocol):
    """Takes one step on the whole cohort."""

    def step(self) -> None: ...


class Setting:
    """A cohort of which every patient takes part in every step, and a plan for it."""

    def __init__(self, *, size: int, images: int, patients: int) -> None:
        self.plan = StudyPlan(
            name="bench",
            data=DataPlan(image_size=size, labels=("no", "yes"), min_patients=2),
            model=ModelPlan(channels=(16, 32, 64) if size > 64 else (16, 32)),
            training=TrainingPlan(images_per_patient=images, sample_rate=1.0),
            privacy=PrivacyPlan(phases=("sgd",)),
        )
        with tempfile.TemporaryDirectory() as folder:
            self.cache = small_cohort(Path(folder), patients=patients, images=images, plan=self.plan)
        self.patients = list(range(patients))

    def model(self) -> Generator:
        return initial(self.plan)

    def passes(self, generator: torch.Generator) -> Iterator[Pass]:
        latent = self.plan.model.latent
        training, size = self.plan.training, self.plan.data.image_size
        slots = slots_of(training, size=size, expected=len(self.patients))
        return passes(self.cache, self.patients, training=training, draws=latent, generator=generator, slots=slots)


class Plain:
    """The same step without clipping and noise."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.model = setting, setting.model()
        self.generator = torch.Generator().manual_seed(0)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=setting.plan.training.learning_rate)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for part in self.setting.passes(self.generator):
            losses = self.model.loss(part.images, part.labels, part.noise)
            losses.backward(part.shares / len(self.setting.patients))
        self.optimizer.step()


class Everybody(SecureRandom):
    """Draws every patient, as the others do."""

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        return np.arange(population)


class Silent(Everybody):
    """Has no noise, and takes no time to say so."""

    def normal(self, shape: tuple[int, ...], *, std: float) -> NDArray[np.float64]:
        return np.zeros(shape)


class Ours:
    """The trainer that hospitals run."""

    def __init__(self, setting: Setting, *, noise: bool = True) -> None:
        self.trainer = PatientTrainer(
            setting.model(),
            setting.cache,
            plan=setting.plan,
            event=GaussianEvent(sigma=SIGMA, sample_rate=1.0, steps=1),
            random=Everybody.from_os() if noise else Silent.from_os(),
            divisor_patients=len(setting.patients),
            device=torch.device("cpu"),
        )
        self.step = self.trainer.step


class _Losses(nn.Module):
    """Makes `Vae.loss` the forward call that Opacus' wrappers see."""

    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        return self.model.loss(images, labels, noise)


class _ByPatient(DPOptimizer):
    """Opacus' optimizer on rows of images: a patient's rows are summed before they are clipped."""

    patients: int = 0

    def _get_flat_grad_sample(self, p: Tensor) -> Tensor:
        rows = super()._get_flat_grad_sample(p)
        return rows.view(self.patients, -1, *rows.shape[1:]).sum(1)


class Hooks:
    """Opacus' hooks, rows of images regrouped by patient."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.generator = torch.Generator().manual_seed(0)
        self.module = GradSampleModule(_Losses(setting.model()), loss_reduction="sum")
        self.optimizer = _ByPatient(_adam(self.module, setting), **_privacy(setting))

    def step(self) -> None:
        parts = list(self.setting.passes(self.generator))
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, start=1):
            losses = self.module(part.images, part.labels, part.noise)
            losses.backward(part.shares)
            self.optimizer.patients = part.slots
            _advance(self.optimizer, last=number == len(parts))


class Ghost:
    """Opacus' ghost clipping: two backward passes. Its unit is the image: it does not do what the others do."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.generator = torch.Generator().manual_seed(0)
        clip = setting.plan.privacy.clip_norm
        losses = _Losses(setting.model())
        self.module = GradSampleModuleFastGradientClipping(losses, max_grad_norm=clip, loss_reduction="sum")
        self.optimizer = DPOptimizerFastGradientClipping(_adam(self.module, setting), **_privacy(setting))

    def step(self) -> None:
        parts = list(self.setting.passes(self.generator))
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, start=1):
            losses = self.module(part.images, part.labels, part.noise)
            DPTensorFastGradientClipping(self.module, self.optimizer, losses, "sum").backward()
            self.module.enable_hooks()
            _advance(self.optimizer, last=number == len(parts))


class Vmap:
    """`torch.func.vmap` over patients, handed to Opacus' optimizer as its `no_op` mode has it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.generator = torch.Generator().manual_seed(0)
        self.module = _Losses(setting.model())
        self.trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.fixed = {name: p.detach() for name, p in self.module.named_parameters() if not p.requires_grad}
        self.optimizer = DPOptimizer(_adam(self.module, setting), **_privacy(setting))
        self.gradients = vmap(grad(self._loss), in_dims=(None, 0, 0, 0))

    def _loss(self, trained: dict[str, Tensor], images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        return functional_call(self.module, {**self.fixed, **trained}, (images, labels, noise)).mean()

    def step(self) -> None:
        parts = list(self.setting.passes(self.generator))
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, start=1):
            by_patient = partial(torch.unflatten, dim=0, sizes=(part.slots, -1))
            frozen = {name: p.detach() for name, p in self.trained.items()}
            found = self.gradients(frozen, *map(by_patient, (part.images, part.labels, part.noise)))
            for name, parameter in self.trained.items():
                parameter.grad_sample = found[name]
            _advance(self.optimizer, last=number == len(parts))


CONTESTANTS: dict[str, type[Contestant]] = {
    "plain": Plain,
    "ours": Ours,
    "hooks": Hooks,
    "ghost": Ghost,
    "vmap": Vmap,
}


def clipped_rows(contestant: Hooks | Vmap) -> Tensor:
    """The clipped sum that a contestant's last pass left; for the test that it does the same work."""
    return torch.cat([p.summed_grad.flatten().double() for p in contestant.optimizer.params])


def _adam(module: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=setting.plan.training.learning_rate)


def _privacy(setting: Setting) -> dict[str, float]:
    return {
        "noise_multiplier": SIGMA,
        "max_grad_norm": setting.plan.privacy.clip_norm,
        "expected_batch_size": len(setting.patients),
    }


def _advance(optimizer: DPOptimizer, *, last: bool) -> None:
    """Add a pass to the sum; step on the last one."""
    optimizer.signal_skip_step(do_skip=not last)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
