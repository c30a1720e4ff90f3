"""Images of an import source, one by one, in any form: arrays, class folders, tables, DICOM.

An item knows its patient, its label and how to read it; nothing is read before it is asked for.
"""

import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from common.errors import SourceError
from deploy.data.archives import Files, open_files
from deploy.data.tables import Table, read_table

ACCEPTED = (
    "a MedMNIST .npz; a folder of MNIST idx .gz files; a folder or .zip of class folders of images; "
    "a folder or .zip of images with --csv; a folder or .zip of DICOM files"
)
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm"})
_IDX_PARTS = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a source.

    Attributes:
        name: Unique within the source; UIDs derive from it.
        patient: Patient it belongs to, at most 64 characters.
        label: Its label; empty for none.
        read: Returns [height, width] uint8 or uint16 to be written as DICOM, or the bytes of a DICOM file to
            be copied as it is. Raises `OSError` or `ValueError` for a broken image.
    """

    name: str
    patient: str
    label: str
    read: Callable[[], NDArray[Any] | bytes]


COLOUR = (
    "the source holds pictures in colour; a study's images are grey. Convert them first, and choose how "
    "(luminance, one channel), since that decides what the study sees."
)
"""What is said of colour, in arrays and in picture files alike."""
_CHANNELS, _MOST = (1, 3, 4), 65535
_SAME_GREY = 8
"""Levels that the channels of a grey JPEG may differ by."""


@contextmanager
def open_source(
    source: Path,
    *,
    table: Table | None = None,
    parts: tuple[str, ...] = ("train",),
    label_names: tuple[str, ...] | None = None,
    limit: int | None = None,
) -> Iterator[list[Item]]:
    """List the images of a source; they can be read while the block runs.

    Args:
        source: One of the forms of `ACCEPTED`.
        table: Which columns of which CSV file name patient, label and file of each image.
        parts: Which parts of a MedMNIST file (train, val, test) or of MNIST (train, test).
        label_names: Names of the classes 0, 1, ... of arrays; the numbers themselves where None.
        limit: Most images to list, of each class folder where there are class folders; elsewhere the classes share it
            as evenly as they can.

    Raises:
        SourceError: The form is unknown or broken, or lacks what was asked for.
    """
    if not source.is_dir() and not (source.is_file() and zipfile.is_zipfile(source)):
        state = "is neither a folder nor a zip-like file" if source.exists() else "is not there"
        raise SourceError(f"{source} was asked for as source, but {state}. Accepted: {ACCEPTED}.")
    if source.suffix.lower() == ".npz":
        yield _evenly(_npz_items(source, parts, label_names), limit)
        return
    with open_files(source) as files:
        if any(name.endswith("-idx3-ubyte.gz") for name in files):
            yield _evenly(_idx_items(files, parts, label_names), limit)
        elif table is not None:
            yield _evenly(_table_items(_pictures(files), table), limit)
        elif any(name.lower().endswith(".dcm") for name in files) or not (pictures := _pictures(files)):
            yield _dicom_items(source, files)[:limit]
        else:
            yield _class_items(pictures, limit)


def _evenly(items: list[Item], limit: int | None) -> list[Item]:
    """Take `limit` items in their order, as many of each class as of the others; tables are often sorted by class."""
    if limit is None:
        return items
    turns: dict[str, int] = {}
    ranked = []
    for number, item in enumerate(items):
        turns[item.label] = turns.get(item.label, 0) + 1
        ranked.append((turns[item.label], number))
    return [items[number] for number in sorted(number for _, number in sorted(ranked)[:limit])]


def _grey_of(colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [..., h, w] of [..., h, w, 3] whose channels say the same; colour itself is not imported yet."""
    if int(np.ptp(colour.astype(np.int16), axis=-1).max(initial=0)) > _SAME_GREY:
        raise SourceError(COLOUR)
    return colour[..., 1]


def _pictures(files: Files) -> Files:
    return {name: read for name, read in files.items() if PurePosixPath(name).suffix.lower() in _IMAGES}


def _npz_items(source: Path, parts: tuple[str, ...], label_names: tuple[str, ...] | None) -> list[Item]:
    items: list[Item] = []
    try:
        with np.load(source, allow_pickle=False) as arrays:
            for part in parts:
                if f"{part}_images" not in arrays or f"{part}_labels" not in arrays:
                    known = sorted({key.rpartition("_")[0] for key in arrays})
                    raise SourceError(f"{source} has no part {part!r}; it has {', '.join(known)}.")
                images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
                items += _array_items(part, images, labels, label_names)
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError(f"{source} cannot be read as .npz of plain arrays ({type(error).__name__}).") from error
    return items


def _array_items(
    part: str, images: NDArray[Any], labels: NDArray[Any], label_names: tuple[str, ...] | None
) -> list[Item]:
    """Items of an array of grey uint8 images [n, h, w] with labels [n] or [n, 1]; each its own patient."""
    if images.ndim == 4 and images.shape[-1] in _CHANNELS and images.dtype == np.uint8:
        images = _grey_of(images[..., :3]) if images.shape[-1] > 1 else images[..., 0]
    if images.ndim != 3 or images.dtype != np.uint8:
        raise SourceError(f"part {part!r} holds {images.dtype} {list(images.shape)}; grey uint8 [n, h, w] is needed.")
    if labels.size != len(images):
        raise SourceError(f"part {part!r} has {labels.size} labels for {len(images)} images; one each is needed.")
    numbers = [int(value) for value in labels.ravel()]
    if label_names is not None and numbers and not 0 <= min(numbers) <= max(numbers) < len(label_names):
        raise SourceError(f"part {part!r} has labels up to {max(numbers)}, but {len(label_names)} names were given.")
    return [
        Item(
            name=f"{part}-{index:06d}",
            patient=f"{part}-{index:06d}",
            read=partial(np.asarray, image),
            label=str(number) if label_names is None else label_names[number],
        )
        for index, (image, number) in enumerate(zip(images, numbers, strict=True))
    ]


def _idx_items(files: Files, parts: tuple[str, ...], label_names: tuple[str, ...] | None) -> list[Item]:
    items: list[Item] = []
    for part in parts:
        stem = _IDX_PARTS.get(part)
        names = [f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"]
        if stem is None or not all(name in files for name in names):
            raise SourceError(f"the idx files of part {part!r} are not in the folder. MNIST has train and test.")
        images, labels = (_read_idx(files[name]()) for name in names)
        items += _array_items(part, images, labels, label_names)
    return items


def _read_idx(packed: bytes) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes: 0, 0, 8, number of axes; big-endian sizes; values."""
    try:
        data = gzip.decompress(packed)
        axes = {b"\0\0\x08\1": 1, b"\0\0\x08\3": 3}[data[:4]]
        shape = struct.unpack_from(f">{axes}I", data, 4)
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, KeyError, struct.error, zlib.error, ValueError) as error:
        raise SourceError(f"an idx .gz file cannot be read ({type(error).__name__}). Fetch it again.") from error


def _class_items(pictures: Files, limit: int | None) -> list[Item]:
    """Items of class folders: the folder an image lies in is its label, and each image is its own patient."""
    taken: dict[str, int] = {}
    items = []
    for name, read in pictures.items():
        label = PurePosixPath(name).parent.name
        if not label:
            raise SourceError(
                "the source holds images that lie in no class folder. Put each class in a folder "
                "of its name, or name a table with --csv."
            )
        taken[label] = taken.get(label, 0) + 1
        if limit is None or taken[label] <= limit:
            picture = partial(_read_picture, read)
            items.append(Item(name=name, patient=_patient_id(name), label=label, read=picture))
    return items


def _table_items(pictures: Files, table: Table) -> list[Item]:
    return [
        Item(
            name=row.file,
            patient=_patient_id(row.patient),
            label=row.label,
            read=partial(_read_picture, pictures[row.file]),
        )
        for row in read_table(table, tuple(pictures))
    ]


def _dicom_items(source: Path, files: Files) -> list[Item]:
    """Items of files that carry the DICOM prefix, grouped by PatientID; everything else is left behind."""
    items = []
    for name, read in files.items():
        if (patient := _patient_of(read)) is not None:
            items.append(Item(name=name, patient=patient, label="", read=read))
    if not items:
        kinds = sorted({PurePosixPath(name).suffix.lower() or "no suffix" for name in files})
        raise SourceError(
            f"{source} holds {len(files)} files ({', '.join(kinds[:8]) or 'none'}) and none is an image "
            f"that can be imported. Accepted: {ACCEPTED}."
        )
    return items


def _patient_of(read: Callable[[], bytes]) -> str | None:
    """Return the PatientID of a DICOM file, empty where it has none; None for anything else."""
    try:
        dataset = dcmread(io.BytesIO(read()), stop_before_pixels=True, specific_tags=["PatientID"])
        return str(dataset.get("PatientID") or "").strip()
    except (OSError, InvalidDicomError, ValueError, KeyError, AttributeError, NotImplementedError):
        return None


def _read_picture(read: Callable[[], bytes]) -> NDArray[Any]:
    """Decode a picture as grey: 16-bit ones keep their depth, all others become uint8.

    Raises:
        SourceError: It is in colour.
        ValueError: It cannot be decoded, or its values are no whole numbers of 16 bits.
    """
    try:
        with Image.open(io.BytesIO(read())) as picture:
            if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
                return _sixteen_bits(np.asarray(picture))
            if picture.mode == "F":
                raise ValueError("picture holds fractions")  # to bytes they would be cut, not scaled
            if picture.mode in ("1", "L", "LA"):
                return np.asarray(picture.convert("L"))
            return _grey_of(np.asarray(picture.convert("RGB")))
    except (SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"picture cannot be decoded ({type(error).__name__})") from error


def _sixteen_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    if values.min() < 0 or values.max() > _MOST:
        raise ValueError(f"picture holds values beyond 0 to {_MOST}")
    return values.astype(np.uint16)


def _patient_id(text: str) -> str:
    """Return a text that a PatientID can hold (LO: 64 characters, no backslash or control), or its hash."""
    if 0 < len(text) <= 64 and text.isprintable() and "\\" not in text and text == text.strip():
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:32]
