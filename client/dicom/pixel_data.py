"""The pixel data of one DICOM file: declared against possible size first, then decoded frame by frame."""

import math
from collections.abc import Callable, Iterator

from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options

from client.admission.reasons import Reason
from client.admission.scan import Facts
from client.decoder import fragments, frame_decoder, sample_bits
from client.decoder.codestream import JPEG_XL
from client.decoder.frame_decoder import COLOUR, GREY, Frame
from client.dicom.reader import Header, text_of
from client.dicom.tags import value_of
from common.errors import ScanRefused

MAX_FRAME_PIXELS = 1 << 26
MAX_FILE_PIXELS = 1 << 31
MAX_FRAMES = 10_000

_CELLS = (1, 8, 16, 32, 64)
"""Bits that a pixel cell can have."""
_HALVED = ("YBR_FULL_422", "YBR_PARTIAL_422")
"""Native colour with half its chroma: two bytes a pixel in place of three."""
_RLE = "1.2.840.10008.1.2.5"


def check_pixels(header: Header, facts: Facts) -> None:
    """Compare what the header declares with what the file can hold, before anything is decoded.

    Raises:
        ScanRefused: `no_pixels`, `malformed`, `absurd_size`, `truncated`, `unsupported_syntax`, `unsupported_colour` or
            `contradictory_header`.
    """
    if not header.keyword:
        raise ScanRefused(Reason.NO_PIXELS)
    _check_syntax(header)
    samples, bits = _count(header.dataset, "SamplesPerPixel"), _count(header.dataset, "BitsAllocated")
    if min(facts.rows, facts.columns, facts.frames) < 1 or samples not in (1, 3) or bits not in _CELLS:
        raise ScanRefused(Reason.MALFORMED)
    plane = facts.rows * facts.columns * samples
    if plane > MAX_FRAME_PIXELS or facts.frames > MAX_FRAMES or plane * facts.frames > MAX_FILE_PIXELS:
        raise ScanRefused(Reason.ABSURD_SIZE)
    _check_form(header, facts, samples=samples, bits=bits)
    if _encapsulated(header):
        _spans(header, facts)
    else:
        _check_length(header, facts, plane * bits)


def _check_syntax(header: Header) -> None:
    if header.syntax in JPEG_XL:
        return
    if not header.syntax or not header.syntax.is_transfer_syntax:
        raise ScanRefused(Reason.UNSUPPORTED_SYNTAX)
    try:
        available = get_decoder(header.syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise ScanRefused(Reason.UNSUPPORTED_SYNTAX)


def _check_form(header: Header, facts: Facts, *, samples: int, bits: int) -> None:
    """Check that bits, colour and frames of the header can be true at the same time."""
    photometric = photometric_of(header.dataset)
    if photometric not in GREY | COLOUR:
        raise ScanRefused(Reason.UNSUPPORTED_COLOUR)
    if (photometric in COLOUR) != (samples == 3):
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    if header.keyword == "PixelData" and not 1 <= _count(header.dataset, "BitsStored") <= bits:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    groups = value_of(header.dataset, "PerFrameFunctionalGroupsSequence")
    if groups and len(groups) < facts.frames:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)


def _check_length(header: Header, facts: Facts, frame_bits: int) -> None:
    """Compare the length of native pixel data with what its frames need."""
    if header.declared is None:
        raise ScanRefused(Reason.MALFORMED)
    photometric = photometric_of(header.dataset)
    if photometric == "YBR_PARTIAL_420":
        raise ScanRefused(Reason.UNSUPPORTED_COLOUR)
    if photometric in _HALVED:
        if facts.columns % 2:
            raise ScanRefused(Reason.CONTRADICTORY_HEADER)
        frame_bits = frame_bits * 2 // 3
    if header.available < math.ceil(frame_bits * facts.frames / 8):
        raise ScanRefused(Reason.TRUNCATED)
    full = 3 * frame_bits // 2 if photometric in _HALVED else frame_bits * (facts.frames + 1) / facts.frames
    if header.available >= math.ceil(full * facts.frames / 8):
        # room for a frame that the header does not know of, or for colour that is not halved
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)


def photometric_of(dataset: Dataset) -> str:
    """Return the photometric interpretation, upper case."""
    return text_of(dataset, "PhotometricInterpretation").upper()


def _count(dataset: Dataset, keyword: str) -> int:
    try:
        return int(value_of(dataset, keyword) or 0)
    except (TypeError, ValueError):
        return 0


def _encapsulated(header: Header) -> bool:
    return header.syntax in JPEG_XL or bool(header.syntax and header.syntax.is_encapsulated)


def _spans(header: Header, facts: Facts) -> list[list[fragments.Span]]:
    view = header.source.getbuffer()
    found = fragments.fragments_of(view, header.start, header.available, whole=header.declared is not None)
    return fragments.frames_of(view, found, frames=facts.frames, rle=header.syntax == _RLE)


def decoded_frames(header: Header, facts: Facts) -> Iterator[Frame]:
    """Decode the pixels, one frame in memory at a time.

    Raises:
        ScanRefused: `unsupported_syntax`, `decode_failed`, `contradictory_header`, `unsupported_colour` or
            `absurd_size`.
    """
    if not _encapsulated(header):
        for index in range(facts.frames):
            yield _guarded(lambda index=index: _native(header, index))  # type: ignore[misc]
        return
    view = header.source.getbuffer()
    photometric = photometric_of(header.dataset)
    for spans in _spans(header, facts):
        data = fragments.encapsulated(view, spans)
        yield _guarded(
            lambda data=data: frame_decoder.decode(data, header.dataset, header.syntax, photometric=photometric)  # type: ignore[misc]
        )


def _guarded(decode: Callable[[], Frame]) -> Frame:
    """Decode one frame; every error of a decoder becomes a refusal."""
    try:
        return decode()
    except ScanRefused:
        raise
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


def _native(header: Header, index: int) -> Frame:
    """Read one uncompressed frame."""
    assert header.syntax is not None
    photometric = photometric_of(header.dataset)
    header.source.seek(header.start)
    options = as_pixel_options(header.dataset, transfer_syntax_uid=header.syntax, pixel_keyword=header.keyword)
    if photometric in _HALVED:
        options["photometric_interpretation"] = "YBR_FULL_422"
    if sample_bits.uncut(header.dataset, photometric):
        options["correct_unused_bits"] = False  # it would cut the bits that count
    if header.vr:
        options["pixel_vr"] = header.vr
    values, _ = get_decoder(header.syntax).as_array(header.source, index=index, raw=True, **options)
    return frame_decoder.to_rgb(values, photometric, stored=_count(header.dataset, "BitsStored"))
