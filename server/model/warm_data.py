"""Public images for the warm-up: phantoms, or the one .npz file whose digest stands in the approved plan."""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.errors import DataError, PlanError
from common.host.files import write_atomically
from common.images.phantoms import public_phantoms
from common.plan.study_plan import StudyPlan

FILE = "warm.npz"
"""The public images in a study's folder."""
_SEED = 1906
"""Of the phantoms; not the set that `server.model.scores` measures on."""
_MOST_BYTES = 2 * 1024**3
_MOST_FINE = 2**27
"""Most pixels of images that are kept at twice the plan's size, all together."""
FEWEST = 64
"""Fewest images of a file."""
_KINDS = 1000
"""Most kinds of images that a rehearsal takes its classes from."""
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise on damaged, encrypted or oddly compressed archives (NotImplementedError is a
RuntimeError)."""


def keep(plan: StudyPlan, given: Path | None, folder: Path) -> None:
    """Put the file of public images that a plan asks for into a study's folder.

    Args:
        plan: The study plan.
        given: The file; None where the folder has it already or the plan asks for none.
        folder: The study's folder.

    Raises:
        PlanError: The plan asks for a file and there is none, or for none and there is one, or it is another file.
        DataError: The file holds no images that the plan can be warmed with.
    """
    if not ("warm" in plan.privacy.phases and plan.warm.by_file):
        if given is not None:
            raise PlanError(f"plan {plan.name!r} asks for no file of public images. Leave --warm-data out")
        return
    if given is not None:
        content = _content(given)
        if hashlib.sha256(content).hexdigest() != plan.warm.source:
            raise PlanError(f"{given}: not the file that plan {plan.name!r} names by its SHA-256 as `warm.source`")
        write_atomically(folder / FILE, content)
    load(plan, folder)


def load(plan: StudyPlan, folder: Path, *, fine: bool = False) -> tuple[Tensor, Tensor]:
    """Return the public images [n, 1, size, size] in [-1, 1] and their labels [n].

    A file holds "images" [n, height, width], uint8 or floats in [-1, 1], and "labels" [n], places in the plan's labels;
    a plan without labels needs none. Images of another size are resized.

    Args:
        plan: The study plan.
        folder: The study's folder.
        fine: Returns images of twice the plan's size where those of the file are as large: a view of them that is
            taken before they are made small keeps its edges.

    Raises:
        PlanError: The plan's file is not in the study's folder, or is another file.
        DataError: The file holds no images that the plan can be warmed with.
    """
    size, classes = plan.data.image_size, plan.data.classes
    if not plan.warm.by_file:
        return public_phantoms(plan.warm.images, size=size, labels=classes, seed=_SEED)
    path = folder / FILE
    if not path.is_file() or hashlib.sha256(_content(path)).hexdigest() != plan.warm.source:
        raise PlanError(
            f"study {plan.name!r}: its file of public images is not there, or not the one of the plan. Give the .npz "
            "file of that SHA-256 with --warm-data"
        )
    images, labels = _arrays(path)
    most = _KINDS if plan.warm.studies else classes  # a rehearsal takes kinds of images, with any names in the plan
    if len(images) < FEWEST or len(labels) != len(images) or labels.min() < 0 or labels.max() >= most:
        raise DataError(
            f"{path}: {len(images)} images and {len(labels)} labels; at least {FEWEST} images are needed, and for "
            f"each a label from 0 to {most - 1}"
        )
    if fine and min(images.shape[1:]) >= 2 * size and len(images) * (2 * size) ** 2 <= _MOST_FINE:
        size = 2 * size
    batch = torch.from_numpy(images)[:, None]
    if batch.shape[2:] != (size, size):
        batch = functional.interpolate(batch, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return batch.clamp(-1.0, 1.0), torch.from_numpy(labels)


def _arrays(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read "images" and "labels"; nothing in the file is ever unpickled."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            images = file["images"]
            labels = file["labels"].reshape(-1) if "labels" in file else np.zeros(len(images), np.int64)
            right = images.ndim == 3 and len(images) > 0 and min(images.shape[1:]) >= 16
            right = right and np.issubdtype(labels.dtype, np.integer)
            if images.dtype == np.uint8:
                images = images.astype(np.float32) / 127.5 - 1.0
            right = right and np.issubdtype(images.dtype, np.floating) and bool(np.isfinite(images).all())
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a .npz file with `images` and `labels` ({type(error).__name__})") from error
    if not right or np.abs(images).max() > 1:
        raise DataError(f"{path}: `images` must be [n, height, width], uint8 or floats in [-1, 1]; `labels` integers")
    return images.astype(np.float32), labels.astype(np.int64)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: larger than {_MOST_BYTES // 1024**3} GiB. Give fewer public images")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give the .npz file of public images") from error
