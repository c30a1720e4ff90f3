"""Files decoded by the decoder process's own code, in this process: pictures in, reasons out."""

import mmap
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from client.admission.scan import Job
from client.admission.settings import IngestSettings
from client.decoder.worker import Decoder, Outlet
from tests.client.scans import save

Pictures = list[NDArray[np.float32]]

EXACT = 1e-4
"""Cached values are of 16 bits."""


class Gathered(Outlet):
    """An outlet that keeps the pictures."""

    def __init__(self) -> None:
        super().__init__(mmap.mmap(-1, 1), sys.stdin, sys.stdout)
        self.pictures: Pictures = []

    def arm(self) -> None:
        """No daemon waits."""

    def hand_over(self, _job: int, picture: NDArray[np.float32], *, aspect: float) -> None:
        """Keep a picture; its pixels are square in these tests."""
        assert aspect > 0
        self.pictures.append(np.array(picture))


def decode_file(
    path: Path, *, window: str | tuple[float, float] = "dicom", ocr: bool = False, cleared: str = ""
) -> tuple[Pictures, str]:
    """Return the pictures of a file and the reason it is refused for, empty for none."""
    outlet = Gathered()
    mode = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoder = Decoder(IngestSettings(image_size=64, window=window), outlet, ocr=ocr)
            reason = decoder.decode(Job(number=0, path=path, cleared=cleared))["reason"]
    finally:
        pydicom.config.settings.reading_validation_mode = mode
    return (outlet.pictures if reason is None else []), str(reason or "")


def decode(dataset: Dataset, **options: Any) -> tuple[Pictures, str]:
    """Return the pictures of a data set, written first, and the reason it is refused for."""
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these tests write is wrong on purpose
        return decode_file(save(dataset, Path(root) / "a.dcm"), **options)


def shown(dataset: Dataset, **options: Any) -> NDArray[np.float32]:
    """Return the one picture of a data set."""
    pictures, reason = decode(dataset, **options)
    assert (len(pictures), reason) == (1, "")
    return pictures[0]


def packed(dataset: Dataset, streams: list[bytes], syntax: str, *, table: bool = True) -> Dataset:
    """Put encoded frames into a data set."""
    dataset.PixelData = encapsulate(streams, has_bot=table)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset
