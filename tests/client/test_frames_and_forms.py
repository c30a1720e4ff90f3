"""Frames that are miscounted, offset tables that are wrong, geometry that is short: recovered where it can be told."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, JPEG2000Lossless, RLELossless

from tests.client.decoding import EXACT, decode, packed, shown
from tests.client.scans import picture, scan
from tests.client.test_codec_rules import j2k

Pixels = NDArray[Any]

WHOLE = (2048.0, 4096.0)


def frames(count: int) -> list[Pixels]:
    return [picture(30 + i, rows=40, columns=40) for i in range(count)]


def enhanced(pixels: list[Pixels], **values: Any) -> Dataset:
    dataset = scan(pixels[0], BitsStored=12, HighBit=11, SOPClassUID=EnhancedMRImageStorage, Modality="MR")
    dataset.PixelData = np.stack(pixels).tobytes()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def check(dataset: Dataset, pixels: list[Pixels]) -> None:
    pictures, reason = decode(dataset, window=WHOLE)
    assert (len(pictures), reason) == (len(pixels), "")
    for found, stored in zip(pictures, pixels, strict=True):
        np.testing.assert_allclose(found, stored / 2048.0 - 1, atol=EXACT)


@pytest.mark.parametrize("spoil", ["shifted", "short", "zeros", "huge", "absent", "none"])
@pytest.mark.parametrize("cut", [1, 3])
def test_offset_tables_are_not_needed(spoil: str, cut: int) -> None:
    """Frames of `cut` fragments each, with an offset table that is wrong in one of several ways."""
    pixels = frames(4)
    streams = [j2k(stored, bitspersample=12) for stored in pixels]
    items: list[bytes] = []
    offsets, at = [], 0
    for stream in streams:
        offsets.append(at)
        step = -(-len(stream) // cut)
        step += step % 2
        for start in range(0, len(stream), step):
            part = stream[start : start + step]
            part += b"\0" * (len(part) % 2)
            items.append(b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part)
            at += len(items[-1])
    entries = {
        "shifted": [offset + 8 for offset in offsets], "short": offsets[:2], "zeros": [0] * 4,
        "huge": [0, *[0xFFFFFFF0] * 3], "absent": [], "none": [],
    }[spoil]  # fmt: skip
    table = b"".join(entry.to_bytes(4, "little") for entry in entries)
    head = b"" if spoil == "none" else b"\xfe\xff\x00\xe0" + len(table).to_bytes(4, "little") + table
    dataset = packed(enhanced(pixels, NumberOfFrames=4), streams, JPEG2000Lossless)
    dataset.PixelData = head + b"".join(items) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    check(dataset, pixels)


@pytest.mark.parametrize("codec", ["native", "j2k", "rle"])
@pytest.mark.parametrize("declared", [None, 1, 2])
def test_more_frames_than_the_header_counts_are_refused(codec: str, declared: int | None) -> None:
    pixels = frames(4)
    dataset = enhanced(pixels, NumberOfFrames=4)
    if codec == "j2k":
        packed(dataset, [j2k(stored, bitspersample=12) for stored in pixels], JPEG2000Lossless, table=False)
    elif codec == "rle":
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    check(dataset, pixels)
    if declared is None:
        del dataset.NumberOfFrames
    else:
        dataset.NumberOfFrames = declared
    assert decode(dataset, window=WHOLE) == ([], "contradictory_header")


@pytest.mark.parametrize("codec", ["native", "j2k", "rle"])
def test_fewer_frames_than_the_header_counts_are_refused(codec: str) -> None:
    pixels = frames(4)
    dataset = enhanced(pixels, NumberOfFrames=4)
    if codec == "j2k":
        packed(dataset, [j2k(stored, bitspersample=12) for stored in pixels], JPEG2000Lossless)
    elif codec == "rle":
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.NumberOfFrames = 5
    assert decode(dataset, window=WHOLE) == ([], "truncated")


def test_fewer_functional_groups_than_frames_are_refused() -> None:
    pixels = frames(3)
    dataset = enhanced(pixels, NumberOfFrames=3)
    dataset.PerFrameFunctionalGroupsSequence = [Dataset(), Dataset()]
    assert decode(dataset, window=WHOLE) == ([], "contradictory_header")


def test_some_bytes_behind_the_last_frame_are_no_frame() -> None:
    pixels = frames(2)
    dataset = enhanced(pixels, NumberOfFrames=2)
    dataset.PixelData += bytes(100)
    check(dataset, pixels)


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing"])
def test_one_spacing_stands_for_square_pixels(keyword: str) -> None:
    stored = picture(1, rows=40, columns=40)
    dataset = scan(stored, WindowCenter=2048, WindowWidth=4096)
    dataset.add_new(keyword, "DS", "0.5")
    np.testing.assert_allclose(shown(dataset), np.clip(stored * 2 / 4095 - 1, -1, 1), atol=EXACT)
