"""What GDCM's libjpeg says of a damaged JPEG: it decodes one all the same, and tells on the error channel alone.

A stream that breaks off, or whose codes make no sense, comes out as a picture with grey or shifted parts. No installed
decoder can be told to refuse all of that, so what is said meanwhile is read.

Source:
    libjpeg, jerror.h: messages of JWRN_HIT_MARKER, JWRN_JPEG_EOF, JWRN_HUFF_BAD_CODE, JWRN_ARITH_BAD_CODE,
    JWRN_MUST_RESYNC, JWRN_EXTRANEOUS_DATA.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

_T = TypeVar("_T")
_STDERR = 2
_DAMAGE = (b"remature end of", b"bad Huffman code", b"bad arithmetic code", b"instead of RST")
"""Of its warnings those that mean lost pixels."""
_LEFT_OVER = re.compile(rb"(\d+) extraneous bytes")
"""Codes that no pixel used: earlier ones were damaged into longer ones, unless the bytes are zeros that fill."""
_END_OF_IMAGE = b"\xff\xd9"


def listened_to(decode: Callable[[], _T], stream: bytes) -> tuple[_T, bool]:
    """Run a decoder, and return what it returns and whether it said that pixels are lost.

    Args:
        decode: Decodes the stream.
        stream: One JPEG.
    """
    with _heard() as said:
        value = decode()
        said.seek(0)
        text = said.read()
    return value, any(word in text for word in _DAMAGE) or _left_over(text) > _filling(stream)


def _left_over(text: bytes) -> int:
    return sum(int(count) for count in _LEFT_OVER.findall(text))


def _filling(stream: bytes) -> int:
    """Return how many zeros stand before the end of the image."""
    codes = stream[: stream.rfind(_END_OF_IMAGE)]
    return len(codes) - len(codes.rstrip(b"\0"))


@contextlib.contextmanager
def _heard() -> Iterator[BinaryIO]:
    """Gather what C code writes to the error channel of this process, which has one thread."""
    before = os.dup(_STDERR)
    try:
        with os.fdopen(os.memfd_create("said"), "w+b") as said:
            os.dup2(said.fileno(), _STDERR)
            try:
                yield said
            finally:
                os.dup2(before, _STDERR)
    finally:
        os.close(before)
