r"""How data is shown: a file name, a header's text or a message is read by a person and never obeyed by what shows it.

A terminal obeys escape codes, and text that runs from right to left can hide what a line says. So text that
is not printable is written as Python writes it: `\x1b`, `\u202e`, `\n`.
"""

import logging
import unicodedata
from typing import Any


def plain(data: object) -> str:
    """Return data as one line of printable characters: controls, line ends and direction marks are spelt out."""
    return "".join(map(_shown, str(data)))


def plain_lines(text: str) -> str:
    """Return our own text of several lines the same way; its line ends stay."""
    return "\n".join(map(plain, text.split("\n")))


def plain_value(value: Any) -> Any:
    """Return the value of an expression in an HTML page: data is shown, what is HTML already (`Markup`) stays."""
    return plain_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


class PlainFormatter(logging.Formatter):
    """A log's line for a terminal: what an event holds is shown and not obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted line, escaped."""
        return plain_lines(super().format(record))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # a blank of any width is harmless
        return character
    return character.encode("unicode_escape").decode("ascii")
