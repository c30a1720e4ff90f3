"""A small real training cache, written as an ingest writes it, for tests that need patients but no DICOM files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.admission.cache_writer import Content, exclusive, write_generation
from client.admission.ingest import IngestSettings
from client.cohort.cache import Cache
from client.cohort.identity import cohort_identity, site_secret
from common.plan.study_plan import DataPlan, ModelPlan, PrivacyPlan, StudyPlan, TrainingPlan


def small_plan(
    *,
    image_size: int = 28,
    labels: tuple[str, ...] = ("no", "yes"),
    min_patients: int = 8,
    phases: tuple[str, ...] = ("sgd",),
    clip_norm: float = 1.0,
    channels: tuple[int, ...] = (8, 8),
    hidden: tuple[int, ...] = (),
    covariance: Literal["shared", "class"] = "shared",
    **training: object,
) -> StudyPlan:
    """A plan whose model trains in milliseconds and whose gradients have norms near 100; `training` sets [training]."""
    return StudyPlan(
        name="small",
        data=DataPlan(image_size=image_size, labels=labels, min_patients=min_patients),
        model=ModelPlan(latent=4, channels=channels, hidden=hidden, base=6, observation_std=2.0, covariance=covariance),
        training=TrainingPlan(**{"rounds": 2, "local_steps": 2, "sample_rate": 0.5, **training}),  # type: ignore[arg-type]
        privacy=PrivacyPlan(clip_norm=clip_norm, phases=phases),
    )


def small_cohort(
    tmp_path: Path,
    *,
    patients: int = 8,
    images: int | Sequence[int] = 2,
    image_size: int = 28,
    labels: tuple[str, ...] = ("no", "yes"),
    seed: int = 0,
    plan: StudyPlan | None = None,
    alike: bool = False,
) -> Cache:
    """Write and open the cache of a cohort.

    Args:
        tmp_path: Home of the site; the cache comes to lie in `tmp_path/cache`.
        patients: Number of patients.
        images: Images of each patient, or one number for all.
        image_size: Side of the images, pixels; `plan` has the last word.
        labels: The classes, dealt out in turn; `plan` has the last word.
        seed: Of the pictures.
        plan: The plan that the cache is to pass `check_cohort` for.
        alike: Every image is the same picture.
    """
    counts = [images] * patients if isinstance(images, int) else list(images)
    assert len(counts) == patients
    settings = IngestSettings(image_size=image_size, labels=labels)
    if plan is not None:
        settings = IngestSettings.from_plan(plan)
    random = np.random.default_rng(seed)
    keys = sorted(random.bytes(16).hex() for _ in range(patients))
    content = Content(
        image_size=settings.image_size,
        keys=keys,
        counts=counts,
        labels=[i % max(1, len(settings.labels)) for i, count in enumerate(counts) for _ in range(count)],
        settings=settings.digest,
        identity=cohort_identity(site_secret(tmp_path), keys),
    )
    first = _picture(random, settings.image_size)
    pictures = (first if alike or i == 0 else _picture(random, settings.image_size) for i in range(sum(counts)))
    tmp_path.mkdir(parents=True, exist_ok=True)
    with exclusive(tmp_path) as folder:
        write_generation(folder, content, pictures)
    return Cache.open(tmp_path)


def _picture(random: np.random.Generator, size: int) -> NDArray[np.uint16]:
    y, x = np.mgrid[0:size, 0:size] / size
    wave = np.sin(2 * np.pi * (random.uniform(0.5, 3) * x + random.uniform())) * np.cos(random.uniform(1, 6) * y)
    noisy = 0.8 * wave + random.normal(0, 0.1, (size, size))
    return np.round((np.clip(noisy, -1, 1) + 1) * 32767.5).astype(np.uint16)
