"""The file of public images that a plan's warm-up names by its digest: pictures of one or more sources, of one size."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import SourceError
from common.host.files import write_atomically
from deploy.data.sources import Item, open_source
from server.model.warm_data import FEWEST


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A file of public images that was written.

    Attributes:
        digest: SHA-256 (hex) of the file, the plan's `warm.source`.
        kinds: Name and number of images of each kind, in the order of their labels.
        broken: Pictures that could not be read and are left out.
    """

    digest: str
    kinds: dict[str, int]
    broken: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"source": self.digest, "kinds": self.kinds, "images": sum(self.kinds.values()), "broken": self.broken}


def write_public_images(sources: Sequence[Path], out: Path, *, size: int, limit: int | None = None) -> PublicFile:
    """Write the pictures of public sources as the .npz file that `--warm-data` takes.

    The kinds are the sources' classes, one after the other; a source without classes is one kind.

    Args:
        sources: Folders or archives of pictures, as `wardround import` takes them.
        out: The file to write; must not exist.
        size: Pixels on a side; pictures are squashed to a square. A hospital keeps the sides' proportion.
        limit: Most images of each source.

    Raises:
        SourceError: A source is of another form or holds DICOM, too few pictures can be read, or `out` is there.
    """
    if out.exists():
        raise SourceError(f"{out} is there already. Give another name, or remove it")
    pictures: list[NDArray[np.uint8]] = []
    kinds: list[str] = []
    labels: list[int] = []
    broken = 0
    for source in sources:
        with open_source(source, limit=limit) as items:
            for item in items:
                picture = _read(item, source, size)
                if picture is None:
                    broken += 1
                    continue
                kind = f"{source.name}: {item.label}" if item.label else source.name
                if kind not in kinds:
                    kinds.append(kind)
                pictures.append(picture)
                labels.append(kinds.index(kind))
    if len(pictures) < FEWEST:
        raise SourceError(f"{len(pictures)} pictures can be read, {FEWEST} are needed. Give more public images")
    content = _packed(np.stack(pictures), np.array(labels, dtype=np.int64))
    write_atomically(out, content)
    counts = np.bincount(labels, minlength=len(kinds)).tolist()
    return PublicFile(
        digest=hashlib.sha256(content).hexdigest(), kinds=dict(zip(kinds, counts, strict=True)), broken=broken
    )


def _packed(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """The arrays as a .npz; the same arrays give the same bytes, as NumPy dates every entry 1980-01-01."""
    packed = io.BytesIO()
    np.savez(packed, images=images, labels=labels)
    return packed.getvalue()


def _read(item: Item, source: Path, size: int) -> NDArray[np.uint8] | None:
    """A picture as [size, size] uint8; None where it is broken."""
    try:
        pixels = item.read()
    except (OSError, ValueError):
        return None
    if isinstance(pixels, bytes):
        raise SourceError(
            f"{source} holds DICOM. How such files are shown is a choice of their own; export them as PNG first"
        )
    grey = Image.fromarray(pixels.astype(np.float32) * (255.0 / np.iinfo(pixels.dtype).max))
    small = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
    return np.clip(np.round(small), 0, 255).astype(np.uint8)
