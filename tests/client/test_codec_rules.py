"""Compressed pixels whose codestream and header disagree: the picture that is true, or a refusal."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    EnhancedMRImageStorage,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    UltrasoundImageStorage,
)

from tests.client.decoding import EXACT, decode, decode_file, packed, shown
from tests.client.scans import picture, save, scan

Pixels = NDArray[Any]

WHOLE = (2048.0, 4096.0)
NEAR = 0.06
"""What baseline JPEG at quality 95 may cost a smooth picture of range 2."""


def grey(seed: int = 1, *, bits: int = 12) -> Pixels:
    return picture(seed, rows=40, columns=40, bits=bits)


def colours(seed: int = 20) -> Pixels:
    return np.stack([picture(seed + i, rows=40, columns=40, bits=8).astype(np.uint8) for i in range(3)], axis=-1)


def smooth_colours() -> Pixels:
    """A picture that half the chroma does not change."""
    y, x = np.mgrid[0:40, 0:40]
    return np.stack([x * 5 + 20, 235 - y * 4, (x + y) * 2 + 40], axis=-1).astype(np.uint8)


def unit(stored: Pixels, span: float = 4096.0) -> Pixels:
    """A grey picture under the window that shows its whole range."""
    return np.clip(stored.astype(np.float64) * 2 / span - 1, -1, 1)


def luminance(colour: Pixels) -> Pixels:
    return (colour.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000 / 127.5 - 1


def twelve(stored: Pixels | None = None, **values: Any) -> Dataset:
    """A 12-bit CT slice."""
    return scan(grey() if stored is None else stored, **{"BitsStored": 12, "HighBit": 11, **values})


def colour_object(photometric: str, pixels: Pixels | None = None, **values: Any) -> Dataset:
    """An ultrasound image in colour whose header says what it is told."""
    pixels = colours() if pixels is None else pixels
    given: dict[str, Any] = {
        "SOPClassUID": UltrasoundImageStorage, "Modality": "US", "BurnedInAnnotation": "NO", "SamplesPerPixel": 3,
        "PlanarConfiguration": 0, "PhotometricInterpretation": photometric,
    }  # fmt: skip
    return scan(pixels, **{**given, **values})


def jpeg(pixels: Pixels, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=95, **options)
    return content.getvalue()


def j2k(pixels: Pixels, **options: Any) -> bytes:
    given = {"level": 0, "codecformat": "j2k", "reversible": True, **options}
    return bytes(imagecodecs.jpeg2k_encode(pixels, **given))


@pytest.mark.parametrize(
    ("name", "syntax", "error"),
    [
        ("jpeg12", JPEGExtended12Bit, 0.02),
        ("lossless12", JPEGLosslessSV1, EXACT),
        ("lossless16", JPEGLossless, EXACT),
        ("j2k", JPEG2000Lossless, EXACT),
        ("htj2k", HTJ2KLossless, EXACT),
        ("htj2k", HTJ2K, EXACT),
        ("jpegls", JPEGLSLossless, EXACT),
    ],
)
def test_every_codec_that_hospitals_use_gives_the_picture_back(name: str, syntax: str, error: float) -> None:
    stored = grey()
    streams = {
        "jpeg12": lambda: imagecodecs.jpeg8_encode(stored, level=98, bitspersample=12),
        "lossless12": lambda: imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=12),
        "lossless16": lambda: imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=16),
        "j2k": lambda: j2k(stored, bitspersample=12),
        "htj2k": lambda: imagecodecs.htj2k_encode(stored, reversible=True),
        "jpegls": lambda: imagecodecs.jpegls_encode(stored),
    }
    result = shown(packed(twelve(), [bytes(streams[name]())], syntax), window=WHOLE)
    np.testing.assert_allclose(result, unit(stored), atol=error)


@pytest.mark.parametrize("number", [b"110", b"112"])
def test_jpeg_xl_is_read(tmp_path: Path, number: bytes) -> None:
    stored = grey()
    stream = bytes(imagecodecs.jpegxl_encode(stored, lossless=True))
    path = save(packed(twelve(), [stream], "1.2.840.10008.1.2.4.203"), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.203", b"1.2.840.10008.1.2.4." + number, 1))
    (result,), reason = decode_file(path, window=WHOLE)
    assert reason == ""
    np.testing.assert_allclose(result, unit(stored), atol=EXACT)


# --- bits and sign ---


@pytest.mark.parametrize("codec", ["j2k", "jpegls", "jpeg lossless"])
def test_bits_above_the_stored_ones_are_cut_off_a_lossless_stream(codec: str) -> None:
    stored = grey()
    dirty = stored.copy()
    dirty[10:20] |= 1 << 13
    stream, syntax = {
        "j2k": (j2k(dirty), JPEG2000Lossless),
        "jpegls": (bytes(imagecodecs.jpegls_encode(dirty)), JPEGLSLossless),
        "jpeg lossless": (bytes(imagecodecs.jpeg8_encode(dirty, lossless=True, bitspersample=16)), JPEGLosslessSV1),
    }[codec]
    np.testing.assert_allclose(shown(packed(twelve(), [stream], syntax), window=WHOLE), unit(stored), atol=EXACT)


def test_overshoot_of_a_lossy_stream_is_clipped_and_does_not_wrap_to_black() -> None:
    stored = np.full((40, 40), 4095, np.uint16)
    stored[:, :20] = 0
    over = np.where(stored > 0, 4099, 0).astype(np.uint16)  # what a lossy encoder may make of it
    stream = bytes(imagecodecs.jpegls_encode(over, level=1))
    result = shown(packed(twelve(), [stream], JPEGLSNearLossless), window=WHOLE)
    np.testing.assert_allclose(result, unit(stored), atol=2e-3)


@pytest.mark.parametrize("frames", [1, 501])
@pytest.mark.parametrize("codec", ["j2k unsigned", "jpegls"])
def test_signed_values_in_an_unsigned_stream_keep_their_sign(frames: int, codec: str) -> None:
    stored = grey().astype(np.int16) - 2048
    raw = (stored & 0xFFF).astype(np.uint16)
    stream, syntax = (
        (j2k(raw, bitspersample=12), JPEG2000Lossless)
        if codec == "j2k unsigned"
        else (bytes(imagecodecs.jpegls_encode(raw)), JPEGLSLossless)
    )
    dataset = scan(stored, BitsStored=12, HighBit=11, SOPClassUID=EnhancedMRImageStorage, Modality="MR")
    dataset.NumberOfFrames = frames
    pictures, reason = decode(packed(dataset, [stream] * frames, syntax), window=(0.0, 4096.0))
    assert (len(pictures), reason) == (frames, "")
    for found in pictures[:: max(1, frames - 1)]:
        np.testing.assert_allclose(found, stored / 2048, atol=EXACT)


def test_unsigned_values_in_a_signed_stream_are_not_negative() -> None:
    stored = grey(bits=16)
    dataset = packed(scan(stored), [j2k(stored.view(np.int16))], JPEG2000Lossless)
    np.testing.assert_allclose(shown(dataset, window=(32768.0, 65536.0)), unit(stored, 65536), atol=EXACT)


def test_eight_bit_jpeg_under_a_header_of_twelve_is_what_the_stream_holds() -> None:
    stored = grey(bits=8).astype(np.uint8)
    dataset = packed(twelve(WindowCenter=128, WindowWidth=256), [jpeg(stored)], JPEGBaseline8Bit)
    np.testing.assert_allclose(shown(dataset), unit(stored, 255), atol=NEAR)


def test_twelve_bit_jpeg_under_a_header_of_eight_is_what_the_stream_holds() -> None:
    stored = grey()
    eight = scan(stored.astype(np.uint8), WindowCenter=2048, WindowWidth=4096)
    stream = bytes(imagecodecs.jpeg8_encode(stored, level=98, bitspersample=12))
    np.testing.assert_allclose(shown(packed(eight, [stream], JPEGExtended12Bit)), unit(stored), atol=0.02)


# --- colour ---


@pytest.mark.parametrize("tag", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_RCT"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"keep_rgb": True}])
def test_baseline_jpeg_is_read_by_its_own_marks_whatever_its_tag(tag: str, options: dict[str, Any]) -> None:
    pixels = smooth_colours()
    dataset = packed(colour_object(tag, pixels), [jpeg(pixels, **options)], JPEGBaseline8Bit)
    np.testing.assert_allclose(shown(dataset), luminance(pixels), atol=NEAR)


@pytest.mark.parametrize("tag", ["RGB", "YBR_FULL_422"])
def test_baseline_jpeg_without_marks_is_read_by_its_tag(tag: str) -> None:
    pixels = smooth_colours()
    stream = jpeg(pixels, subsampling=0, **({"keep_rgb": True} if tag == "RGB" else {}))
    start = 2
    while stream[start + 1] in (0xE0, 0xEE):
        start += 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
    bare = bytearray(b"\xff\xd8" + stream[start:])
    frame = bare.index(b"\xff\xc0")
    for number in range(3):
        bare[frame + 10 + 3 * number] = number + 1
    scan_head = bare.index(b"\xff\xda")
    for number in range(3):
        bare[scan_head + 5 + 2 * number] = number + 1
    result = shown(packed(colour_object(tag, pixels), [bytes(bare)], JPEGBaseline8Bit))
    np.testing.assert_allclose(result, luminance(pixels), atol=NEAR)


@pytest.mark.parametrize("tag", ["RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT", "YBR_FULL_422"])
def test_jpeg_2000_whose_stream_undoes_its_transform_is_not_converted_twice(tag: str) -> None:
    pixels = colours()
    dataset = packed(colour_object(tag, pixels), [j2k(pixels, mct=True)], JPEG2000Lossless)
    np.testing.assert_allclose(shown(dataset), luminance(pixels), atol=EXACT)


@pytest.mark.parametrize("tag", ["RGB", "YBR_RCT"])
def test_jpeg_2000_without_a_transform_is_rgb(tag: str) -> None:
    pixels = colours()
    dataset = packed(colour_object(tag, pixels), [j2k(pixels, mct=False)], JPEG2000Lossless)
    np.testing.assert_allclose(shown(dataset), luminance(pixels), atol=EXACT)


def ycbcr(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


@pytest.mark.parametrize("codec", ["j2k", "rle", "jpegls"])
def test_ybr_in_a_lossless_stream_is_converted_once(codec: str) -> None:
    pixels = smooth_colours()
    dataset = colour_object("YBR_FULL", ycbcr(pixels))
    if codec == "j2k":
        packed(dataset, [j2k(ycbcr(pixels), mct=False)], JPEG2000Lossless)
    elif codec == "jpegls":
        packed(dataset, [bytes(imagecodecs.jpegls_encode(ycbcr(pixels)))], JPEGLSLossless)
    else:
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    np.testing.assert_allclose(shown(dataset), luminance(pixels), atol=0.02)


@pytest.mark.parametrize("codec", ["jpeg lossless", "jpegls", "j2k", "rle"])
def test_whole_chroma_under_a_tag_of_half_is_refused(codec: str) -> None:
    pixels = colours()
    dataset = colour_object("RGB", pixels)
    if codec == "rle":
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    elif codec == "j2k":
        packed(dataset, [j2k(pixels, mct=False)], JPEG2000Lossless)
    elif codec == "jpegls":
        packed(dataset, [bytes(imagecodecs.jpegls_encode(pixels))], JPEGLSLossless)
    else:
        stream = bytearray(imagecodecs.jpeg8_encode(pixels, lossless=True))
        stream[2] = stream[2]
        assert stream[2:4] == b"\xff\xee"
        stream[3] = 0xE5  # an application segment that says nothing
        frame = stream.index(b"\xff\xc3")
        scan_head = stream.index(b"\xff\xda")
        for number in range(3):
            stream[frame + 10 + 3 * number] = stream[scan_head + 5 + 2 * number] = number + 1
        packed(dataset, [bytes(stream)], JPEGLosslessSV1)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    assert decode(dataset) == ([], "contradictory_header")


def test_native_rgb_under_a_tag_of_half_the_chroma_is_refused() -> None:
    assert decode(colour_object("YBR_FULL_422")) == ([], "contradictory_header")


def halved(pixels: Pixels) -> bytes:
    """Native 4:2:2: two luminances, one Cb, one Cr."""
    rows = np.empty((*pixels.shape[:1], pixels.shape[1] // 2, 4), np.uint8)
    rows[..., 0], rows[..., 1] = pixels[:, ::2, 0], pixels[:, 1::2, 0]
    rows[..., 2], rows[..., 3] = pixels[:, ::2, 1], pixels[:, ::2, 2]
    return rows.tobytes()


def test_native_colour_with_half_the_chroma_is_read() -> None:
    pixels = smooth_colours()
    full = colour_object("YBR_FULL_422", pixels)
    full.PixelData = halved(ycbcr(pixels))
    np.testing.assert_allclose(shown(full), luminance(pixels), atol=0.03)
    narrow = ycbcr(pixels).astype(np.float64)
    narrow[..., 0] = 16 + narrow[..., 0] * 219 / 255
    partial = colour_object("YBR_PARTIAL_422", pixels)
    partial.PixelData = halved(narrow.round().astype(np.uint8))
    np.testing.assert_allclose(shown(partial), luminance(pixels), atol=0.03)


def test_planar_configuration_does_not_apply_to_streams() -> None:
    pixels = smooth_colours()
    dataset = packed(colour_object("RGB", pixels, PlanarConfiguration=1), [j2k(pixels, mct=True)], JPEG2000Lossless)
    np.testing.assert_allclose(shown(dataset), luminance(pixels), atol=EXACT)


@pytest.mark.parametrize("tag", ["ARGB", "CMYK", "HSV"])
def test_colour_that_cannot_be_brought_to_grey_says_so(tag: str) -> None:
    assert decode(colour_object(tag)) == ([], "unsupported_colour")


def test_grey_with_three_samples_and_colour_with_one_are_refused() -> None:
    assert decode(colour_object("MONOCHROME2")) == ([], "contradictory_header")
    one = scan(grey(bits=8).astype(np.uint8), PhotometricInterpretation="RGB", SOPClassUID=UltrasoundImageStorage,
               BurnedInAnnotation="NO")  # fmt: skip
    assert decode(one) == ([], "contradictory_header")
    assert decode(packed(twelve(), [j2k(colours())], JPEG2000Lossless)) == ([], "contradictory_header")


def test_stream_of_another_size_than_the_header_says_is_refused() -> None:
    dataset = packed(twelve(picture(3, rows=50, columns=32)), [j2k(grey())], JPEG2000Lossless)
    assert decode(dataset) == ([], "contradictory_header")


def test_video_says_that_no_decoder_takes_it() -> None:
    dataset = packed(colour_object("YBR_PARTIAL_420", NumberOfFrames=9), [b"\0\0\1\xb3" * 9], "1.2.840.10008.1.2.4.100")
    assert decode(dataset) == ([], "unsupported_syntax")
