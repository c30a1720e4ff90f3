"""A JPEG of 1992, decoded by two decoders that must agree: neither notices all damage, and both paint over it.

A JPEG has no checksum. Damage that leaves valid codes, as many as the pixels need, is another picture to every
decoder, and cannot be known. All other damage is refused here: a decoder says so, or leaves codes over, or the two come
to different pixels, as each goes on in its own way.

Source:
    ISO/IEC 10918-1 B.2 (markers), B.2.3 (scan header: a sequential scan has all coefficients).
"""

import functools
import importlib
from typing import Any

import numpy as np
from pydicom.pixels.decoders.base import Decoder

from client.admission.reasons import Reason
from client.decoder import complaints, fragments
from client.decoder.codestream import Codestream
from client.dicom.pixels import Stored
from common.errors import ScanRefused

_STRICT, _HEARD = "pylibjpeg", "gdcm"
"""The decoder that refuses most damage comes first, as the other can end the process; the picture is the other's."""
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_ALL_COEFFICIENTS = b"\x00\x3f\x00"
_BYTE = 8
_ROUNDING = 4
"""Levels of 8 bits that two decoders may differ by; measured are 1, and 3 in 12 bits."""


def decode(encapsulated: bytes, decoder: Decoder, options: dict[str, Any], code: Codestream) -> Stored:
    """Return the values of a frame as its codestream holds them.

    Args:
        encapsulated: The frame as `fragments.encapsulated` returns it.
        decoder: Of its transfer syntax.
        options: By which the decoder's bytes come back as they are.
        code: Its head.

    Raises:
        ScanRefused: `truncated` or `decode_failed`.
        Exception: A decoder raises any on a broken stream.
    """
    stream = encapsulated[fragments.STREAM_AT :]
    if stream.rfind(_END_OF_IMAGE) < stream.rfind(_START_OF_SCAN):
        raise ScanRefused(Reason.TRUNCATED)
    raw = functools.partial(decoder.as_array, index=0, raw=True, **options)
    whole = _whole_scans(stream, code)
    first: Stored = raw(fragments.packed(whole), decoding_plugin=_STRICT)[0]
    if code.discrete_cosine and code.precision > _BYTE:
        # GDCM has no 12-bit decoder; libjpeg-turbo's keeps its complaints to itself
        second, lost = _by_turbo(stream, code), False
        values = first if whole == stream or code.samples > 1 else second
    else:
        (second, _), lost = complaints.listened_to(functools.partial(raw, encapsulated, decoding_plugin=_HEARD), stream)
        values = second
    if lost or _apart(first, second, code):
        raise ScanRefused(Reason.DECODE_FAILED)
    return values


def _whole_scans(stream: bytes, code: Codestream) -> bytes:
    """Write into each scan header of a sequential JPEG that it has all coefficients, which some makers leave out."""
    found = bytearray(stream)
    place = code.scan
    while place > 0:
        at = place + 5 + 2 * found[place + 4]
        found[at : at + len(_ALL_COEFFICIENTS)] = _ALL_COEFFICIENTS
        place = found.find(_START_OF_SCAN, at)
    return bytes(found)


def _by_turbo(stream: bytes, code: Codestream) -> Stored:
    # loaded when first needed: it is large, and few files need it
    decode_jpeg = importlib.import_module("imagecodecs").jpeg8_decode
    colour = {} if code.samples == 1 else {"colorspace": "YCBCR", "outcolorspace": "YCBCR"}
    values: Stored = decode_jpeg(stream, **colour)
    return values


def _apart(first: Stored, second: Stored, code: Codestream) -> bool:
    """Return whether two decoders came to other pixels; of colour the first component counts, which is never halved."""
    if first.shape != second.shape:
        return True
    if first.ndim == 3:
        first, second = first[..., 0], second[..., 0]
    allowed = max(_ROUNDING, 1 << (code.precision - _BYTE)) if code.discrete_cosine else 0
    return int(np.abs(first.astype(np.int64) - second.astype(np.int64)).max()) > allowed
