"""Text that people write and other programs save: UTF-8, with or without a byte-order mark, in every locale."""

import codecs
from pathlib import Path

_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"),
          (codecs.BOM_UTF16_BE, "UTF-16"))  # fmt: skip
"""Byte-order marks of what is not UTF-8; the longer ones first, for they begin like the shorter."""


class NotText(ValueError):
    """What was read is no UTF-8; its words say what it is and what to do."""


def read_text(path: Path) -> str:
    """Return a file's text, line ends as they are.

    Raises:
        OSError: The file cannot be read.
        NotText: It is not UTF-8.
    """
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """Return the text of UTF-8 bytes, without its byte-order mark; raises `NotText`."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            raise NotText(f"the file is saved as {name}. Save it as UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotText(f"line {line} is not UTF-8. Save the file as UTF-8") from error


def why(error: OSError | NotText) -> str:
    """Return in words why a file that is there gives no text."""
    return str(error) if isinstance(error, NotText) else f"it cannot be read ({error.strerror})"
