"""Text in a picture, found by the extra `ocr` (rapidocr-onnxruntime, whose weights ship in its wheel).

It only ever tightens: a picture that a header calls clean goes to quarantine when words are read in it. Side markers
and projection words ("L", "PA", "supine", "Bettaufnahme") are no reason, since radiographs are full of them.
"""

import difflib
import importlib
import importlib.util
import logging
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_SIDE = 128
"""Pixels below which no name can be read in a picture."""

_MODULE = "rapidocr_onnxruntime"
_SHORTEST_WORD = 4
_LEAST_SCORE = 0.7
_ALIKE = 0.75
_INNOCENT = (
    "LEFT", "RIGHT", "LATERAL", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "STANDING", "SITTING", "SEMIERECT", "PORTABLE",
    "MOBILE", "INSPIRATION", "EXPIRATION", "CHEST", "THORAX", "DECUBITUS", "WEIGHTBEARING", "LINKS", "RECHTS",
    "LIEGEND",
    "STEHEND", "SITZEND", "HALBSITZEND", "BETTAUFNAHME", "BETTLUNGE", "GAUCHE", "DROITE", "DEBOUT", "COUCHE", "ASSIS",
    "WARD", "BEDSIDE", "STATION", "INTENSIV", "AUFNAHME",
)  # fmt: skip
"""Words that technicians put beside the body in English, German and French; a misread letter or two is forgiven."""


def installed() -> bool:
    """Return whether the extra `ocr` is there."""
    return importlib.util.find_spec(_MODULE) is not None


class TextFinder:
    """The text detector of one process; loads its weights when first asked."""

    def __init__(self) -> None:
        self._engine: Any = None

    def finds_text(self, picture: NDArray[np.float32]) -> bool:
        """Return whether a picture holds a word that might identify.

        Args:
            picture: [height, width] float32 in [-1, 1].
        """
        if min(picture.shape) < SMALLEST_SIDE:
            return False
        if self._engine is None:
            logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
            self._engine = importlib.import_module(_MODULE).RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
        grey = np.round((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
        found, _ = self._engine(grey, use_cls=False)
        return any(float(score) >= _LEAST_SCORE and identifies(text) for _, text, score in found or ())


def identifies(text: str) -> bool:
    """Return whether a line may hold a name, a number or a date: any word of four and more that is no marker."""
    words = re.findall(r"[^\W_]+", re.sub(r"[-/.:]", "", text).upper())
    return any(
        len(word) >= _SHORTEST_WORD and not difflib.get_close_matches(word, _INNOCENT, n=1, cutoff=_ALIKE)
        for word in words
    )
