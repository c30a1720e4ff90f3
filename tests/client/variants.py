"""Variants of DICOM files of the kinds that once went wrong: how each is made, and how it must come out."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ImplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundImageStorage,
)

from tests.client.decoding import decode, packed
from tests.client.scans import picture, scan

Pixels = NDArray[Any]
Case = tuple[Callable[[], Dataset], str | tuple[float, float], Any, float]
"""How to make the file, the plan's window, the picture in [-1, 1] or the reason, and the error allowed."""

HU, SUV, WHOLE = (40.0, 400.0), (3.0, 6.0), (2047.5, 4095.0)
STORED = picture(1, rows=40, columns=40)
BYTES = picture(2, rows=40, columns=40, bits=8).astype(np.uint8)
COLOURS = np.stack([picture(20 + i, rows=40, columns=40, bits=8).astype(np.uint8) for i in range(3)], axis=-1)
SMOOTH = np.stack(
    [np.add.outer(np.arange(40) * a, np.arange(40) * b) + c for a, b, c in ((0, 5, 20), (4, 0, 60), (2, 2, 40))],
    axis=-1,
).astype(np.uint8)
"""Colours that half the chroma does not change."""


def unit(values: Pixels, low: float = 0.0, high: float = 4095.0) -> Pixels:
    return np.clip((values.astype(np.float64) - low) * 2 / (high - low) - 1, -1, 1)


def linear(values: Pixels, centre: float, width: float) -> Pixels:
    """A window as PS3.3 C.11.2.1.2.1 has it."""
    return np.clip((values.astype(np.float64) - (centre - 0.5)) * 2 / (width - 1), -1, 1)


def whole_luminance(colour: Pixels) -> Pixels:
    """Luminance to the nearest whole number, halves up."""
    return (colour.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000


def luminance(colour: Pixels) -> Pixels:
    return whole_luminance(colour) / 127.5 - 1


def ct(stored: Pixels = STORED, **values: Any) -> Dataset:
    return scan(stored, **{"BitsStored": 12, "HighBit": 11, **values})


def plain(stored: Pixels = STORED, **values: Any) -> Dataset:
    """A radiograph, which knows no units."""
    return ct(
        stored,
        **{
            "SOPClassUID": DigitalXRayImageStorageForPresentation,
            "Modality": "DX",
            "ImageType": ["ORIGINAL", "PRIMARY"],
            **values,
        },
    )


def coloured(photometric: str, pixels: Pixels = COLOURS, **values: Any) -> Dataset:
    given = {
        "SOPClassUID": UltrasoundImageStorage,
        "Modality": "US",
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": photometric,
        **values,
    }
    return scan(pixels, **given)


def item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def table(entries: Any, count: int, *, first: int = 0, bits: int = 16, vr: str = "US") -> Dataset:
    made = Dataset()
    made.add_new("LUTDescriptor", "US", [count, first & 0xFFFF, bits])
    made.add_new("LUTData", vr, entries)
    return made


def grouped(sop_class: str, *, frames: list[Dataset], shared: Dataset | None = None, **values: Any) -> Dataset:
    made = ct(SOPClassUID=sop_class, NumberOfFrames=len(frames), **values)
    made.PixelData = STORED.tobytes() * len(frames)
    made.PerFrameFunctionalGroupsSequence = frames
    made.SharedFunctionalGroupsSequence = [shared or Dataset()]
    return made


def voi(**values: Any) -> Dataset:
    return item(FrameVOILUTSequence=[item(**values)])


def valued(**values: Any) -> Dataset:
    return item(PixelValueTransformationSequence=[item(**values)])


def jpeg(pixels: Pixels, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=98, **options)
    return content.getvalue()


def j2k(pixels: Pixels, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, **{"level": 0, "codecformat": "j2k", "reversible": True, **options}))


def tables(entries: list[int], count: int, *, first: int = 0, bits: int = 16, **values: Any) -> Dataset:
    made = scan(
        BYTES,
        SOPClassUID=UltrasoundImageStorage,
        Modality="US",
        BurnedInAnnotation="NO",
        PhotometricInterpretation="PALETTE COLOR",
        **values,
    )
    for channel in ("Red", "Green", "Blue"):
        made.add_new(f"{channel}PaletteColorLookupTableDescriptor", "US", [count, first, bits])
        made.add_new(f"{channel}PaletteColorLookupTableData", "OW", np.array(entries, "<u2").tobytes())
    return made


SQUARES = [min(255, i * i // 255) for i in range(256)]
SIGNED = (STORED.astype(np.int32) - 2048).astype(np.int16)
PADDED = np.where(
    np.add.outer((np.arange(40) - 20) ** 2, (np.arange(40) - 20) ** 2) < 350, STORED // 4 - 200, -2000
).astype(np.int16)
INSIDE = PADDED > -1999


def implicit(dataset: Dataset) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def frames_of(sop_class: str, streams: list[bytes], syntax: str, *, count: int | None, **values: Any) -> Dataset:
    made = ct(SOPClassUID=sop_class, Modality="US", BurnedInAnnotation="NO", **values)
    if count is not None:
        made.NumberOfFrames = count
    return packed(made, streams, syntax)


def rle(stored: Pixels) -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    return RLELosslessEncoder.encode(
        stored,
        rows=stored.shape[0],
        columns=stored.shape[1],
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )


def mr(*kinds: str, **values: Any) -> Dataset:
    return ct(
        SOPClassUID=MRImageStorage,
        Modality="MR",
        ImageType=list(kinds),
        RescaleSlope=None,
        RescaleIntercept=None,
        **values,
    )


def holds(case: Case) -> None:
    """Check that a file comes out as the picture it means, or with its reason."""
    make, window, expected, error = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these files hold is wrong on purpose
        dataset = make()
    pictures, reason = decode(dataset, window=window)
    if isinstance(expected, str):
        assert (reason, len(pictures)) == (expected, 0)
        return
    assert reason == ""
    assert pictures
    for shown in pictures:
        if expected is not None:
            np.testing.assert_allclose(shown, expected, atol=error)
