"""What a compressed frame says of itself: the codestream's own size, bits, sign and colour, read before it is decoded.

Where it contradicts the header, the codestream is what the decoder follows, so it decides, or the file is refused.

Source:
    ISO/IEC 10918-1 B.2 (JPEG), 14495-1 C.2 (JPEG-LS), 15444-1 A.5 and A.6 (JPEG 2000); PS3.5 8.2.
"""

import struct
from dataclasses import dataclass

JPEG_XL = frozenset(f"1.2.840.10008.1.2.4.{tail}" for tail in (110, 111, 112))
"""Transfer syntaxes of 2024, which pydicom does not know yet."""
_LOSSLESS_FRAMES = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_JPEG_LS = 0xF7
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
_RGB_IDS = ((82, 71, 66), (114, 103, 98))
_JP2 = b"\x00\x00\x00\x0cjP  "
_SIZ, _COD, _SOT = 0xFF51, 0xFF52, 0xFF90
_ADOBE_COLOURS = {0: "RGB", 1: "YCBCR"}


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """The head of one compressed frame.

    Attributes:
        rows: Height.
        columns: Width.
        samples: Components.
        precision: Bits of a sample.
        signed: Whether samples carry a sign (JPEG 2000 only).
        lossy: Whether decoded values may differ from those that were encoded.
        near: Largest difference there, where the stream bounds it (JPEG-LS); else 0.
        transformed: The decoder undoes a colour transform itself and gives RGB (JPEG 2000).
        colour: RGB or YCBCR, where the stream says what its components are; else empty.
        subsampled: Components differ in size.
        discrete_cosine: Sequential or progressive JPEG, which stores YCbCr unless it says otherwise.
        classic: JPEG of 1992, sequential, progressive or lossless.
        jpeg_ls: JPEG-LS.
        scan: Where the header of the first scan of a sequential JPEG begins; 0 for any other stream.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    lossy: bool = False
    near: int = 0
    transformed: bool = False
    colour: str = ""
    subsampled: bool = False
    discrete_cosine: bool = False
    classic: bool = False
    jpeg_ls: bool = False
    scan: int = 0


def read_codestream(stream: bytes) -> Codestream | None:
    """Return what a stream of the JPEG family says of itself; None where it is none, or breaks off in its head."""
    try:
        if stream.startswith(b"\xff\xd8"):
            return _jpeg(stream)
        place = stream.find(b"\xff\x4f\xff\x51") if stream.startswith(_JP2) else 0
        return _jpeg2000(stream, place) if stream[place : place + 2] == b"\xff\x4f" else None
    except (IndexError, struct.error):
        return None


def _jpeg(stream: bytes) -> Codestream | None:
    """Read the segments up to the first scan."""
    place, colour, frame, near = 2, "", b"", 0
    kind = 0
    while True:
        while stream[place] == 0xFF and stream[place + 1] == 0xFF:
            place += 1
        marker = stream[place + 1]
        if stream[place] != 0xFF:
            return None
        if marker in _STANDALONE:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", stream, place + 2)
        body = stream[place + 4 : place + 2 + length]
        if marker == _APP0 and body.startswith(b"JFIF"):
            colour = colour or "YCBCR"
        elif marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            colour = _ADOBE_COLOURS.get(body[11], colour)
        elif marker in _FRAMES:
            kind, frame = marker, body
        elif marker == _SCAN:
            near = body[1 + 2 * body[0]] if kind == _JPEG_LS else 0
            break
        place += 2 + length
    scan = place if kind in _SEQUENTIAL else 0
    return _jpeg_frame(kind, frame, colour=colour, near=near, scan=scan) if frame else None


def _jpeg_frame(kind: int, frame: bytes, *, colour: str, near: int, scan: int) -> Codestream:
    precision, rows, columns, samples = struct.unpack_from(">BHHB", frame)
    components = [frame[6 + 3 * number : 9 + 3 * number] for number in range(samples)]
    if tuple(part[0] for part in components) in _RGB_IDS:
        colour = "RGB"
    exact = kind in _LOSSLESS_FRAMES or kind == _JPEG_LS
    return Codestream(
        rows=rows, columns=columns, samples=samples, precision=precision, lossy=not exact or near > 0, near=near,
        colour=colour if samples == 3 else "", subsampled=len({part[1] for part in components}) > 1,
        discrete_cosine=not exact, classic=kind != _JPEG_LS, jpeg_ls=kind == _JPEG_LS, scan=scan,
    )  # fmt: skip


def _jpeg2000(stream: bytes, place: int) -> Codestream | None:
    """Read the main header up to the first tile."""
    place += 2
    size: Codestream | None = None
    transform = reversible = 0
    while True:
        marker, length = struct.unpack_from(">HH", stream, place)
        body = stream[place + 4 : place + 2 + length]
        if marker == _SIZ:
            size = _jpeg2000_size(body)
        elif marker == _COD:
            transform, reversible = body[4], body[9]
        elif marker == _SOT or marker < 0xFF30:
            break
        place += 2 + length
    if size is None:
        return None
    return Codestream(
        rows=size.rows, columns=size.columns, samples=size.samples, precision=size.precision, signed=size.signed,
        subsampled=size.subsampled, lossy=reversible == 0, transformed=bool(transform) and size.samples >= 3,
    )  # fmt: skip


def _jpeg2000_size(body: bytes) -> Codestream:
    width, height, left, top = struct.unpack_from(">4L", body, 2)
    (samples,) = struct.unpack_from(">H", body, 34)
    depth = body[36]
    steps = {body[37 + 3 * number : 39 + 3 * number] for number in range(samples)}
    return Codestream(
        rows=height - top, columns=width - left, samples=samples, precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80), subsampled=len(steps) > 1 or steps != {b"\x01\x01"},
    )  # fmt: skip
