"""A small hospital on disk for tests: policy, secret, a cache of smooth images as ingest writes it, approvals."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.admission.cache_writer import Content, exclusive, write_generation
from client.admission.settings import IngestSettings
from client.cohort.identity import cohort_identity, patient_key, site_secret
from client.site import policy
from common.model.array_table import shared_shapes
from common.model.study_model import initial
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainRequest

PLAN = """
name = "tiny"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 10
[model]
latent = 3
channels = [4, 8]
base = 4
[training]
rounds = 2
local_steps = 2
sample_rate = 0.5
[aggregation]
min_sites = 2
"""
POLICY = """
name = "north"
[limits]
min_patients = {minimum}
max_epsilon_per_study = {study}
max_epsilon_total = {total}
[resources]
device = "cpu"
threads = 1
"""


def tiny_plan(*extra: str, name: str = "tiny", window: str = "dicom", minimum: int = 10) -> StudyPlan:
    """The tiny plan, with more tables at its end, another name, window or minimum."""
    text = PLAN.replace('"tiny"', f'"{name}"').replace("[data]", f'[data]\nwindow = "{window}"')
    text = text.replace("min_patients = 10", f"min_patients = {minimum}")
    return StudyPlan.parse("\n".join([text, *extra]))


def set_policy(home: Path, *, minimum: int = 10, study: float = 10.0, total: float = 10.0) -> None:
    """Write site.toml with these limits."""
    (home / "site.toml").write_text(POLICY.format(minimum=minimum, study=study, total=total))


def build_home(home: Path, *plans: StudyPlan, patients: int = 12, labels: int = 2) -> Path:
    """Make a hospital of patients P0, P1, ... that has approved `plans`; the first decides the cache's form."""
    home.mkdir(parents=True, exist_ok=True)
    set_policy(home)
    fill_cache(home, plans[0], [f"P{i}" for i in range(patients)], labels=labels)
    for plan in plans:
        policy.approve(home, plan, approved_by="Dr. Steward")
    return home


def fill_cache(home: Path, plan: StudyPlan, patient_ids: list[str], *, labels: int = 2) -> None:
    """Write a cache generation that holds one to three images of each patient."""
    secret = site_secret(home)
    keys = sorted(patient_key(secret, name) for name in patient_ids)
    counts = [1 + int(key, 16) % 3 for key in keys]
    classes = [i % labels for i, count in enumerate(counts) for _ in range(count)]
    content = Content(
        image_size=plan.data.image_size,
        keys=keys,
        counts=counts,
        labels=classes,
        settings=IngestSettings.from_plan(plan).digest,
        identity=cohort_identity(secret, keys),
    )
    with exclusive(home) as folder:
        write_generation(folder, content, (image(seed, plan.data.image_size) for seed in range(sum(counts))))


def image(seed: int, size: int) -> NDArray[np.uint16]:
    """A smooth image in the cache's stored form."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    wave = np.sin(random.uniform(2, 6) * x + random.uniform(0, 6)) * np.cos(random.uniform(2, 6) * y)
    return ((wave * 0.5 + 0.5) * 65535).astype(np.uint16)


def request(plan: StudyPlan, number: int = 1, *, shift: float = 0.0) -> TrainRequest:
    """Round `number` of `plan` on its initial weights; `shift` moves them, which makes it another request."""
    shared = shared_shapes(plan)
    arrays = {
        name: (array + np.float32(shift)).astype(np.float32)
        for name, array in initial(plan).arrays().items()
        if name in shared
    }
    return TrainRequest(plan=plan.digest, round=number, arrays=arrays)
