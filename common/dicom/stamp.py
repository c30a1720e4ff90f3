"""Many synthetic DICOM files of one draw and label, fast: one is built in full, the others are stamped from its bytes.

Two images of one label differ in a handful of elements (UIDs, patient, study, comment, index, pixels). The first image
comes from `common.dicom.export`; its file is cut at those elements, and each further image is the same pieces with
its own values between. The result is byte for byte what the full writer would have written; a test compares them.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.dicom.export import INDEX_OFFSET, Edition, Provenance, Window, identity, synthetic_bytes

_PREAMBLE = 132
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations with a 4-byte length (PS3.5 7.1.2)."""
_META_LENGTH, _META_UID, _PIXELS = (0x0002, 0x0000), (0x0002, 0x0003), (0x7FE0, 0x0010)
_INDEX = (0x0991, 0x1000 + INDEX_OFFSET)
_KEYWORDS = {
    (0x0008, 0x0018): "SOPInstanceUID",
    (0x0010, 0x0020): "PatientID",
    (0x0020, 0x000D): "StudyInstanceUID",
    (0x0020, 0x000E): "SeriesInstanceUID",
    (0x0020, 0x0010): "StudyID",
    (0x0020, 0x0052): "FrameOfReferenceUID",
    (0x0020, 0x4000): "ImageComments",
}
_Tag = tuple[int, int]


class Stamp:
    """Makes the DICOM files of one label of one draw.

    Args:
        label: As for `common.dicom.export.synthetic_bytes`, and so are the others.
        modality: DICOM Modality code.
        body_part: BodyPartExamined.
        provenance: What trained the generator and which draw this is.
        edition: Of the standard.
        window: Of a CT, in Hounsfield units.
    """

    def __init__(
        self,
        *,
        label: str,
        modality: str,
        body_part: str,
        provenance: Provenance,
        edition: Edition = "current",
        window: Window = None,
    ) -> None:
        self._place: dict[str, Any] = {
            "label": label,
            "modality": modality,
            "body_part": body_part,
            "provenance": provenance,
        }
        self._edition: Edition = edition
        self._window = window
        self._form: tuple[Any, ...] = ()
        self._pieces: list[bytes | tuple[_Tag, bytes]] = []
        self._wide = False

    def file(self, pixels: NDArray[np.uint8], *, index: int) -> bytes:
        """Return the DICOM file of image `index`.

        Args:
            pixels: [height, width] uint8; all images of a label should have one shape, another one costs a new cut.
            index: Number of the image within the draw.

        Raises:
            ValueError: An argument that DICOM cannot hold.
        """
        form = (pixels.shape, pixels.dtype)
        if form != self._form:
            whole = synthetic_bytes(pixels, index=index, edition=self._edition, window=self._window, **self._place)
            self._pieces, self._form = _cut(whole), form
            stored = next(value for tag, value in self._values(whole) if tag == _PIXELS)
            self._wide = len(stored) == 2 * pixels.size and pixels.dtype == np.uint8
        own = identity(pixels, index=index, **self._place)
        texts = {tag: own[keyword] for tag, keyword in _KEYWORDS.items()}
        texts |= {_META_UID: own["SOPInstanceUID"], _INDEX: str(index)}
        stored_pixels = (pixels.astype("<u2") if self._wide else pixels).tobytes()
        parts: list[bytes] = []
        for piece in self._pieces:
            parts.append(piece if isinstance(piece, bytes) else _element(*piece, texts, stored_pixels))
        return _with_meta_length(parts)

    @staticmethod
    def _values(whole: bytes) -> list[tuple[_Tag, bytes]]:
        return [(tag, whole[start:end]) for tag, _, _, start, end in _elements(whole)]


def _elements(whole: bytes) -> list[tuple[_Tag, bytes, int, int, int]]:
    """Tag, VR, begin, begin of value and end of each top-level element, in order."""
    found, at = [], _PREAMBLE
    while at < len(whole):
        group, element, vr = struct.unpack_from("<HH2s", whole, at)
        if vr in _LONG_VRS:
            start, (length,) = at + 12, struct.unpack_from("<I", whole, at + 8)
        else:
            start, (length,) = at + 8, struct.unpack_from("<H", whole, at + 6)
        found.append(((group, element), vr, at, start, start + length))
        at = start + length
    return found


def _cut(whole: bytes) -> list[bytes | tuple[_Tag, bytes]]:
    """Split a file into its constant pieces and the elements, by tag and VR, that differ between images."""
    pieces: list[bytes | tuple[_Tag, bytes]] = []
    kept = 0
    for tag, vr, begin, _, end in _elements(whole):
        if tag in (_META_LENGTH, _META_UID, _INDEX, _PIXELS, *_KEYWORDS):
            pieces += [whole[kept:begin], (tag, vr)]
            kept = end
    return [*pieces, whole[kept:]]


def _element(tag: _Tag, vr: bytes, texts: dict[_Tag, str], pixels: bytes) -> bytes:
    if tag == _META_LENGTH:
        return struct.pack("<HH2sHI", *tag, vr, 4, 0)  # filled in by _with_meta_length
    if tag == _PIXELS:
        padded = pixels + b"\0" * (len(pixels) % 2)
        return struct.pack("<HH2sHI", *tag, vr, 0, len(padded)) + padded
    value = texts[tag].encode()
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", *tag, vr, len(value)) + value


def _with_meta_length(parts: list[bytes]) -> bytes:
    """Join the parts and set the length of the file meta group (PS3.10 7.1), whose second and third parts vary."""
    whole = bytearray(b"".join(parts))
    after = _PREAMBLE + 12
    at = after
    while struct.unpack_from("<H", whole, at)[0] == 0x0002:
        vr = bytes(whole[at + 4 : at + 6])
        if vr in _LONG_VRS:
            at += 12 + struct.unpack_from("<I", whole, at + 8)[0]
        else:
            at += 8 + struct.unpack_from("<H", whole, at + 6)[0]
    struct.pack_into("<I", whole, after - 4, at - after)
    return bytes(whole)
