"""How long a round takes and how much memory it needs on this machine: measured on random images, in a second or two.

The trainer and the moments code of a hospital run on a few artificial patients. No scan, no ledger, no noise key of a
site is touched. The figures hold for this machine as busy as it is now, and for patients of as many images as the plan
takes of one patient in one step.
"""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.cache import Cache
from client.mechanism.patient_sum import patient_sum
from client.mechanism.randomness import SecureRandom
from client.mechanism.sgd import trained_rounds
from client.mechanism.trainer import PatientTrainer
from common.model.study_model import initial
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan

_PATIENTS = 16
_NOBODY = 1e-12
"""A sampling rate that draws no patient."""
_RUNS = 3
_SEED = 0
"""Random images and noise of no consequence; a fixed seed makes two calibrations alike."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Times of one machine.

    Attributes:
        step_seconds: A DP-SGD step on an empty sample: noise and optimizer.
        patient_seconds: What each sampled patient adds to a step.
        moment_seconds: What each patient adds to a moments round, by phase.
        memory_bytes: Peak resident memory of this process, which has trained and summed as a hospital's does.
        threads: Threads that computed.
    """

    step_seconds: float
    patient_seconds: float
    moment_seconds: dict[str, float]
    memory_bytes: int
    threads: int

    def seconds(self, plan: StudyPlan, step: Round, patients: int) -> float:
        """Estimate one round of `plan` at a site of `patients` patients, network and server left out.

        Args:
            plan: The plan.
            step: The round of its schedule.
            patients: Size of the cohort.
        """
        if not step.trains:
            return self.moment_seconds[step.phase] * patients
        sampled = step.event.sample_rate * patients
        return step.event.steps * (self.step_seconds + sampled * self.patient_seconds)


@dataclass(frozen=True)
class PracticeCohort:
    """Artificial patients in place of a cache: random images of the plan's size, as many each as a step takes."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, plan: StudyPlan, patients: int) -> "PracticeCohort":
        """Draw the cohort: images [patients, k, 1, size, size] in [-1, 1], labels [patients, k]."""
        generator = torch.Generator().manual_seed(_SEED)
        count, size = plan.training.images_per_patient, plan.data.image_size
        images = torch.rand((patients, count, 1, size, size), generator=generator) * 2 - 1
        return cls(images, torch.arange(patients * count).view(patients, count) % plan.data.classes)

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return int(self.images.shape[-1])

    def every_row(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All rows and whose each is, as `Cache.every_row`."""
        rows = np.arange(self.labels.numel())
        return rows, rows // self.labels.shape[1]

    def at(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The images and labels in rows, as `Cache.at`."""
        return self.images.flatten(0, 1)[rows], self.labels.flatten()[rows]

    def patients_images(
        self, indices: list[int] | Tensor, k: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At most `k` images of each patient, as `Cache.patients_images`.

        Args:
            indices: Patients.
            k: Most images of one patient.
            generator: Draws the images; None takes torch's own.
        """
        chosen = [int(i) for i in indices]
        images = self.images[chosen][:, :k]
        return images, self.labels[chosen][:, :k], torch.ones(len(chosen), images.shape[1])


def calibrate(plan: StudyPlan, *, device: torch.device | None = None) -> Calibration:
    """Run a few steps of `plan` on artificial patients and time them.

    Args:
        plan: The study plan.
        device: Where to compute; the CPU where None.

    Raises:
        PlanError: A phase of the plan trains by another trainer.
    """
    cohort = PracticeCohort.of(plan, _PATIENTS)
    rounds = {step.phase: step for step in schedule(plan)}
    empty = full = 0.0
    if trained := trained_rounds(rounds.values()):
        where = device or torch.device("cpu")
        empty = _seconds_of_a_step(plan, trained[-1], cohort, where, sample_rate=_NOBODY)
        full = _seconds_of_a_step(plan, trained[-1], cohort, where, sample_rate=1.0)
    sums = {phase: step for phase, step in rounds.items() if not step.trains}
    moment_seconds = {phase: _seconds_of_a_sum(plan, step, cohort) for phase, step in sums.items()}
    return Calibration(
        step_seconds=empty,
        patient_seconds=max(0.0, full - empty) / _PATIENTS,
        moment_seconds={phase: seconds / _PATIENTS for phase, seconds in moment_seconds.items()},
        memory_bytes=peak_memory_bytes(),
        threads=torch.get_num_threads(),
    )


def peak_memory_bytes() -> int:
    """Peak resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds_of_a_sum(plan: StudyPlan, step: Round, cohort: PracticeCohort) -> float:
    """Time one moments round before its noise."""
    weights = initial(plan).arrays()
    return _least_seconds(lambda: patient_sum(plan, step, weights, cast(Cache, cohort)))


def _seconds_of_a_step(
    plan: StudyPlan, step: Round, cohort: PracticeCohort, device: torch.device, *, sample_rate: float
) -> float:
    """Time one step of the real trainer."""
    trainer = PatientTrainer(
        initial(plan),
        cast(Cache, cohort),
        plan=plan,
        event=dataclasses.replace(step.event, steps=1, sample_rate=sample_rate),
        random=SecureRandom.simulated(_SEED),
        divisor_patients=_PATIENTS,
        device=device,
    )
    return _least_seconds(trainer.run)


def _least_seconds(work: Callable[[], object]) -> float:
    """Do `work` once to warm up, then time it; the least of a few runs, so that a busy neighbour counts less."""
    work()
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
