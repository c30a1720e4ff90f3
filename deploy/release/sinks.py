"""The forms a synthetic set is written in: DICOM, PNG, NIfTI and npz, each streamed, one manifest line an image."""

import csv
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.dicom.export import Edition, Provenance, Window
from common.dicom.file_set import FileSetWriter
from common.dicom.stamp import Stamp
from common.errors import StateError

Format = Literal["dicom", "png", "nifti", "npz"]
FORMATS: tuple[Format, ...] = ("dicom", "png", "nifti", "npz")
WARNING = "SYNTHETIC IMAGE, NOT A PATIENT, NOT FOR DIAGNOSIS"
MANIFEST_COLUMNS = ("file", "label", "index", "sha256")
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class SetForm:
    """What is to be written.

    Attributes:
        counts: Number of images of each label, in the order they are written.
        label_names: Every label of the study; an npz counts classes in this order.
        size: Side of an image, pixels.
        modality: DICOM Modality code.
        body_part: BodyPartExamined.
        provenance: What trained the generator and which draw this is.
        edition: Of the DICOM standard.
        window: The plan's, in Hounsfield units, where it has one; a CT is written in them.
        dicomdir: Whether DICOM files are laid out as a disc's, with a DICOMDIR.
    """

    counts: dict[str, int]
    label_names: tuple[str, ...]
    size: int
    modality: str
    body_part: str
    provenance: Provenance
    edition: Edition = "current"
    window: Window = None
    dicomdir: bool = False


class Sink(Protocol):
    """Takes images of one label in order."""

    def add(self, label: str, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        """Write images of one label.

        Args:
            label: Label of the images.
            indices: Their indices within its draw, [n].
            images: Pixels, [n, size, size].
        """


@contextmanager
def open_sink(folder: Path, form: Format, what: SetForm) -> Iterator[Sink]:
    """Open `folder` for a set of images; the set is complete when the block ends well.

    Args:
        folder: Folder of the set.
        form: DICOM, PNG, NIfTI or npz.
        what: What all images of the set have in common.

    Raises:
        StateError: NIfTI was asked for and the extra `nifti` is not installed.
    """
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as listing:
        manifest = csv.writer(listing, lineterminator="\n")
        manifest.writerow(MANIFEST_COLUMNS)
        if form == "npz":
            with _npz(folder / "synthetic.npz", what, manifest) as sink:
                yield sink
            return
        if form == "dicom" and what.dicomdir:
            disc = _FileSetSink(what, manifest)
            yield disc
            disc.write(folder)
            return
        kinds: dict[str, Callable[[SetForm], _Encoder]] = {"dicom": _Dicom, "png": _Png, "nifti": _Nifti}
        yield _FileSink(folder, kinds[form](what), manifest)


class _Encoder(Protocol):
    suffix: str

    def encode(self, label: str, index: int, image: NDArray[np.uint8]) -> bytes:
        """One file's bytes."""


class _FileSink:
    """One file an image, in one folder a label."""

    def __init__(self, folder: Path, encoder: _Encoder, manifest: Any) -> None:
        self._folder, self._encoder, self._manifest = folder, encoder, manifest

    def add(self, label: str, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        (self._folder / label).mkdir(exist_ok=True)
        for index, image in zip(indices, images, strict=True):
            name = f"{label}/{index:06d}{self._encoder.suffix}"
            content = self._encoder.encode(label, index, image)
            (self._folder / name).write_bytes(content)
            self._manifest.writerow([name, label, index, hashlib.sha256(content).hexdigest()])


class _Dicom:
    suffix = ".dcm"

    def __init__(self, what: SetForm) -> None:
        self._stamps = {
            label: Stamp(label=label, modality=what.modality, body_part=what.body_part,
                         provenance=what.provenance, edition=what.edition, window=what.window)
            for label in what.counts
        }  # fmt: skip

    def encode(self, label: str, index: int, image: NDArray[np.uint8]) -> bytes:
        return self._stamps[label].file(image, index=index)


class _FileSetSink:
    """DICOM files as a disc holds them, without folders of labels; the manifest tells the label of each."""

    def __init__(self, what: SetForm, manifest: Any) -> None:
        self._encoder, self._manifest = _Dicom(what), manifest
        # what makes two sets differ: the release and the draw, and what was drawn
        self._files = FileSetWriter(*map(str, vars(what.provenance).values()), json.dumps(what.counts), what.edition)
        self._rows: dict[str, tuple[str, int, str]] = {}

    def add(self, label: str, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        for index, image in zip(indices, images, strict=True):
            content = self._encoder.encode(label, index, image)
            self._rows[self._files.add(content)] = label, index, hashlib.sha256(content).hexdigest()

    def write(self, folder: Path) -> None:
        places = self._files.write(folder)
        for uid, row in self._rows.items():
            self._manifest.writerow([places[uid].relative_to(folder).as_posix(), *row])


class _Png:
    suffix = ".png"

    def __init__(self, what: SetForm) -> None:
        self._provenance = what.provenance

    def encode(self, label: str, index: int, image: NDArray[np.uint8]) -> bytes:
        note = PngInfo()
        note.add_text("Description", f"{WARNING}. {statement(self._provenance)}, label {label}, index {index}")
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", pnginfo=note, compress_level=3)
        return buffer.getvalue()


class _Nifti:
    suffix = ".nii.gz"

    def __init__(self, what: SetForm) -> None:
        try:
            import nibabel
        except ImportError as error:
            raise StateError(
                "NIfTI was asked for and nibabel is not installed. Run `pip install wardround[nifti]`"
            ) from error
        self._library: Any = nibabel

    def encode(self, label: str, index: int, image: NDArray[np.uint8]) -> bytes:
        # columns run to the patient's left and rows to the feet in our images; NIfTI counts to right, front and head
        volume = self._library.Nifti1Image(np.ascontiguousarray(image.T[:, :, None]), np.diag([-1.0, -1.0, 1.0, 1.0]))
        volume.header["descrip"] = WARNING[:79].encode()
        return gzip.compress(volume.to_bytes(), compresslevel=3, mtime=0)


class _NpzSink:
    """The member `images.npy` of an npz, written as the images come."""

    def __init__(self, member: Any, manifest: Any) -> None:
        self._member, self._manifest = member, manifest

    def add(self, label: str, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        self._member.write(np.ascontiguousarray(images))
        for index, image in zip(indices, images, strict=True):
            self._manifest.writerow(["synthetic.npz", label, index, hashlib.sha256(image).hexdigest()])


@contextmanager
def _npz(path: Path, what: SetForm, manifest: Any) -> Iterator[_NpzSink]:
    """Write an npz of images uint8 [n, size, size], labels int64 [n], label_names and provenance (JSON), unpacked.

    Stored, not deflated: smooth pictures shrink by a third at most, and deflating takes longer than drawing them.
    """
    total = sum(what.counts.values())
    labels = np.repeat([what.label_names.index(label) for label in what.counts], list(what.counts.values()))
    small = {
        "labels": labels.astype(np.int64),
        "label_names": np.array(what.label_names),
        "provenance": np.array(json.dumps(vars(what.provenance), default=str)),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("images.npy", _EPOCH), "w", force_zip64=True) as member:
            shape = {"descr": "|u1", "fortran_order": False, "shape": (total, what.size, what.size)}
            np.lib.format.write_array_header_1_0(member, shape)
            yield _NpzSink(member, manifest)
        for name, array in small.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def statement(provenance: Provenance) -> str:
    """Where an image comes from, in one line."""
    return (
        f"Study {provenance.study}, plan {provenance.plan_digest}, decoder {provenance.decoder_digest}, "
        f"epsilon {provenance.epsilon:.4g}, delta {provenance.delta:.3g}, seed {provenance.seed}"
    )
