"""Paediatric chest radiographs with patient numbers (Kermany et al. 2018) for the generator's table: read and dealt.

The set is the Kaggle copy at 224 pixels with a table of patients. Patients are dealt to sites by the product's own
split, and each site's cache is what its own admission would have written, all images of a patient included.
"""

import csv
import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.admission.cache_writer import Content, exclusive, write_generation
from client.admission.settings import IngestSettings
from client.cohort.cache import CACHE_FOLDER, CURRENT
from common.plan.study_plan import StudyPlan
from deploy.data.split import split_patients
from tests.benchmarks.quality_data import SHARED, SPLIT_SEED

FOLDER = SHARED / "kermany_cxr_224"
LABELS = ("normal", "pneumonia")
PATIENTS = 2846
"""Of the training part; public."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scans:
    """Scans with their patients: pixels [n, size, size] uint8, labels [n], and a patient's name for each."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: list[str]


@functools.lru_cache(maxsize=4)
def part(name: str, size: int) -> Scans:
    """The part "train" or "test" at `size` pixels on a side."""
    with (FOLDER / "images.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == name]
    pixels = []
    with zipfile.ZipFile(FOLDER / "images.zip") as archive:
        for row in rows:
            with Image.open(io.BytesIO(archive.read(row["file"]))) as picture:
                pixels.append(np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BOX)))
    labels = np.array([LABELS.index(row["label"]) for row in rows], dtype=np.int64)
    return Scans(pixels=np.stack(pixels), labels=labels, patients=[row["patient_id"] for row in rows])


def caches(plan: StudyPlan, store: Path, *, sites: int) -> list[Path]:
    """The cache folder of each site, made on first use."""
    settings = IngestSettings.from_plan(plan).digest
    folder = store / f"kermany-{sites}-{settings[:16]}"
    homes = [folder / f"site-{number:02d}" for number in range(1, sites + 1)]
    if not all((home / CACHE_FOLDER / CURRENT).exists() for home in homes):
        scans = part("train", plan.data.image_size)
        rows: dict[str, list[int]] = {}
        for row, patient in enumerate(scans.patients):
            rows.setdefault(patient, []).append(row)
        counts = {patient: len(own) for patient, own in rows.items()}
        classes = {patient: str(scans.labels[own[0]]) for patient, own in rows.items()}
        dealt = split_patients(counts, classes, sites=sites, split="iid", seed=SPLIT_SEED)
        for home, patients in zip(homes, dealt, strict=True):
            _write(home, scans, {patient: rows[patient] for patient in patients}, plan, settings)
    return [home / CACHE_FOLDER for home in homes]


def _write(home: Path, scans: Scans, rows: dict[str, list[int]], plan: StudyPlan, settings: str) -> None:
    keyed = sorted((hashlib.sha256(f"kermany {patient}".encode()).hexdigest(), own) for patient, own in rows.items())
    content = Content(
        image_size=plan.data.image_size,
        keys=[key for key, _ in keyed],
        counts=[len(own) for _, own in keyed],
        labels=[int(scans.labels[row]) for _, own in keyed for row in own],
        settings=settings,
        identity=hashlib.sha256("\n".join(key for key, _ in keyed).encode()).hexdigest(),
    )
    with exclusive(home) as folder:
        write_generation(
            folder, content, (scans.pixels[row].astype(np.uint16) * 257 for _, own in keyed for row in own)
        )
