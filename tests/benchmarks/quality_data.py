"""Public image sets for the quality table: read once, dealt to sites, and kept as the caches that an ingest writes.

Each image is its own patient, since none of these sets names its patients. A cache is made once for each set, split and
image form and lent to every run that needs it: what a hospital opens is the very file its own admission would have
written, only the DICOM in between is left out.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.admission.cache_writer import Content, exclusive, write_generation
from client.admission.settings import IngestSettings
from client.cohort.cache import CACHE_FOLDER, CURRENT
from common.errors import SourceError
from common.plan.study_plan import StudyPlan
from deploy.data.sources import open_source
from deploy.data.split import split_patients
from tests.benchmarks.quality_plans import Cell

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = {
    "fashion-mnist": Path("/usr/share/datasets/fashion-mnist"),  # where Debian's dataset-fashion-mnist puts it
    "mnist": SHARED / "mnist",
    "pneumonia": SHARED / "medmnist28" / "pneumoniamnist.npz",
    "mednist": SHARED / "mednist64",
}
MEDNIST = ("CXR", "AbdomenCT", "Hand")
MEDNIST_TEST_SHARE = 0.2
SPLIT_SEED = 0
_TRIES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Labelled images.

    Attributes:
        pixels: [n, size, size] uint8.
        labels: [n] int64.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def first(self, count: int) -> "Images":
        """The first `count` of them; all where `count` is 0."""
        return Images(pixels=self.pixels[: count or None], labels=self.labels[: count or None])

    def unit(self) -> tuple[Tensor, Tensor]:
        """Pixels [n, 1, size, size] float32 in [-1, 1], and labels [n]."""
        return torch.from_numpy(self.pixels.astype(np.float32) / 127.5 - 1)[:, None], torch.from_numpy(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A public image set: the part that trains and the part that is held out for every judge."""

    train: Images
    test: Images


def present(name: str) -> bool:
    """Whether the set is on this machine."""
    return FOLDERS[name].exists()


@functools.lru_cache(maxsize=1)
def data_set(name: str) -> DataSet:
    """Read a public image set.

    MedNIST has no held-out part: a fifth is set aside by a hash of the pixels, so that two copies of one image, which
    AbdomenCT has, are never on both sides; of copies one stays.

    Raises:
        SourceError: The set is not on this machine, or is not what it should be.
    """
    folder = FOLDERS[name]
    if name != "mednist":
        return DataSet(train=_part(folder, "train"), test=_part(folder, "test"))
    found: dict[bytes, tuple[NDArray[np.uint8], int]] = {}
    for label, part in enumerate(MEDNIST):
        with open_source(folder / f"{part}.zip") as items:
            for item in items:
                pixels = np.asarray(item.read(), dtype=np.uint8)
                found.setdefault(hashlib.sha256(pixels.tobytes()).digest(), (pixels, label))
    held = {key for key in found if int.from_bytes(key[:4], "big") < MEDNIST_TEST_SHARE * 2**32}
    return DataSet(
        train=_images([pair for key, pair in found.items() if key not in held]),
        test=_images([pair for key, pair in found.items() if key in held]),
    )


def _part(folder: Path, part: str) -> Images:
    with open_source(folder, parts=(part,)) as items:
        return _images([(np.asarray(item.read(), dtype=np.uint8), int(item.label)) for item in items])


def _images(pairs: list[tuple[NDArray[np.uint8], int]]) -> Images:
    return Images(
        pixels=np.stack([pixels for pixels, _ in pairs]), labels=np.array([label for _, label in pairs], np.int64)
    )


def train_part(cell: Cell) -> Images:
    """The images that a cell's sites share: the whole training part, or its limit drawn in one fixed order."""
    if not cell.limit:
        return data_set(cell.data).train
    return _chosen(cell, slice(None, cell.limit))


def held_back(cell: Cell) -> Images:
    """The training images that a limited cell's sites never see."""
    return _chosen(cell, slice(cell.limit, None))


def _chosen(cell: Cell, part: slice) -> Images:
    train = data_set(cell.data).train
    order = np.random.default_rng(SPLIT_SEED).permutation(len(train.labels))[part]
    return Images(pixels=train.pixels[order], labels=train.labels[order])


def dealt(labels: NDArray[np.int64], *, sites: int, split: str, fewest: int) -> list[NDArray[np.int64]]:
    """Deal images to sites by the product's own split, so that every site is one a plan would admit.

    A plan asks for `fewest` patients and for every label at every site. A skewed draw that leaves a site too small is
    drawn again with the next seed; a label that it leaves a site without is given one image by the site that has most.

    Args:
        labels: [n].
        sites: Number of sites.
        split: As in `deploy.data.split.split_patients`.
        fewest: Fewest images of a site.

    Returns:
        Rows of each site, ascending.

    Raises:
        SourceError: No draw gives every site `fewest`.
    """
    names = [f"{row:06d}" for row in range(len(labels))]
    counts = dict.fromkeys(names, 1)
    classes = {name: f"{label:03d}" for name, label in zip(names, labels.tolist(), strict=True)}
    for seed in range(SPLIT_SEED, SPLIT_SEED + _TRIES):
        parts = split_patients(counts, classes, sites=sites, split=split, seed=seed)
        if min(map(len, parts)) >= fewest:
            return _with_every_label([np.array(part, dtype=np.int64) for part in parts], labels)
    raise SourceError(
        f"no {split} split of {len(labels)} images over {sites} sites leaves each {fewest}. Take fewer sites"
    )


def _with_every_label(parts: list[NDArray[np.int64]], labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    for label in np.unique(labels):
        held = [int((labels[part] == label).sum()) for part in parts]
        for site in [site for site, count in enumerate(held) if not count]:
            giver = int(np.argmax(held))
            row = parts[giver][labels[parts[giver]] == label][0]
            parts[giver] = parts[giver][parts[giver] != row]
            parts[site] = np.sort(np.append(parts[site], row))
            held[giver], held[site] = held[giver] - 1, 1
    return parts


def caches(cell: Cell, plan: StudyPlan, store: Path) -> list[Path]:
    """The cache folder of each site of a cell, made on first use.

    Args:
        cell: The cell; its method and epsilon play no part.
        plan: Its plan; only the image form and the smallest cohort play a part.
        store: Folder that keeps caches.
    """
    settings = IngestSettings.from_plan(plan).digest
    fewest = plan.data.min_patients
    key = f"{cell.data} {cell.sites} {cell.split} {cell.limit} {fewest} {SPLIT_SEED} {settings}"
    folder = store / f"{cell.data}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    homes = [folder / f"site-{number:02d}" for number in range(1, cell.sites + 1)]
    if not all((home / CACHE_FOLDER / CURRENT).exists() for home in homes):
        images = train_part(cell)
        parts = dealt(images.labels, sites=cell.sites, split=cell.split, fewest=fewest)
        for home, rows in zip(homes, parts, strict=True):
            _write(home, cell.data, images, rows, image_size=plan.data.image_size, settings=settings)
    return [home / CACHE_FOLDER for home in homes]


def _write(home: Path, data: str, images: Images, rows: NDArray[np.int64], *, image_size: int, settings: str) -> None:
    """Write one site's cache; 8-bit level v of a picture is v / 127.5 - 1, as a DICOM file of its full range gives."""
    keyed = sorted((hashlib.sha256(f"{data} {row}".encode()).hexdigest(), int(row)) for row in rows)
    content = Content(
        image_size=image_size,
        keys=[key for key, _ in keyed],
        counts=[1] * len(keyed),
        labels=[int(images.labels[row]) for _, row in keyed],
        settings=settings,
        identity=hashlib.sha256("\n".join(key for key, _ in keyed).encode()).hexdigest(),
    )
    with exclusive(home) as folder:
        write_generation(folder, content, (images.pixels[row].astype(np.uint16) * 257 for _, row in keyed))
