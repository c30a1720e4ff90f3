"""What GDCM's libjpeg says of a damaged JPEG: it decodes one all the same, and tells on the error channel alone.

A stream that breaks off, or whose codes make no sense, comes out as a picture with grey or shifted parts. No installed
decoder can be told to refuse all of that, so what is said meanwhile is read.

Source:
    libjpeg, jerror.h: messages of JWRN_HIT_MARKER, JWRN_JPEG_EOF, JWRN_HUFF_BAD_CODE, JWRN_ARITH_BAD_CODE,
    JWRN_MUST_RESYNC.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

_T = TypeVar("_T")
_STDERR = 2
_DAMAGE = (b"remature end of", b"bad Huffman code", b"bad arithmetic code", b"instead of RST")
"""Of its warnings those that mean lost pixels; stray bytes before a marker, for one, lose none."""


def listened_to(decode: Callable[[], _T]) -> tuple[_T, bool]:
    """Run `decode`, and return what it returns and whether it said that pixels are lost."""
    with _heard() as said:
        value = decode()
        said.seek(0)
        text = said.read()
    return value, any(word in text for word in _DAMAGE)


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
