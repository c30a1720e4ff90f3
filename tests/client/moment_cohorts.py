"""Cohorts whose every pixel a test chooses, written as an ingest writes its cache, for tests of the moments phase."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.admission.cache_writer import Content, exclusive, write_generation
from client.admission.settings import IngestSettings
from client.cohort.cache import Cache
from common.images.pixels import unit_to_uint16
from common.plan.study_plan import StudyPlan

Patient = tuple[NDArray[np.float32], Sequence[int]]
"""Images [n, size, size] in [-1, 1] and their n labels."""

PLAN = """
name = "moments"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 2
[model]
latent = 3
channels = [4, 8]
base = 4
[training]
rounds = 0
[privacy]
phases = ["moments"]
"""


def moments_plan(*, private: bool = True, components: int = 1, covariance: str = "shared") -> StudyPlan:
    """A plan of the moments rounds: three, with components seven, by class two; no noise where `private` is false."""
    text = PLAN.replace("base = 4", f'base = 4\ncomponents = {components}\ncovariance = "{covariance}"')
    return StudyPlan.parse(text + ("" if private else "enabled = false\n"))


def cache_of(home: Path, plan: StudyPlan, patients: Sequence[Patient]) -> Cache:
    """Write and open the cache of these patients, in this order."""
    home.mkdir(parents=True, exist_ok=True)
    content = Content(
        image_size=plan.data.image_size,
        keys=[f"{i:064x}" for i in range(len(patients))],
        counts=[len(labels) for _, labels in patients],
        labels=[label for _, labels in patients for label in labels],
        settings=IngestSettings.from_plan(plan).digest,
        identity="c" * 64,
    )
    stored = (unit_to_uint16(torch.from_numpy(image)) for images, _ in patients for image in images)
    with exclusive(home) as folder:
        write_generation(folder, content, stored)
    return Cache.open(home)


def random_patients(count: int, *, seed: int, size: int = 28, most_images: int = 3) -> list[Patient]:
    """Patients of one to `most_images` noisy images around a gradient, labels dealt at random."""
    random = np.random.default_rng(seed)
    slope = np.linspace(-0.5, 0.5, size)
    patients: list[Patient] = []
    for _ in range(count):
        number = int(random.integers(1, most_images + 1))
        images = slope[None, :, None] * random.uniform(0.2, 1, (number, 1, 1)) + random.normal(
            0, 0.1, (number, size, size)
        )
        patients.append((np.clip(images, -1, 1).astype(np.float32), random.integers(0, 2, number).tolist()))
    return patients


def rounding_basis(directions: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A basis whose product with every image with a black frame is 0, so that what is left of it is rounding alone."""
    basis = np.zeros((28, 28, directions), np.float32)
    for column in range(directions):
        values = (random.normal(size=60) * 10.0 ** random.uniform(20, 36, 60)).astype(np.float32).tolist()
        while math.fsum(values):  # of many magnitudes, so that float64 holds no partial sum exactly
            values.append(float(np.float32(-math.fsum(values))))
        frame = np.zeros(6 * 28, np.float32)
        frame[random.permutation(len(frame))[: len(values)]] = values
        basis[[0, 1, 2, 25, 26, 27], :, column] = frame.reshape(6, 28)
    return basis.reshape(784, -1)
