"""Formats that hospitals have, more variants of each: the picture that the frame holds, or its refusal."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedMRImageStorage,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    IntravascularOpticalCoherenceTomographyImageStorageForPresentation,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    MRImageStorage,
    OphthalmicTomographyImageStorage,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    VideoEndoscopicImageStorage,
    VLEndoscopicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
    WideFieldOphthalmicPhotography3DCoordinatesImageStorage,
)

from client.dicom.rendering import rendering_of
from tests.client.decoding import EXACT, decode, packed
from tests.client.scans import scan
from tests.client.variants import (
    BYTES,
    SMOOTH,
    STORED,
    WHOLE,
    Case,
    coloured,
    ct,
    frames_of,
    grouped,
    holds,
    item,
    j2k,
    jpeg,
    luminance,
    plain,
    rle,
    unit,
)

PHOTOACOUSTIC = "1.2.840.10008.5.1.4.1.1.6.3"
DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"
NEAR = 0.06
TWELVE = bytes(imagecodecs.jpeg8_encode(STORED, level=99, bitspersample=12))


def bytes_of(**values: Any) -> Dataset:
    return scan(BYTES, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope=1, RescaleIntercept=0, **values)


def three(streams: list[bytes], *, cut: int = 1, **values: Any) -> Dataset:
    """Three frames, each in so many fragments, with a table that says nonsense."""
    made = frames_of(UltrasoundMultiFrameImageStorage, streams, JPEG2000Lossless, count=3, **values)
    made.PixelData = encapsulate(streams, fragments_per_frame=cut, has_bot=False)
    return made


def extended(offsets: list[int]) -> Dataset:
    """Three frames with an extended offset table (PS3.3 C.7.6.3.1.8)."""
    made = three([j2k(STORED, bitspersample=12)] * 3)
    made.ExtendedOffsetTable = np.array(offsets, "<u8").tobytes()
    made.ExtendedOffsetTableLengths = np.array([10] * len(offsets), "<u8").tobytes()
    return made


def section(sop_class: str, modality: str, **values: Any) -> Callable[[], Dataset]:
    """A colour object of a class, its frame as baseline JPEG."""
    return lambda: packed(
        coloured("YBR_FULL_422", SMOOTH, SOPClassUID=sop_class, Modality=modality, **values),
        [jpeg(SMOOTH)],
        JPEGBaseline8Bit,
    )


FORMATS: dict[str, Case] = {
    "12-bit JPEG under a header of 8 bits": (
        lambda: packed(bytes_of(), [TWELVE], JPEGExtended12Bit), WHOLE, unit(STORED), NEAR,
    ),
    "12-bit JPEG under a header of 16 bits": (
        lambda: packed(ct(BitsStored=16, HighBit=15), [TWELVE], JPEGExtended12Bit), WHOLE, unit(STORED), NEAR,
    ),
    "12-bit JPEG tagged baseline": (
        lambda: packed(ct(), [TWELVE], JPEGBaseline8Bit), WHOLE, unit(STORED), NEAR,
    ),
    "lossless JPEG of 16 bits under a header of 8": (
        lambda: packed(
            bytes_of(), [bytes(imagecodecs.jpeg8_encode(STORED * 16, lossless=True, bitspersample=16))], JPEGLosslessSV1
        ),
        (32760.0, 65520.0), unit(STORED), EXACT,
    ),
    "progressive JPEG": (
        lambda: packed(bytes_of(), [jpeg(BYTES, progressive=True)], JPEGBaseline8Bit),
        (127.5, 255.0), unit(BYTES, 0, 255), NEAR,
    ),
    "JPEG with restarts": (
        lambda: packed(bytes_of(), [jpeg(BYTES, restart_marker_blocks=2)], JPEGBaseline8Bit),
        (127.5, 255.0), unit(BYTES, 0, 255), NEAR,
    ),
    "baseline JPEG tagged lossless": (
        lambda: packed(bytes_of(), [jpeg(BYTES)], JPEGLosslessSV1), (127.5, 255.0), unit(BYTES, 0, 255), NEAR,
    ),
    "lossless JPEG tagged baseline": (
        lambda: packed(
            ct(), [bytes(imagecodecs.jpeg8_encode(STORED, lossless=True, bitspersample=12))], JPEGBaseline8Bit
        ),
        WHOLE, unit(STORED), EXACT,
    ),
    "JPEG 2000 in its own file format": (
        lambda: packed(ct(), [j2k(STORED, bitspersample=12, codecformat="jp2")], JPEG2000Lossless),
        WHOLE, unit(STORED), EXACT,
    ),
    "high-throughput JPEG 2000, progressive": (
        lambda: packed(ct(), [bytes(imagecodecs.htj2k_encode(STORED, reversible=True))], HTJ2KLosslessRPCL),
        WHOLE, unit(STORED), EXACT,
    ),
    "high-throughput JPEG 2000 tagged JPEG 2000": (
        lambda: packed(ct(), [bytes(imagecodecs.htj2k_encode(STORED, reversible=True))], JPEG2000Lossless),
        WHOLE, unit(STORED), EXACT,
    ),
    "JPEG 2000 tagged high-throughput": (
        lambda: packed(ct(), [j2k(STORED, bitspersample=12)], HTJ2KLossless), WHOLE, unit(STORED), EXACT,
    ),
    "three frames in two fragments each, no table": (
        lambda: three([j2k(STORED, bitspersample=12)] * 3, cut=2), WHOLE, unit(STORED), EXACT,
    ),
    "extended offset table of zeros": (lambda: extended([0, 0, 0]), WHOLE, unit(STORED), EXACT),
    "extended offset table that is short": (lambda: extended([0]), WHOLE, unit(STORED), EXACT),
    "run-length frames under a table of another encoding": (
        lambda: frames_of(UltrasoundMultiFrameImageStorage, [bytes(rle(STORED))] * 3, RLELossless, count=3),
        WHOLE, unit(STORED), EXACT,
    ),
    "a whole slide in colour": (
        section(VLWholeSlideMicroscopyImageStorage, "SM", ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]),
        "dicom", luminance(SMOOTH), NEAR,
    ),
    "dermoscopy in colour": (section(DERMOSCOPY, "DMS"), "dicom", luminance(SMOOTH), NEAR),
    "wide-field photograph of an eye": (
        section(WideFieldOphthalmicPhotography3DCoordinatesImageStorage, "OP"), "dicom", luminance(SMOOTH), NEAR,
    ),
    "endoscopy in colour": (section(VLEndoscopicImageStorage, "ES"), "dicom", luminance(SMOOTH), NEAR),
    "film of an endoscopy, one frame": (
        section(VideoEndoscopicImageStorage, "ES", NumberOfFrames=1), "dicom", luminance(SMOOTH), NEAR,
    ),
    "endoscopy that does not vouch": (
        section(VLEndoscopicImageStorage, "ES", BurnedInAnnotation=""), "dicom", "burned_in", 0,
    ),
    "photoacoustic frames": (
        section(PHOTOACOUSTIC, "PA", NumberOfFrames=1), "dicom", luminance(SMOOTH), NEAR,
    ),
    "photoacoustic frames that do not vouch": (
        section(PHOTOACOUSTIC, "PA", NumberOfFrames=1, BurnedInAnnotation=""), "dicom", "burned_in", 0,
    ),
    "intravascular tomography": (
        lambda: plain(
            SOPClassUID=IntravascularOpticalCoherenceTomographyImageStorageForPresentation, Modality="IVOCT",
            NumberOfFrames=2, PixelData=STORED.tobytes() * 2,
        ),
        WHOLE, unit(STORED), EXACT,
    ),
    "tomography of an eye": (
        lambda: plain(
            SOPClassUID=OphthalmicTomographyImageStorage, Modality="OPT", NumberOfFrames=2,
            PixelData=STORED.tobytes() * 2,
        ),
        WHOLE, unit(STORED), EXACT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_the_picture_that_a_format_holds_or_its_refusal(name: str) -> None:
    holds(FORMATS[name])


@pytest.mark.parametrize(
    ("spacing", "aspect"),
    [([0.5], 1.0), (["0.5"], 1.0), ([0.5, 1.0], 0.5), ([2.0, 1.0], 2.0), ([0, 1], 1.0), ([1, 1000], 1.0), (None, 1.0)],
)
@pytest.mark.parametrize("where", ["top", "shared group", "own group"])
def test_spacing_of_one_value_is_square_wherever_it_stands(spacing: Any, aspect: float, where: str) -> None:
    if where == "top":
        dataset = ct(SOPClassUID=MRImageStorage, Modality="MR")
        dataset.PixelSpacing = spacing
    else:
        group = item(PixelMeasuresSequence=[item(PixelSpacing=spacing)])
        shared, frames = (group, [Dataset()]) if where == "shared group" else (Dataset(), [group])
        dataset = grouped(EnhancedMRImageStorage, frames=frames, shared=shared, Modality="MR")
    rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
    assert rendering.aspect == aspect
    pictures, reason = decode(dataset, window=WHOLE)
    assert reason == ""
    np.testing.assert_allclose(pictures[0], unit(STORED), atol=EXACT)
