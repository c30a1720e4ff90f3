"""Codestreams and frames against their header, five and more variants a kind: the picture, or its refusal."""

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from tests.client.decoding import EXACT, packed
from tests.client.scans import scan
from tests.client.variants import (
    BYTES,
    COLOURS,
    SIGNED,
    SMOOTH,
    STORED,
    WHOLE,
    Case,
    coloured,
    ct,
    frames_of,
    holds,
    j2k,
    jpeg,
    luminance,
    rle,
    unit,
    valued,
)

JUNK = (STORED | 0xA000).astype(np.uint16)

CODECS: dict[str, Case] = {
    "YBR_PARTIAL_420 over JPEG": (
        lambda: packed(coloured("YBR_PARTIAL_420", SMOOTH), [jpeg(SMOOTH)], JPEGBaseline8Bit),
        "dicom",
        luminance(SMOOTH),
        0.06,
    ),
    "RGB over JPEG of halved chroma": (
        lambda: packed(coloured("RGB", SMOOTH), [jpeg(SMOOTH)], JPEGBaseline8Bit),
        "dicom",
        luminance(SMOOTH),
        0.06,
    ),
    "YBR_FULL_422 over JPEG whose Adobe mark says RGB": (
        lambda: packed(
            coloured("YBR_FULL_422", SMOOTH),
            [bytes(imagecodecs.jpeg8_encode(SMOOTH, level=98, colorspace="RGB", outcolorspace="RGB"))],
            JPEGBaseline8Bit,
        ),
        "dicom",
        luminance(SMOOTH),
        0.06,
    ),
    "YBR_ICT over a lossy stream that has its transform": (
        lambda: packed(coloured("YBR_ICT", SMOOTH), [j2k(SMOOTH, reversible=False, level=55, mct=True)], JPEG2000),
        "dicom",
        luminance(SMOOTH),
        0.06,
    ),
    "YBR_FULL_422 over a stream that has its transform": (
        lambda: packed(coloured("YBR_FULL_422"), [j2k(COLOURS, mct=True)], JPEG2000Lossless),
        "dicom",
        luminance(COLOURS),
        EXACT,
    ),
    "YBR_PARTIAL_420 over a stream that has its transform": (
        lambda: packed(coloured("YBR_PARTIAL_420"), [j2k(COLOURS, mct=True)], JPEG2000Lossless),
        "dicom",
        luminance(COLOURS),
        EXACT,
    ),
    "RGB of planes over JPEG 2000": (
        lambda: packed(coloured("RGB", PlanarConfiguration=1), [j2k(COLOURS, mct=False)], JPEG2000Lossless),
        "dicom",
        luminance(COLOURS),
        EXACT,
    ),
    "RGB by JPEG-LS": (
        lambda: packed(coloured("RGB"), [bytes(imagecodecs.jpegls_encode(COLOURS))], JPEGLSLossless),
        "dicom",
        luminance(COLOURS),
        EXACT,
    ),
    "YBR_FULL_422 by JPEG-LS": (
        lambda: packed(coloured("YBR_FULL_422"), [bytes(imagecodecs.jpegls_encode(COLOURS))], JPEGLSLossless),
        "dicom",
        "contradictory_header",
        0,
    ),
    "native RGB of three bytes called YBR_PARTIAL_422": (
        lambda: coloured("YBR_PARTIAL_422"),
        "dicom",
        "contradictory_header",
        0,
    ),
    "native RGB in planes": (
        lambda: coloured(
            "RGB", np.ascontiguousarray(COLOURS), PlanarConfiguration=1, PixelData=np.moveaxis(COLOURS, -1, 0).tobytes()
        ),
        "dicom",
        luminance(COLOURS),
        EXACT,
    ),
    "native YBR_FULL": (
        lambda: coloured("YBR_FULL", PixelData=np.asarray(Image.fromarray(COLOURS).convert("YCbCr")).tobytes()),
        "dicom",
        luminance(COLOURS),
        0.03,
    ),
    "junk above 12 bits in JPEG-LS": (
        lambda: packed(ct(JUNK), [bytes(imagecodecs.jpegls_encode(JUNK))], JPEGLSLossless),
        WHOLE,
        unit(STORED),
        EXACT,
    ),
    "junk above 12 bits, native": (lambda: ct(JUNK), WHOLE, unit(STORED), EXACT),
    "junk above 12 signed bits in JPEG 2000": (
        lambda: packed(
            ct(SIGNED, PixelRepresentation=1),
            [j2k((SIGNED.view(np.uint16) & 0xFFF | 0x5000).astype(np.uint16))],
            JPEG2000Lossless,
        ),
        (-0.5, 4095.0),
        unit(SIGNED, -2048, 2047),
        EXACT,
    ),
    "an unsigned stream of signed values, three frames": (
        lambda: packed(
            ct(
                SIGNED,
                PixelRepresentation=1,
                NumberOfFrames=3,
                SOPClassUID=EnhancedCTImageStorage,
                PerFrameFunctionalGroupsSequence=[valued(RescaleSlope=1, RescaleIntercept=0) for _ in range(3)],
            ),
            [j2k((SIGNED.view(np.uint16) & 0xFFF).astype(np.uint16), bitspersample=12)] * 3,
            JPEG2000Lossless,
        ),
        (-0.5, 4095.0),
        unit(SIGNED, -2048, 2047),
        EXACT,
    ),
    "three streams of four frames": (
        lambda: frames_of(
            UltrasoundMultiFrameImageStorage, [j2k(STORED, bitspersample=12)] * 3, JPEG2000Lossless, count=4
        ),
        "dicom",
        "truncated",
        0,
    ),
    "five streams of four frames": (
        lambda: frames_of(
            UltrasoundMultiFrameImageStorage, [j2k(STORED, bitspersample=12)] * 5, JPEG2000Lossless, count=4
        ),
        "dicom",
        "contradictory_header",
        0,
    ),
    "two run-length frames and no number": (
        lambda: frames_of(UltrasoundMultiFrameImageStorage, [bytes(rle(STORED))] * 2, RLELossless, count=None),
        "dicom",
        "contradictory_header",
        0,
    ),
    "two native frames and no number": (lambda: ct(PixelData=STORED.tobytes() * 2), "dicom", "contradictory_header", 0),
    "native frames one short": (lambda: ct(NumberOfFrames=3, PixelData=STORED.tobytes() * 2), "dicom", "truncated", 0),
    "12-bit JPEG": (
        lambda: packed(ct(), [bytes(imagecodecs.jpeg8_encode(STORED, level=99, bitspersample=12))], JPEGExtended12Bit),
        WHOLE,
        unit(STORED),
        0.03,
    ),
    "8-bit JPEG called extended": (
        lambda: packed(scan(BYTES, RescaleSlope=1, RescaleIntercept=0), [jpeg(BYTES)], JPEGExtended12Bit),
        (127.5, 255.0),
        unit(BYTES, 0, 255),
        0.06,
    ),
    "8-bit JPEG under 16 of 16 bits": (
        lambda: packed(ct(BitsStored=16, HighBit=15), [jpeg(BYTES)], JPEGBaseline8Bit),
        (127.5, 255.0),
        unit(BYTES, 0, 255),
        0.06,
    ),
}


@pytest.mark.parametrize("name", CODECS)
def test_the_pixels_that_the_codestream_holds_or_a_refusal(name: str) -> None:
    holds(CODECS[name])
