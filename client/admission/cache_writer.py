"""Writes a generation of the training cache atomically: a kill or a full disk leaves the old one or the new one."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from client.cohort.cache import ARRAYS, CACHE_FOLDER, SCHEMA, checked_index, file_digest, generation_name
from client.cohort.forms import FORMS, point, sweep
from common.errors import StateError
from common.host.disk import told
from common.host.files import DRAFT, PRIVATE, new_file, sync_folder
from common.host.locks import locked

Stored = NDArray[np.uint16]
_PATIENCE_S = 2.0
"""How long to wait: a decoder that a killed ingest was just starting holds the lock until it has begun."""
_DRAFT = ".draft-"


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a generation holds beyond its images.

    Attributes:
        image_size: Side of the square images, pixels.
        keys: Patient keys, sorted.
        counts: Images of each patient, same order.
        labels: Label of each image, patient by patient.
        settings: `IngestSettings.digest`.
        form: `IngestSettings.to_dict`, for people.
        identity: The data set's identity.
        remembered: Whether `client.cohort.people` knows all its patients.
    """

    image_size: int
    keys: list[str]
    counts: list[int]
    labels: list[int]
    settings: str
    identity: str
    remembered: bool = False
    form: Mapping[str, Any] = field(default_factory=dict)


class Spool:
    """Pictures on disk in the order they were decoded, until their order in the cache is known."""

    def __init__(self, folder: Path, *, image_size: int) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `close`
        self._shape = (image_size, image_size)
        self._bytes = image_size * image_size * 2
        self._rows = 0

    def append(self, image: Stored) -> int:
        """Keep one picture and return its row."""
        self._file.write(image.tobytes())
        self._rows += 1
        return self._rows - 1

    def read(self, row: int) -> Stored:
        """Return the picture of a row."""
        self._file.flush()
        raw = os.pread(self._file.fileno(), self._bytes, row * self._bytes)
        return np.frombuffer(raw, dtype=np.uint16).reshape(self._shape)

    def close(self) -> None:
        """Let the disk space go."""
        self._file.close()


@contextlib.contextmanager
def exclusive(home: Path) -> Iterator[Path]:
    """Hold the cache folder alone, cleared of what a killed ingest left behind.

    Yields:
        The cache folder.

    Raises:
        StateError: Another ingest is running, or the disk refuses.
    """
    folder = home / CACHE_FOLDER
    busy = StateError(f"another ingest is at work in {home}. Wait for it to end")
    with contextlib.ExitStack() as held:
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(locked(folder / "LOCK", busy=busy, patience_s=_PATIENCE_S))
        for leftover in folder.glob(f"{_DRAFT}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in (*folder.glob(f".*{DRAFT}"), *folder.glob(f"{FORMS}/.*{DRAFT}")):
            with contextlib.suppress(OSError):
                leftover.unlink()
        yield folder


def write_generation(folder: Path, content: Content, images: Iterable[Stored]) -> str:
    """Write a generation and make it the one in use of its form; the caches of other forms stay.

    The arrays and their index are written and synced under a draft name, the folder is renamed to the digest of its
    index, and only then does the pointer move. A crash at any point leaves the old generation in use, or the new one.

    Args:
        folder: The cache folder, held by `exclusive`.
        content: What the generation holds.
        images: [size, size] each, patient by patient.

    Returns:
        Name of the generation.

    Raises:
        StateError: The disk is full or refuses; the old generation stays in use.
    """
    with told(folder, so="; the old cache stays in use, ingest again"):
        return _write(folder, content, images)


def _write(folder: Path, content: Content, images: Iterable[Stored]) -> str:
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder))
    try:
        _write_images(draft / "images.npy", content, images)
        _write_array(draft / "labels.npy", np.asarray(content.labels, dtype=np.int64))
        _write_array(draft / "offsets.npy", np.cumsum([0, *content.counts], dtype=np.int64))
        index = json.dumps(_index(draft, content), sort_keys=True).encode()
        with new_file(draft / "index.json", mode=PRIVATE) as file:
            file.write(index)
        sync_folder(draft)
        name = generation_name(index)
        _settle(draft, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(folder)
    point(folder, content.settings, name, content.form)
    sweep(folder)
    return name


def _settle(draft: Path, home: Path) -> None:
    """Give a draft its name; a sound generation that has it already holds the same bytes and stays."""
    if home.exists():
        try:
            checked_index(home)
        except (OSError, KeyError, TypeError, ValueError):
            home.rename(home.with_name(f"{_DRAFT}spoilt-{home.name}"))
        else:
            return
    draft.rename(home)


def _index(draft: Path, content: Content) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "image_size": content.image_size,
        "settings": content.settings,
        "identity": content.identity,
        "keys": content.keys,
        **({"remembered": True} if content.remembered else {}),
        "arrays": {name: file_digest(draft / name) for name in ARRAYS},
    }


def _write_images(path: Path, content: Content, images: Iterable[Stored]) -> None:
    """Write images.npy row by row, never holding more than one."""
    shape = (len(content.labels), content.image_size, content.image_size)
    with new_file(path, mode=PRIVATE) as file:
        header = {"descr": "<u2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for image in images:
            file.write(np.ascontiguousarray(image, dtype="<u2").data)


def _write_array(path: Path, array: NDArray[np.int64]) -> None:
    with new_file(path, mode=PRIVATE) as file:
        np.save(file, array, allow_pickle=False)
