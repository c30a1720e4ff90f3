"""Text in a picture, found by the extra `ocr` (rapidocr-onnxruntime, whose weights ship in its wheel).

It only ever tightens: a picture that a header calls clean goes to quarantine when words are read in it. Side markers
and projection words ("L", "PA", "supine", "Bettaufnahme") are no reason, since radiographs are full of them.
"""

import difflib
import functools
import importlib
import importlib.util
import logging
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_SIDE = 128
"""Pixels below which no name can be read in a picture."""
CLEAN_BY_NATURE = frozenset({"CT", "MR", "PT", "NM"})
"""Cross sections come from a reconstruction, not from a screen, and by the thousand: letters are read only where
something in the picture is as jagged as a line of text."""

_MODULE = "rapidocr_onnxruntime"
_SHORTEST_WORD = 4
_LINE, _STROKES, _STROKE, _SCALES = (8, 32), 70, 0.2, 3
"""A word is at least 8 x 32 pixels with 70 steps of a tenth of the grey scale, at one of 3 scales."""
_LEAST_SCORE = 0.7
_ALIKE = 0.75
_INNOCENT = (
    "LEFT", "RIGHT", "LATERAL", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "STANDING", "SITTING", "SEMIERECT", "PORTABLE",
    "MOBILE", "INSPIRATION", "EXPIRATION", "CHEST", "THORAX", "DECUBITUS", "WEIGHTBEARING", "LINKS", "RECHTS",
    "LIEGEND",
    "STEHEND", "SITZEND", "HALBSITZEND", "BETTAUFNAHME", "BETTLUNGE", "GAUCHE", "DROITE", "DEBOUT", "COUCHE", "ASSIS",
    "WARD", "BEDSIDE", "STATION", "INTENSIV", "AUFNAHME",
)  # fmt: skip
"""Words that technicians put next to the body in English, German and French; a misread letter or two is forgiven."""


def installed() -> bool:
    """Return whether the extra `ocr` is there."""
    return importlib.util.find_spec(_MODULE) is not None


@functools.cache
def why_not() -> str:
    """Return why text cannot be looked for on this machine; "" where it can.

    The extra may be there and a library of the system missing, so it is loaded, which takes a second.
    """
    if not installed():
        return "the extra `ocr` is not installed"
    try:
        importlib.import_module(_MODULE)
    except (ImportError, OSError) as error:
        return f"the extra `ocr` cannot be loaded ({error})"
    return ""


def in_words(looked: bool | None) -> str:
    """Return what every summary says of it, in the same words."""
    return f"text was looked for: {'not known' if looked is None else 'yes' if looked else 'no'}"


class TextFinder:
    """The text detector of one process; loads its weights when first asked."""

    def __init__(self) -> None:
        self._engine: Any = None

    def finds_text(self, picture: NDArray[np.float32], *, modality: str = "") -> bool:
        """Return whether a picture holds a word that might identify.

        Args:
            picture: [height, width] float32 in [-1, 1].
            modality: DICOM Modality code of its object.
        """
        if min(picture.shape) < SMALLEST_SIDE:
            return False
        if modality in CLEAN_BY_NATURE and not jagged(picture):
            return False
        if self._engine is None:
            logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
            self._engine = importlib.import_module(_MODULE).RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
        grey = np.round((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
        found, _ = self._engine(grey, use_cls=False)
        return any(float(score) >= _LEAST_SCORE and identifies(text) for _, text, score in found or ())


def jagged(picture: NDArray[np.float32]) -> bool:
    """Return whether any place of a picture, at full, half or quarter size, changes as often as a line of text does.

    Args:
        picture: [height, width] float32 in [-1, 1].
    """
    for _ in range(_SCALES):
        if min(picture.shape) < max(_LINE):
            return False
        strokes = np.abs(np.diff(picture, axis=1)) > _STROKE
        total = np.pad(strokes.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        height, width = _LINE
        held = (
            total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
        )  # strokes in every window of the size of a short word
        if held.max() >= _STROKES:
            return True
        rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
        picture = picture[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
    return False


def identifies(text: str) -> bool:
    """Return whether a line may hold a name, a number or a date: any word of four and more that is no marker."""
    words = re.findall(r"[^\W_]+", re.sub(r"[-/.:]", "", text).upper())
    return any(
        len(word) >= _SHORTEST_WORD and not difflib.get_close_matches(word, _INNOCENT, n=1, cutoff=_ALIKE)
        for word in words
    )
