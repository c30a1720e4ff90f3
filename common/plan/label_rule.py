"""The one rule for what a label may be: in a plan, in an import and in a hospital's `labels.csv`.

A label is a folder's name, a DICOM text and a line of a table, so it holds no character with a meaning to any of them.
"""

import re
import unicodedata

RULE = "at most 32 letters, digits, blanks, dots, dashes and underscores, a letter or digit first and no blank last"
"""The rule in words, to follow "must be"."""

_LABEL = re.compile(r"[^\W_](?:[\w .-]{0,30}[\w.-])?")


def is_label(text: str) -> bool:
    """Return whether a text can be a label; letters and digits are those of any language."""
    return _LABEL.fullmatch(text) is not None


def as_label(text: str) -> str:
    """Return a text as labels are compared: stripped, accents and letters composed (NFC), as keyboards write them.

    File systems of Apple and some exports keep an accent as a character of its own; the word is the same.
    """
    return unicodedata.normalize("NFC", text.strip())
