"""Bits of a sample against the header, of colours, palettes and streams: the picture that is true, or a refusal."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    UltrasoundImageStorage,
)

from tests.client.decoding import EXACT, decode, packed, shown
from tests.client.scans import scan
from tests.client.variants import (
    BYTES,
    COLOURS,
    SMOOTH,
    STORED,
    WHOLE,
    coloured,
    ct,
    j2k,
    jpeg,
    luminance,
    rle,
    unit,
)

CONTRADICTS = ([], "contradictory_header")
COARSE = 0.02
"""What rounding to 9 or 10 bits and back costs."""


def wide(stored: int, colours: NDArray[Any] = COLOURS) -> NDArray[np.uint16]:
    """Colours that fill so many bits."""
    return np.rint(colours.astype(np.float64) * ((1 << stored) - 1) / 255).astype(np.uint16)


def bits(allocated: int, stored: int, high: int | None = None) -> dict[str, int]:
    return {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1 if high is None else high}


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_PARTIAL_422"])
@pytest.mark.parametrize("stored", [1, 2, 4, 7])
def test_native_colour_of_fewer_than_eight_bits_is_refused(photometric: str, stored: int) -> None:
    """Cut to 2 bits it is nearly black, and not cut it is not what the header says."""
    assert decode(coloured(photometric, **bits(8, stored))) == CONTRADICTS
    assert decode(coloured(photometric, COLOURS >> (8 - stored), **bits(8, stored))) == CONTRADICTS


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize(("stored", "high"), [(7, 6), (8, 7), (8, 15), (10, 9), (12, 11), (12, 15), (15, 14)])
def test_native_colour_that_needs_more_bits_than_it_says_is_refused(photometric: str, stored: int, high: int) -> None:
    assert decode(coloured(photometric, wide(16), **bits(16, stored, high))) == CONTRADICTS


@pytest.mark.parametrize("stored", [8, 9, 10, 12, 14, 16])
def test_native_colour_that_fits_its_bits_is_shown_over_all_of_them(stored: int) -> None:
    result = shown(coloured("RGB", wide(stored), **bits(16, stored)))
    np.testing.assert_allclose(result, luminance(COLOURS), atol=COARSE)


def test_native_colour_of_8_and_16_bits_is_exact_also_big_endian_and_of_a_wrong_high_bit() -> None:
    np.testing.assert_allclose(shown(coloured("RGB")), luminance(COLOURS), atol=EXACT)
    np.testing.assert_allclose(shown(coloured("RGB", **bits(8, 8, 3))), luminance(COLOURS), atol=EXACT)
    big = coloured("RGB", wide(16), **bits(16, 16), PixelData=wide(16).astype(">u2").tobytes())
    big["PixelData"].VR = "OW"
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    np.testing.assert_allclose(shown(big), luminance(COLOURS), atol=0.005)


def test_colour_with_a_sign_is_refused() -> None:
    assert decode(coloured("RGB", PixelRepresentation=1)) == CONTRADICTS


CODERS: dict[str, tuple[Callable[[NDArray[Any]], bytes], str, str]] = {
    "jpeg 2000": (lambda pixels: j2k(pixels, mct=True), JPEG2000Lossless, "YBR_RCT"),
    "jpeg-ls": (lambda pixels: bytes(imagecodecs.jpegls_encode(pixels)), JPEGLSLossless, "RGB"),
    "jpeg": (jpeg, JPEGBaseline8Bit, "YBR_FULL_422"),
}


@pytest.mark.parametrize("codec", CODERS)
@pytest.mark.parametrize("stored", [2, 7])
def test_a_colour_stream_of_eight_bits_under_fewer_is_refused(codec: str, stored: int) -> None:
    encode, syntax, photometric = CODERS[codec]
    assert decode(packed(coloured(photometric, **bits(8, stored)), [encode(SMOOTH)], syntax)) == CONTRADICTS


@pytest.mark.parametrize("codec", CODERS)
@pytest.mark.parametrize("stored", [8, 10, 12, 16])
def test_a_colour_stream_of_eight_bits_under_sixteen_is_as_bright_as_it_says(codec: str, stored: int) -> None:
    """White of a stream is that of its own bits: under 12 or 16 of the header the picture was nearly black."""
    encode, syntax, photometric = CODERS[codec]
    given = coloured(photometric, SMOOTH.astype(np.uint16), **bits(16, stored))
    np.testing.assert_allclose(shown(packed(given, [encode(SMOOTH)], syntax)), luminance(SMOOTH), atol=0.06)


@pytest.mark.parametrize(("allocated", "stored"), [(8, 8), (16, 12), (16, 16)])
def test_a_colour_stream_of_twelve_bits_is_as_bright_as_it_says(allocated: int, stored: int) -> None:
    stream = j2k(wide(12), mct=True, bitspersample=12)
    given = coloured("YBR_RCT", COLOURS if allocated == 8 else wide(12), **bits(allocated, stored))
    np.testing.assert_allclose(shown(packed(given, [stream], JPEG2000Lossless)), luminance(COLOURS), atol=0.006)


@pytest.mark.parametrize("stored", [8, 12])
def test_a_colour_stream_that_needs_more_bits_than_the_header_says_is_refused(stored: int) -> None:
    given = coloured("YBR_RCT", wide(16), **bits(16, stored))
    assert decode(packed(given, [j2k(wide(16), mct=True)], JPEG2000Lossless)) == CONTRADICTS


def test_run_length_colour_of_fewer_bits_is_refused() -> None:
    dataset = coloured("RGB")
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = 2, 1
    assert decode(dataset) == CONTRADICTS


@pytest.mark.parametrize("stored", [2, 6, 7])
def test_grey_lossy_values_far_outside_of_their_bits_are_no_overshoot(stored: int) -> None:
    """All clipped to white, they would be a picture of two levels."""
    given = scan(BYTES, **bits(8, stored))
    assert decode(packed(given, [jpeg(BYTES)], JPEGBaseline8Bit)) == CONTRADICTS
    twelve = j2k(STORED, reversible=False, level=70, bitspersample=12)
    assert decode(packed(ct(**bits(16, stored + 2)), [twelve], JPEG2000)) == CONTRADICTS


def palette(indices: NDArray[Any], **values: Any) -> Dataset:
    """256 entries, each colour its own index."""
    dataset = scan(
        indices,
        SOPClassUID=UltrasoundImageStorage,
        Modality="US",
        BurnedInAnnotation="NO",
        PhotometricInterpretation="PALETTE COLOR",
        **values,
    )
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        words = (np.arange(256) * 257).astype("<u2").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", words)
    return dataset


@pytest.mark.parametrize(("allocated", "stored", "high"), [(8, 7, 6), (8, 2, 1), (16, 7, 6), (16, 2, 1), (16, 7, 14)])
def test_indices_that_reach_entries_beyond_their_bits_are_refused(allocated: int, stored: int, high: int) -> None:
    indices = BYTES if allocated == 8 else BYTES.astype(np.uint16)
    assert decode(palette(indices, **bits(allocated, stored, high))) == CONTRADICTS


@pytest.mark.parametrize(("allocated", "stored"), [(8, 8), (16, 8), (16, 12), (16, 16)])
def test_indices_within_their_bits_are_looked_up(allocated: int, stored: int) -> None:
    indices = BYTES if allocated == 8 else BYTES.astype(np.uint16)
    np.testing.assert_allclose(shown(palette(indices, **bits(allocated, stored))), unit(BYTES, 0, 255), atol=EXACT)


def test_bits_above_indices_for_which_there_is_no_entry_are_cut_off() -> None:
    junk = BYTES.astype(np.uint16) | 0x4100
    np.testing.assert_allclose(shown(palette(junk, **bits(16, 8))), unit(BYTES, 0, 255), atol=EXACT)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg 2000"])
def test_indices_that_compression_has_moved_are_other_colours(codec: str) -> None:
    stream = jpeg(BYTES) if codec == "jpeg" else j2k(BYTES, reversible=False, level=40)
    syntax = JPEGBaseline8Bit if codec == "jpeg" else JPEG2000
    assert decode(packed(palette(BYTES, **bits(8, 8)), [stream], syntax)) == CONTRADICTS


@pytest.mark.parametrize("stored", [10, 12])
def test_bits_above_grey_are_cut_off_as_the_standard_says(stored: int) -> None:
    junk = ((STORED >> (12 - stored)) | (0xF << stored)).astype(np.uint16)
    result = shown(ct(junk, **bits(16, stored)), window=WHOLE if stored == 12 else (511.5, 1023.0))
    np.testing.assert_allclose(result, unit(STORED >> (12 - stored), 0, (1 << stored) - 1), atol=EXACT)


HIGH: dict[str, Callable[[NDArray[Any]], Dataset]] = {
    "native": lambda values: ct(values, **bits(16, 12, 15)),
    "run-length": lambda values: packed(ct(values, **bits(16, 12, 15)), [bytes(rle(values))], RLELossless),
    "jpeg 2000": lambda values: packed(ct(values, **bits(16, 12, 15)), [j2k(values)], JPEG2000Lossless),
    "jpeg 2000 with loss": lambda values: packed(
        ct(values, **bits(16, 12, 15)), [j2k(values, reversible=False, level=90)], JPEG2000
    ),
    "jpeg-ls": lambda values: packed(
        ct(values, **bits(16, 12, 15)), [bytes(imagecodecs.jpegls_encode(values))], JPEGLSLossless
    ),
    "lossless jpeg": lambda values: packed(
        ct(values, **bits(16, 12, 15)),
        [bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=16))],
        JPEGLosslessSV1,
    ),
}


@pytest.mark.parametrize("codec", HIGH)
@pytest.mark.parametrize("shift", [4, 0])
def test_values_high_in_their_cells_are_moved_down_and_a_wrong_high_bit_moves_nothing(codec: str, shift: int) -> None:
    result = shown(HIGH[codec]((STORED << shift).astype(np.uint16)), window=WHOLE)
    np.testing.assert_allclose(result, unit(STORED), atol=0.01 if codec.endswith("loss") else EXACT)
