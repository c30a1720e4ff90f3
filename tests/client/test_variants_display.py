"""From stored values to the display, five and more variants a kind: the picture each file means, or its refusal."""

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedXAImageStorage,
    JPEGLSNearLossless,
    PositronEmissionTomographyImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from tests.client.decoding import EXACT, decode, packed
from tests.client.variants import (
    BYTES,
    HU,
    INSIDE,
    PADDED,
    SIGNED,
    SQUARES,
    STORED,
    SUV,
    WHOLE,
    Case,
    ct,
    grouped,
    holds,
    implicit,
    item,
    linear,
    plain,
    table,
    tables,
    unit,
    valued,
    voi,
)

DISPLAY: dict[str, Case] = {
    "rescale of angiography is not for display": (
        lambda: ct(
            SOPClassUID=XRayAngiographicImageStorage,
            Modality="XA",
            RescaleSlope=-1,
            RescaleIntercept=4095,
            WindowCenter=2048,
            WindowWidth=4096,
        ),
        "dicom",
        linear(STORED, 2048, 4096),
        EXACT,
    ),
    "modality LUT of enhanced angiography, in no group": (
        lambda: grouped(
            EnhancedXAImageStorage,
            frames=[voi(WindowCenter=2048, WindowWidth=4096)],
            Modality="XA",
            ModalityLUTSequence=[table([65535 - 16 * i for i in range(4096)], 4096)],
        ),
        "dicom",
        linear(STORED, 2048, 4096),
        EXACT,
    ),
    "modality LUT of fluoroscopy under the plan's window": (
        lambda: ct(
            SOPClassUID=XRayRadiofluoroscopicImageStorage,
            Modality="RF",
            ModalityLUTSequence=[table([65535 - 16 * i for i in range(4096)], 4096)],
        ),
        WHOLE,
        unit(STORED),
        EXACT,
    ),
    "windows of a shared group": (
        lambda: grouped(
            EnhancedCTImageStorage,
            frames=[Dataset()],
            shared=voi(WindowCenter=1000, WindowWidth=500),
            WindowCenter=9,
            WindowWidth=9,
        ),
        "dicom",
        linear(STORED, 1000, 500),
        EXACT,
    ),
    "the second of two windows of a frame, as the first is no number": (
        lambda: grouped(
            EnhancedMRImageStorage,
            frames=[voi(WindowCenter=[float("nan"), 2000.0], WindowWidth=[10.0, 3000.0])],
            Modality="MR",
        ),
        "dicom",
        linear(STORED, 2000, 3000),
        EXACT,
    ),
    "a sigmoid in a frame": (
        lambda: grouped(
            BreastTomosynthesisImageStorage,
            frames=[voi(WindowCenter=2000, WindowWidth=1500, VOILUTFunction="SIGMOID")],
            Modality="MG",
        ),
        "dicom",
        2 / (1 + np.exp(-4 * (STORED.astype(float) - 2000) / 1500)) - 1,
        EXACT,
    ),
    "rescale of a frame below its window": (
        lambda: grouped(
            EnhancedCTImageStorage,
            frames=[
                item(
                    PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-1024, RescaleType="HU")],
                    FrameVOILUTSequence=[item(WindowCenter=1000, WindowWidth=4000)],
                )
            ],
        ),
        "dicom",
        linear(STORED * 2.0 - 1024, 1000, 4000),
        EXACT,
    ),
    "a VOI LUT of 10 used bits of 16": (
        lambda: plain(STORED // 4, VOILUTSequence=[table([int(1023 * (i / 1023) ** 0.5) for i in range(1024)], 1024)]),
        "dicom",
        unit(np.floor(1023 * (STORED // 4 / 1023) ** 0.5), 0, 1023),
        3e-3,
    ),
    "a VOI LUT of 14 used bits, inverted": (
        lambda: plain(VOILUTSequence=[table([16383 - 4 * i for i in range(4096)], 4096)]),
        "dicom",
        unit(16383.0 - 4 * STORED, 0, 16383),
        EXACT,
    ),
    "a VOI LUT of bytes packed in words": (
        lambda: plain(STORED // 16, VOILUTSequence=[table(bytes(255 - i for i in range(256)), 256, bits=8, vr="OW")]),
        "dicom",
        unit(255.0 - STORED // 16, 0, 255),
        EXACT,
    ),
    "a VOI LUT in implicit VR with a first value below zero": (
        lambda: implicit(
            plain(
                STORED, RescaleIntercept=-1024, VOILUTSequence=[table([16 * i for i in range(4096)], 4096, first=-1024)]
            )
        ),
        "dicom",
        unit(STORED * 16.0, 0, 65535),
        4e-4,
    ),
    "signed pixels that the rescale lifts above zero": (
        lambda: plain(
            SIGNED,
            PixelRepresentation=1,
            RescaleIntercept=40000,
            VOILUTSequence=[table([i * 16 for i in range(4096)], 4096, first=37952)],
        ),
        "dicom",
        unit(STORED * 16.0, 0, 65535),
        4e-4,
    ),
    "a palette that begins at 10": (
        lambda: tables(SQUARES, 256, first=10),
        "dicom",
        unit(np.array(SQUARES)[np.clip(BYTES.astype(int) - 10, 0, 255)], 0, 255),
        EXACT,
    ),
    "a palette of fewer entries than values": (
        lambda: tables(SQUARES[:100], 100),
        "dicom",
        unit(np.array(SQUARES)[np.clip(BYTES, 0, 99)], 0, 255),
        EXACT,
    ),
    "a palette of 16 bits, all of them used": (
        lambda: tables([257 * entry for entry in SQUARES], 256),
        "dicom",
        unit(np.array(SQUARES)[BYTES], 0, 255),
        EXACT,
    ),
    "a palette of 8 bits in words": (
        lambda: tables(SQUARES, 256, bits=8),
        "dicom",
        unit(np.array(SQUARES)[BYTES], 0, 255),
        EXACT,
    ),
    "a window of width minus one, then a usable one": (
        lambda: plain(WindowCenter=[5, 1500], WindowWidth=[-1, 2000]),
        "dicom",
        linear(STORED, 1500, 2000),
        EXACT,
    ),
    "an infinite window, then a usable one": (
        lambda: plain(WindowCenter=[5, 1500], WindowWidth=[float("inf"), 2000]),
        "dicom",
        linear(STORED, 1500, 2000),
        EXACT,
    ),
    "a window of width 1 over steps of a half": (
        lambda: plain(RescaleSlope=0.5, WindowCenter=1000.25, WindowWidth=1),
        "dicom",
        unit(STORED * 0.5, 999.75, 1000.75),
        EXACT,
    ),
    "a window of width 1 over whole steps": (
        lambda: plain(WindowCenter=1000, WindowWidth=1),
        "dicom",
        np.where(STORED <= 999.5, -1.0, 1.0),
        EXACT,
    ),
    "MONOCHROME1 that says so twice": (
        lambda: plain(
            PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", WindowCenter=2048, WindowWidth=4096
        ),
        "dicom",
        -linear(STORED, 2048, 4096),
        EXACT,
    ),
    "MONOCHROME1 of a mammogram without a shape": (
        lambda: plain(
            SOPClassUID=DigitalMammographyXRayImageStorageForPresentation,
            Modality="MG",
            PhotometricInterpretation="MONOCHROME1",
        ),
        WHOLE,
        -unit(STORED),
        EXACT,
    ),
    "IDENTITY with MONOCHROME1 in lower case": (
        lambda: plain(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="identity"),
        "dicom",
        "contradictory_header",
        0,
    ),
    "HU in lower case": (
        lambda: ct(RescaleType="hu ", RescaleIntercept=-1024),
        HU,
        unit(STORED - 1024.0, -160, 240),
        EXACT,
    ),
    "unspecified units of a CT": (lambda: ct(RescaleType="US"), HU, "wrong_unit", 0),
    "electron density": (lambda: ct(RescaleType="ED"), HU, "wrong_unit", 0),
    "CT without a slope": (lambda: ct(RescaleSlope=None), HU, "wrong_unit", 0),
    "enhanced CT of which one frame has no rescale": (
        lambda: grouped(
            EnhancedCTImageStorage,
            frames=[valued(RescaleSlope=1, RescaleIntercept=0, RescaleType="HU"), Dataset()],
            RescaleSlope=None,
            RescaleIntercept=None,
        ),
        HU,
        "wrong_unit",
        0,
    ),
    "CT without a rescale under its own window": (
        lambda: ct(RescaleSlope=None, RescaleIntercept=None, WindowCenter=2048, WindowWidth=4096),
        "dicom",
        linear(STORED, 2048, 4096),
        EXACT,
    ),
    "PET in SUV by body weight": (
        lambda: ct(
            SOPClassUID=PositronEmissionTomographyImageStorage,
            Modality="PT",
            Units="GML",
            SUVType="BW",
            RescaleSlope=0.002,
        ),
        SUV,
        unit(STORED * 0.002, 0, 6),
        EXACT,
    ),
    **{
        f"PET in {units} {kind}": (
            lambda units=units, kind=kind: ct(
                SOPClassUID=PositronEmissionTomographyImageStorage, Modality="PT", Units=units, SUVType=kind
            ),
            SUV,
            "wrong_unit",
            0,
        )
        for units, kind in (("BQML", ""), ("CNTS", ""), ("GML", "LBM"), ("GML", "BSA"), ("PROPCPS", ""), ("", ""))
    },
    "padding of JPEG-LS with an error of 15": (
        lambda: packed(
            ct(
                PADDED,
                PixelRepresentation=1,
                BitsStored=16,
                HighBit=15,
                PixelPaddingValue=-2000,
                LossyImageCompression="01",
            ),
            [bytes(imagecodecs.jpegls_encode((PADDED.astype(np.int32) + 32768).astype(np.uint16) ^ 0x8000, level=15))],
            JPEGLSNearLossless,
        ),
        (300.0, 1100.0),
        np.where(INSIDE, unit(PADDED, -250, 850), -1),
        0.05,
    ),
    "padding of a range": (
        lambda: ct(
            np.where(INSIDE, PADDED, -2000 + (STORED % 40).astype(np.int16)).astype(np.int16),
            PixelRepresentation=1,
            BitsStored=16,
            HighBit=15,
            PixelPaddingValue=-2000,
            PixelPaddingRangeLimit=-1961,
        ),
        "percentile",
        None,
        0,
    ),
}


@pytest.mark.parametrize("name", DISPLAY)
def test_the_display_that_is_meant_or_its_refusal(name: str) -> None:
    holds(DISPLAY[name])


def test_padding_of_a_range_is_black_and_in_no_percentile() -> None:
    make, window, _, _ = DISPLAY["padding of a range"]
    (shown,), _ = decode(make(), window=window)
    low, high = np.percentile(PADDED[INSIDE], [1, 99], method="inverted_cdf")
    np.testing.assert_allclose(shown, np.where(INSIDE, unit(PADDED, low, high), -1), atol=EXACT)
