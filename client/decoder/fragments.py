"""Where the frames of encapsulated pixel data lie: found by where their streams start, not by an offset table.

Offset tables are optional, and wrong in many archives (short, shifted by the item header, of an earlier encoding). A
stream says itself where it starts, so the tables are not read at all.

Source:
    PS3.5 A.4 (items of encapsulated pixel data), G.5 (header of an RLE frame).
"""

import struct

from client.admission.reasons import Reason
from common.errors import ScanRefused

Span = tuple[int, int]
"""Begin and end of one fragment within the source."""

_UNDEFINED = 0xFFFFFFFF
_ITEM = struct.Struct("<HHL")
_ITEM_START = (0xFFFE, 0xE000)
_SEQUENCE_END = (0xFFFE, 0xE0DD)
_STARTS = (
    b"\xff\xd8\xff",  # JPEG and JPEG-LS (also JPEG XL that transcodes JPEG)
    b"\xff\x4f\xff\x51",  # JPEG 2000 and its high-throughput form
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000 in its own file format
    b"\xff\x0a",  # JPEG XL
    b"\x00\x00\x00\x0cJXL ",  # JPEG XL in its own file format
)
_RLE_HEADER = struct.Struct("<16L")
_MOST_SEGMENTS = 15


def fragments_of(view: memoryview, start: int, available: int, *, whole: bool) -> list[Span]:
    """Walk the items of encapsulated pixel data, without decoding them, to their delimiter.

    Args:
        view: The encoded object.
        start: Where the value of the pixel data begins.
        available: Bytes from there on.
        whole: The element declares its length, so that no delimiter need follow.

    Returns:
        The fragments that hold anything, in order; the offset table is left out.

    Raises:
        ScanRefused: `malformed` or `truncated`.
    """
    place, end = start, start + available
    found: list[Span] = []
    while place + _ITEM.size <= end:
        group, element, length = _ITEM.unpack_from(view, place)
        place += _ITEM.size
        if (group, element) == _SEQUENCE_END:
            break
        if (group, element) != _ITEM_START or length == _UNDEFINED:
            raise ScanRefused(Reason.MALFORMED)
        found.append((place, place + length))
        place += length
    else:
        if not whole or place > end:
            raise ScanRefused(Reason.TRUNCATED)
    if found and not _starts(view, found[0]):
        del found[0]  # the offset table; a writer that left it out begins with the first stream
    return [(begin, stop) for begin, stop in found if stop > begin]


def frames_of(view: memoryview, fragments: list[Span], *, frames: int, rle: bool) -> list[list[Span]]:
    """Return the fragments of each frame.

    Args:
        view: The encapsulated pixel data.
        fragments: Where each fragment lies in it.
        frames: Number of frames that the header declares.
        rle: Whether the transfer syntax is RLE Lossless.

    Raises:
        ScanRefused: `truncated`: fewer streams than frames; `contradictory_header`: more of them.
    """
    starts = [number for number, span in enumerate(fragments) if _starts(view, span, rle=rle)]
    if not starts or starts[0] != 0:
        # streams without a start of their own: one fragment a frame, or all of them one frame
        starts = [0] if frames == 1 and fragments else list(range(len(fragments)))
    if len(starts) < frames:
        raise ScanRefused(Reason.TRUNCATED)
    if len(starts) > frames:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    ends = [*starts[1:], len(fragments)]
    return [fragments[begin:end] for begin, end in zip(starts, ends, strict=True)]


def encapsulated(view: memoryview, spans: list[Span]) -> bytes:
    """Return one frame as encapsulated pixel data of its own: an empty offset table, then one item."""
    return packed(b"".join(bytes(view[begin:end]) for begin, end in spans))


def packed(stream: bytes) -> bytes:
    """Return a stream as `encapsulated` returns a frame."""
    stream += b"\0" * (len(stream) % 2)
    return b"".join((_ITEM.pack(*_ITEM_START, 0), _ITEM.pack(*_ITEM_START, len(stream)), stream))


STREAM_AT = 2 * _ITEM.size
"""Where the stream begins in what `encapsulated` returns."""


def _starts(view: memoryview, span: Span, *, rle: bool = False) -> bool:
    begin, end = span
    if not rle:
        return bytes(view[begin : min(end, begin + 12)]).startswith(_STARTS)
    if end - begin < _RLE_HEADER.size:
        return False
    segments, *offsets = _RLE_HEADER.unpack_from(view, begin)
    used = offsets[:segments]
    return (
        1 <= segments <= _MOST_SEGMENTS
        and used[0] == _RLE_HEADER.size
        and used == sorted(used)
        and used[-1] < end - begin
        and not any(offsets[segments:])
    )
