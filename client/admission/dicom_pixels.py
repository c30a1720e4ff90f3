"""The pixel data of one DICOM file: declared against possible size first, then decoded frame by frame."""

import itertools
import math
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from client.admission.dicom_reader import Header, parse_header, read_file, text_of
from client.admission.dicom_tags import value_of
from client.admission.pixels import Stored
from client.admission.reasons import Reason
from client.admission.scan import Facts
from common.errors import ScanRefused

MAX_FRAME_PIXELS = 1 << 26
MAX_FILE_PIXELS = 1 << 31
MAX_FRAMES = 10_000

_UNDEFINED = 0xFFFFFFFF
_ITEM = struct.Struct("<HHL")
_ITEM_START = (0xFFFE, 0xE000)
_SEQUENCE_END = (0xFFFE, 0xE0DD)
_CELLS = (1, 8, 16, 32, 64)
"""Bits that a pixel cell can have."""
_FRAMES_BY_INDEX = 500
"""Up to here frames are fetched by number, which without an offset table costs the square of it."""
_DCMTK_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_DCMTK_SECONDS = 30


def check_pixels(header: Header, facts: Facts) -> None:
    """Compare what the header declares with what the file can hold, before anything is decoded.

    Raises:
        ScanRefused: `no_pixels`, `malformed`, `absurd_size`, `truncated` or `unsupported_syntax`.
    """
    if not header.keyword:
        raise ScanRefused(Reason.NO_PIXELS)
    syntax = header.syntax
    if not syntax or not syntax.is_transfer_syntax:
        raise ScanRefused(Reason.UNSUPPORTED_SYNTAX)
    samples, bits = _count(header.dataset, "SamplesPerPixel"), _count(header.dataset, "BitsAllocated")
    if min(facts.rows, facts.columns, facts.frames) < 1 or samples not in (1, 3) or bits not in _CELLS:
        raise ScanRefused(Reason.MALFORMED)
    plane = facts.rows * facts.columns * samples
    if plane > MAX_FRAME_PIXELS or facts.frames > MAX_FRAMES or plane * facts.frames > MAX_FILE_PIXELS:
        raise ScanRefused(Reason.ABSURD_SIZE)
    if syntax.is_encapsulated:
        _check_fragments(header, facts.frames)
        return
    if header.declared is None:
        raise ScanRefused(Reason.MALFORMED)
    subsampled = text_of(header.dataset, "PhotometricInterpretation") == "YBR_FULL_422"
    needed = math.ceil(plane * facts.frames * bits / 8 * (2 / 3 if subsampled else 1))
    if header.available < needed:
        raise ScanRefused(Reason.TRUNCATED)


def _check_fragments(header: Header, frames: int) -> None:
    """Walk the items of encapsulated pixel data, without reading them, to their delimiter (PS3.5 A.4)."""
    view = header.source.getbuffer()
    place, end = header.start, header.start + header.available
    fragments = -1  # the first item is the offset table
    while place + _ITEM.size <= end:
        group, element, length = _ITEM.unpack_from(view, place)
        place += _ITEM.size
        if (group, element) == _SEQUENCE_END:
            break
        if (group, element) != _ITEM_START or length == _UNDEFINED:
            raise ScanRefused(Reason.MALFORMED)
        place += length
        fragments += 1
    else:
        if header.declared is None or place > end:
            raise ScanRefused(Reason.TRUNCATED)
    if fragments < frames:
        raise ScanRefused(Reason.TRUNCATED)


def high_bit_shift(dataset: Dataset) -> int:
    """Return by how many bits the header says that values lie too high in their cells; 0 in all but retired objects."""
    stored = _count(dataset, "BitsStored")
    return _count(dataset, "HighBit") + 1 - stored if stored else 0


def _count(dataset: Dataset, keyword: str) -> int:
    try:
        return int(value_of(dataset, keyword) or 0)
    except (TypeError, ValueError):
        return 0


def decoded_frames(header: Header, facts: Facts) -> Iterator[tuple[Stored, str]]:
    """Decode the pixels, one frame in memory at a time.

    Streams of the JPEG family that none of the installed decoders takes (12-bit extended) go to dcmtk's `dcmdjpeg`
    where that is installed.

    Yields:
        [rows, columns] or [rows, columns, 3] as pydicom's decoders give it (YBR turned into RGB), and its photometric
        interpretation.

    Raises:
        ScanRefused: `unsupported_syntax`, `decode_failed`, `truncated` or `absurd_size`.
    """
    count = 0
    try:
        for frame in _frames(header, facts):
            count += 1
            yield frame
    except ScanRefused as refusal:
        other = None if count or refusal.reason != Reason.DECODE_FAILED else _by_dcmtk(header)
        if other is None:
            raise
        check_pixels(other, facts)
        yield from _frames(other, facts)


def _frames(header: Header, facts: Facts) -> Iterator[tuple[Stored, str]]:
    """Decode by pydicom and its plug-ins."""
    count = 0
    try:
        for array, properties in itertools.islice(_decoder_frames(header, facts.frames), facts.frames):
            count += 1
            yield array, str(properties["photometric_interpretation"])
    except NotImplementedError:
        raise ScanRefused(Reason.UNSUPPORTED_SYNTAX) from None
    except MemoryError:
        raise ScanRefused(Reason.ABSURD_SIZE) from None
    except Exception as error:  # noqa: BLE001  decoders raise anything on broken streams
        raise ScanRefused(Reason.DECODE_FAILED, f"decode_failed: {type(error).__name__}") from None
    except BaseException as error:
        # a panic of a decoder written in Rust (pylibjpeg-rle) is no Exception
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise ScanRefused(Reason.DECODE_FAILED, "decode_failed: panic") from None
    if count < facts.frames:
        raise ScanRefused(Reason.TRUNCATED)


def _decoder_frames(header: Header, frames: int) -> Iterator[tuple[Stored, dict[str, Any]]]:
    header.source.seek(header.start)
    options = as_pixel_options(header.dataset, transfer_syntax_uid=header.syntax, pixel_keyword=header.keyword)
    if high_bit_shift(header.dataset) > 0:
        options["correct_unused_bits"] = False  # it would cut the bits that count
    if header.vr:
        options["pixel_vr"] = header.vr
    decoder = get_decoder(header.syntax)
    if frames > _FRAMES_BY_INDEX:
        yield from decoder.iter_array(header.source, **options)
    for index in range(frames):
        # not `iter_array`: it fails on streams whose sign differs from the header's (pydicom 3.0.2)
        yield decoder.as_array(header.source, index=index, **options)


def _by_dcmtk(header: Header) -> Header | None:
    """Return the object with its JPEG stream undone by dcmtk; None where dcmtk is absent or fails as well."""
    tool = shutil.which("dcmdjpeg")
    if tool is None or header.syntax not in _DCMTK_SYNTAXES:
        return None
    with tempfile.TemporaryDirectory(prefix="wardround-") as folder:
        source, target = Path(folder) / "in.dcm", Path(folder) / "out.dcm"
        source.write_bytes(header.source.getbuffer())
        try:
            subprocess.run([tool, str(source), str(target)], check=True, timeout=_DCMTK_SECONDS, capture_output=True)
            return parse_header(read_file(target))
        except (OSError, ScanRefused, subprocess.SubprocessError):
            return None
