"""The training cache: admitted images by patient, memory-mapped, checked once and read-only from then on.

    home/cache/CURRENT, forms/          which generation is in use, see `client.cohort.forms`
    home/cache/<generation>/images.npy  uint16 [images, size, size], see common.images.pixels.unit_to_uint16
                            labels.npy  int64 [images]
                            offsets.npy int64 [patients + 1]: images of patient i are offsets[i] to offsets[i + 1]
                            index.json  digests of the three, settings, identity; its own SHA-256 names the generation

Patients stand in the order of their keys, images of a patient in the order of SOP instance UID and frame.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from client.cohort.forms import (
    CACHE_FOLDER,
    CURRENT,
    FORMS,
    NAME_LENGTH,
    current_generation,
    in_use,
    peek,
    require,
)
from common.errors import CacheCorrupt
from common.plan.study_plan import StudyPlan

if TYPE_CHECKING:  # PyTorch takes seconds to import, and most commands read no image
    import torch
    from torch import Tensor

__all__ = ["CACHE_FOLDER", "CURRENT", "Cache", "current_generation"]

SCHEMA = 1
ARRAYS = ("images.npy", "labels.npy", "offsets.npy")
_CHUNK = 1 << 22


class Cache:
    """One generation of a site's cache.

    Attributes:
        settings_digest: `IngestSettings.digest` it was made with.
        identity: The data set's identity for the privacy ledger, see `client.cohort.identity.cohort_identity`.
        generation: Name of the generation.
        patient_keys: The patients' keys, in order.
        remembered: Whether `client.cohort.people` knew all its patients when it came into use; False in older ones.
    """

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.settings_digest: str = index["settings"]
        self.identity: str = index["identity"]
        self.generation = folder.name
        self.patient_keys: tuple[str, ...] = tuple(index["keys"])
        self.remembered = bool(index.get("remembered", False))
        self._images: NDArray[np.uint16] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        self._labels: NDArray[np.int64] = np.load(folder / "labels.npy", allow_pickle=False)
        self._offsets: list[int] = np.load(folder / "offsets.npy", allow_pickle=False).tolist()

    @classmethod
    def open(cls, home: Path, form: str = "", *, plan: StudyPlan | None = None) -> Self:
        """Open the generation in use, checking every byte.

        Args:
            home: The site's home.
            form: Digest of a form; "" is that of `plan`, or without one that of the last ingest.
            plan: The plan that asks for it.

        Raises:
            CacheMissing: Nothing was ingested in this form.
            CacheCorrupt: A part is missing, or a digest fails.
        """
        form = form or (in_use(home, plan) if plan is not None else "")
        name = require(home, form, plan=plan)
        folder = home / CACHE_FOLDER / name
        try:
            cache = cls(folder, checked_index(folder))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CacheCorrupt(
                f"the training cache in {home} fails its check ({type(error).__name__}). "
                "Run `wardround site ingest` again"
            ) from error
        cache._check_shapes()
        if form not in ("", cache.settings_digest):
            raise CacheCorrupt(f"the training cache in {folder} is of another image form than its pointer says")
        return cache

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self._offsets) - 1

    @property
    def images(self) -> int:
        """Number of images."""
        return self._offsets[-1]

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return int(self._images.shape[-1])

    def label_counts(self) -> list[int]:
        """Return the number of patients that have an image of each label; for checks inside the site only."""
        counts: list[int] = []
        for patient in range(self.patients):
            for label in self.patient_labels(patient):
                counts.extend([0] * (label + 1 - len(counts)))
                counts[label] += 1
        return counts

    def patient_labels(self, i: int) -> set[int]:
        """Return the labels that images of one patient have; no pixel is read."""
        return set(self._labels[self._rows(i)].tolist())

    def patient(self, i: int) -> "tuple[Tensor, Tensor]":
        """Return all images and labels of one patient.

        Args:
            i: Index of the patient, from 0.

        Returns:
            [n, 1, size, size] float32 in [-1, 1], and [n] int64.

        Raises:
            IndexError: No such patient.
        """
        if not 0 <= i < self.patients:
            raise IndexError(f"patient {i} asked for, the cache has {self.patients}")
        rows = self._rows(i)
        return _tensors(self._images[rows], self._labels[rows].copy())

    def every_row(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of all images, patient by patient, and the patient that each is of; both [images]."""
        rows = [self.patient_rows(i) for i in range(self.patients)]
        owners = np.repeat(np.arange(len(rows)), np.array([len(own) for own in rows], dtype=np.int64))
        return np.array([row for own in rows for row in own], dtype=np.int64), owners

    def at(self, rows: NDArray[np.int64]) -> "tuple[Tensor, Tensor]":
        """Return the images and labels in rows that `every_row` named; shapes as in `patient`."""
        return _tensors(self._images[rows], self._labels[rows])

    def patients_images(
        self, indices: "list[int] | Tensor", k: int, generator: "torch.Generator | None" = None
    ) -> "tuple[Tensor, Tensor, Tensor]":
        """Return at most `k` images of each patient, for `vmap` over patients.

        Args:
            indices: P patients, from 0; one may be named more than once.
            k: Most images of one patient; of one that has more, `k` are drawn without replacement.
            generator: Source of that draw.

        Returns:
            Images [P, k, 1, size, size] float32, labels [P, k] int64, and weights [P, k] float32: 1 for an image, 0 for
            padding, whose pixels and labels are 0.

        Raises:
            IndexError: No such patient.
        """
        import torch

        patients = [int(i) for i in indices]
        rows = np.zeros((len(patients), k), dtype=np.int64)
        weights = torch.zeros(len(patients), k)
        for place, i in enumerate(patients):
            if not 0 <= i < self.patients:
                raise IndexError(f"patient {i} asked for, the cache has {self.patients}")
            first, last = self._offsets[i], self._offsets[i + 1]
            count = min(k, last - first)
            if last - first > k:
                rows[place] = first + torch.randperm(last - first, generator=generator)[:k].numpy()
            else:
                rows[place, :count] = range(first, last)
            weights[place, :count] = 1.0
        present = weights.numpy() > 0
        size = self.image_size
        x = torch.zeros(len(patients), k, 1, size, size)
        y = torch.zeros(len(patients), k, dtype=torch.int64)
        mask = torch.from_numpy(present)
        x[mask], y[mask] = _tensors(self._images[rows[present]], self._labels[rows[present]])
        return x, y, weights

    def stored(self, first: int, last: int) -> NDArray[np.uint16]:
        """Return images `first` to `last` in their stored form, for the next ingest."""
        return self._images[first:last]

    def patient_rows(self, i: int) -> range:
        """Return the rows of one patient's images."""
        return range(self._offsets[i], self._offsets[i + 1])

    def _rows(self, patient: int) -> slice:
        return slice(self._offsets[patient], self._offsets[patient + 1])

    def _check_shapes(self) -> None:
        offsets = np.asarray(self._offsets)
        right = (
            self._images.ndim == 3 and self._images.dtype == np.uint16
            and self._labels.shape == (len(self._images),) and len(offsets) >= 1 and offsets[0] == 0
            and offsets[-1] == len(self._images) and (np.diff(offsets) > 0).all()
            and len(self.patient_keys) == self.patients
        )  # fmt: skip
        if not right:
            raise CacheCorrupt("the training cache contradicts itself. Run `wardround site ingest` again")


def generation_name(index: bytes) -> str:
    """Return the name of the generation that `index` (the bytes of index.json) describes."""
    return hashlib.sha256(index).hexdigest()[:NAME_LENGTH]


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    seal = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            seal.update(chunk)
    return seal.hexdigest()


def is_remembered(home: Path) -> bool:
    """Whether any cache of the home says that `client.cohort.people` knows its patients; nothing of it is checked."""
    folders = (path.parent.name for path in (home / CACHE_FOLDER).glob("*/index.json"))
    return any(peek(home, name).get("remembered") for name in folders)


@dataclass(frozen=True, kw_only=True)
class Everything:
    """All that can be read of a home's caches, in any state.

    Attributes:
        caches: Those that pass their check, one of each form.
        damaged: How many forms have none that does.
        named: Keys that the indexes of what is left name, unchecked; nothing where no form is damaged.
    """

    caches: tuple[Cache, ...]
    damaged: int
    named: frozenset[str]

    @classmethod
    def of(cls, home: Path) -> Self:
        """Read every form's cache, and go on where one is damaged."""
        folder, whole, damaged = home / CACHE_FOLDER, dict[str, Cache](), 0
        for form in [*sorted(path.name for path in (folder / FORMS).glob("[0-9a-f]*")), ""]:
            try:
                if form or current_generation(home) not in {None, *whole}:
                    cache = Cache.open(home, form)
                    whole[cache.generation] = cache
            except CacheCorrupt:
                damaged += 1
        left = {path.parent.name for path in folder.glob("*/index.json")} - whole.keys() if damaged else ()
        named = frozenset(str(key) for name in left for key in peek(home, name).get("keys", ()))
        return cls(caches=tuple(whole.values()), damaged=damaged, named=named)


def checked_index(folder: Path) -> dict[str, Any]:
    """Return a generation's index after comparing it with the folder's name, and the arrays with it.

    Raises:
        OSError: A file is missing or cannot be read.
        KeyError: The index lacks a key.
        ValueError: A digest differs, or the index is no JSON.
    """
    raw = (folder / "index.json").read_bytes()
    if generation_name(raw) != folder.name:
        raise ValueError("index.json")
    index: dict[str, Any] = json.loads(raw)
    if index["schema"] != SCHEMA:
        raise ValueError("schema")
    for name in ARRAYS:
        if file_digest(folder / name) != index["arrays"][name]:
            raise ValueError(name)
    return index


def _tensors(images: NDArray[np.uint16], labels: NDArray[np.int64]) -> "tuple[Tensor, Tensor]":
    """Stored images as [n, 1, size, size] float32 in [-1, 1], and their labels as [n] int64."""
    import torch

    from common.images.pixels import uint16_to_unit

    return uint16_to_unit(images).unsqueeze(1), torch.from_numpy(labels)
