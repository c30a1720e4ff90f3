"""Damaged compressed frames: a decoder paints over what is missing, and that is no picture of a patient."""

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.client.decoding import EXACT, decode, packed, shown
from tests.client.scans import scan
from tests.client.variants import BYTES, COLOURS, STORED, WHOLE, coloured, ct, j2k, jpeg, luminance, rle, unit

NEAR = 0.06
"""What JPEG may cost a smooth picture of range 2."""
NOISE = np.random.default_rng(5).integers(0, 256, 8, dtype=np.uint8).tobytes()
CODES = b"\xff\xda"


def twelve(stored: NDArray[np.uint16] = STORED) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(stored, level=95, bitspersample=12))


STREAMS = {
    "jpeg of 12 bits": (twelve(), JPEGExtended12Bit),
    "lossless jpeg": (bytes(imagecodecs.jpeg8_encode(STORED, lossless=True, bitspersample=12)), JPEGLosslessSV1),
    "jpeg-ls": (bytes(imagecodecs.jpegls_encode(STORED)), JPEGLSLossless),
    "jpeg-ls with loss": (bytes(imagecodecs.jpegls_encode(STORED, level=2)), JPEGLSNearLossless),
    "jpeg 2000": (j2k(STORED, bitspersample=12), JPEG2000Lossless),
    "jpeg 2000 with loss": (j2k(STORED, bitspersample=12, reversible=False, level=60), JPEG2000),
    "htj2k": (bytes(imagecodecs.htj2k_encode(STORED, reversible=True)), HTJ2KLossless),
    "rle": (bytes(rle(STORED)), RLELossless),
}


def bytes_of(stored: NDArray[np.uint8] = BYTES) -> Dataset:
    return scan(stored, BitsAllocated=8, BitsStored=8, HighBit=7)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("closed", [True, False])
def test_a_stream_that_breaks_off_is_no_picture(name: str, share: float, *, closed: bool) -> None:
    stream, syntax = STREAMS[name]
    assert shown(packed(ct(), [stream], syntax)).std() > 0.2
    half = stream[: int(len(stream) * share)].rstrip(b"\xff") + (stream[-2:] if closed else b"")
    pictures, reason = decode(packed(ct(), [half], syntax))
    assert (pictures, reason) in (([], "decode_failed"), ([], "truncated"))


@pytest.mark.parametrize("name", ["jpeg of 12 bits", "lossless jpeg", "jpeg-ls", "jpeg-ls with loss"])
def test_what_two_decoders_make_of_damage_differs_or_one_of_them_refuses(name: str) -> None:
    """Damage that leaves valid codes, as many as the pixels need, is another picture to every decoder."""
    stream, syntax = STREAMS[name]
    whole = shown(packed(ct(), [stream], syntax), window=WHOLE)
    begin, wrong = stream.index(CODES) + 14, 0
    places = np.linspace(begin, len(stream) - 20, 40).astype(int)
    for place in places:
        damaged = stream[:place] + NOISE + stream[place + len(NOISE) :]
        pictures, reason = decode(packed(ct(), [damaged], syntax), window=WHOLE)
        assert reason in ("", "decode_failed", "truncated", "contradictory_header")
        wrong += bool(pictures) and float(np.abs(pictures[0] - whole).max()) > NEAR
    assert wrong <= len(places) // 2


def test_codes_that_no_pixel_used_tell_of_damage_before_them() -> None:
    stream = jpeg(BYTES)
    assert decode(packed(bytes_of(), [stream[:-2] + NOISE.replace(b"\xff", b"") + stream[-2:]], JPEGBaseline8Bit)) == (
        [],
        "decode_failed",
    )


@pytest.mark.parametrize("bits", [8, 12])
def test_a_scan_header_without_its_coefficients_is_read_as_the_whole_scan_it_is(bits: int) -> None:
    """Some makers write zeros there, which pylibjpeg refuses; that six real files have it was told as a lack."""
    stream = jpeg(BYTES) if bits == 8 else twelve()
    place = stream.index(CODES) + 7
    assert stream[place : place + 3] == b"\x00\x3f\x00"
    zeros = stream[:place] + bytes(3) + stream[place + 3 :]
    header, syntax = (bytes_of(), JPEGBaseline8Bit) if bits == 8 else (ct(), JPEGExtended12Bit)
    result = shown(packed(header, [zeros], syntax), window=WHOLE if bits == 12 else (127.5, 255.0))
    np.testing.assert_allclose(result, unit(STORED) if bits == 12 else unit(BYTES, 0, 255), atol=NEAR)


@pytest.mark.parametrize("colour", [True, False])
def test_jpeg_ls_under_the_tag_of_another_codec_is_what_the_stream_is(*, colour: bool) -> None:
    pixels = COLOURS if colour else STORED
    header = coloured("RGB") if colour else ct()
    dataset = packed(header, [bytes(imagecodecs.jpegls_encode(pixels))], JPEGLosslessSV1)
    expected = luminance(COLOURS) if colour else unit(STORED)
    np.testing.assert_allclose(shown(dataset, window=WHOLE if not colour else "dicom"), expected, atol=EXACT)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_a_jpeg_that_breaks_off_is_no_picture(share: float, *, closed: bool, colour: bool) -> None:
    """Most decoders paint the rest grey, which looks like a picture."""
    pixels = COLOURS if colour else BYTES
    stream = jpeg(pixels)
    begin = stream.index(b"\xff\xda") + 14
    half = stream[: begin + int((len(stream) - begin) * share)].rstrip(b"\xff") + (b"\xff\xd9" if closed else b"")
    given = coloured("YBR_FULL_422") if colour else bytes_of()
    assert decode(packed(given, [half], JPEGBaseline8Bit)) == ([], "decode_failed" if closed else "truncated")


def test_damage_inside_a_jpeg_is_noticed_where_its_codes_tell() -> None:
    stored = BYTES
    stream, dice = jpeg(stored), np.random.default_rng(0)
    begin, outcomes = stream.index(b"\xff\xda") + 14, set()
    for _ in range(60):
        damaged = bytearray(stream)
        place = int(dice.integers(begin, len(stream) - 40))
        damaged[place : place + 8] = dice.integers(0, 255, 8, dtype=np.uint8).tobytes()
        header = bytes_of()
        outcomes.add(decode(packed(header, [bytes(damaged)], JPEGBaseline8Bit))[1])
    assert "decode_failed" in outcomes
    assert outcomes <= {"", "decode_failed", "truncated", "contradictory_header"}


def test_stray_bytes_before_the_end_of_a_jpeg_lose_no_pixels() -> None:
    stored = BYTES
    stream = jpeg(stored)[:-2] + b"\x00\x00\x00\xff\xd9"
    header = bytes_of()
    result = shown(packed(header, [stream], JPEGBaseline8Bit), window=(128.0, 256.0))
    np.testing.assert_allclose(result, unit(stored, 0, 256), atol=NEAR)


def test_a_jpeg_whose_head_is_damaged_is_refused_and_ends_no_process() -> None:
    stored = BYTES
    stream = jpeg(stored)
    place = stream.index(b"\xff\xc0")
    damaged = stream[:place] + bytes(28) + stream[place:]
    header = bytes_of()
    assert decode(packed(header, [damaged], JPEGBaseline8Bit)) == ([], "decode_failed")
