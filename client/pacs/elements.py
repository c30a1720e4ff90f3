"""Whether a DICOM file goes on to the end of its last element: walked from the first to the last, values unread.

Half an object has a header, UIDs and pixels like a whole one. Nothing but its elements tells that the rest is missing,
so no study is done before each of its objects was walked.

Source:
    PS3.5 7.1 (elements), 7.5 (sequences), A.4 (encapsulated pixel data); PS3.10 7.1 (file meta information).
"""

import mmap
import re
import struct
from pathlib import Path

from pydicom.config import IGNORE
from pydicom.uid import UID

from client.pacs.study import PacsAnswerInvalid

_PREFIX_END = 132
_UNDEFINED = 0xFFFFFFFF
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_ROWS, _PIXEL_GROUP = (0x0028, 0x0010), 0x7FE0
_INSTEAD = frozenset({(0x0028, 0x7FE0), (0x5600, 0x0020)})
"""What an object may have in place of pixels: their address, or a spectrum."""
_HEADER = 8
_BLOCK = 1 << 20
_LETTERS = re.compile(rb"[A-Z]{2}")
_DATASET, _SEQUENCE = "dataset", "sequence"


def check_whole(path: Path, *, syntax: str, sop_class: str) -> None:
    """Walk the elements of a DICOM file to its end.

    Args:
        path: The file, with prefix and file meta information.
        syntax: Its transfer syntax; not a deflated one.
        sop_class: Its SOPClassUID; an image has pixels, also where the cut lies between two elements.

    Raises:
        PacsAnswerInvalid: It ends before its elements do, or something that is no element lies among or behind them.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end_of_meta = _Walk(data, explicit=True).meta(_PREFIX_END)
        # as every reader does: some writers name the wrong one of implicit and explicit VR
        explicit = bool(_LETTERS.fullmatch(data[end_of_meta + 4 : end_of_meta + 6]))
        image = "Image Storage" in UID(sop_class, validation_mode=IGNORE).name
        _Walk(data, explicit=explicit, little=syntax != _BIG_ENDIAN, image=image).to_end(end_of_meta)


class _Walk:
    """One way through a file: in which encoding, and in which open sequences and items."""

    def __init__(self, data: mmap.mmap, *, explicit: bool, little: bool = True, image: bool = False) -> None:
        self._data = data
        self._order = "<" if little else ">"
        self._open: list[tuple[str, bool]] = [(_DATASET, explicit)]  # innermost last; each with its encoding
        self._image, self._pixels, self._instead = image, False, False

    def meta(self, place: int) -> int:
        """Return where the file meta information ends."""
        while len(self._data) - place >= _HEADER and self._tag(place)[0] == 0x0002:
            place = self._element(place, self._tag(place))
        return place

    def to_end(self, place: int) -> None:
        """Walk from `place` to the end of the file."""
        while place < len(self._data):
            if len(self._open) == 1 and self._only_zeros(place):
                break  # some writers fill a block up
            if len(self._data) - place < _HEADER:
                raise _cut_off()
            tag = self._tag(place)
            place = self._step(place, tag) if tag[0] == 0xFFFE else self._element(place, tag)
        self._check_end()

    def _check_end(self) -> None:
        """Check that nothing is open, and that an image has its pixels."""
        if len(self._open) > 1 or (self._image and not self._pixels and not self._instead):
            raise _cut_off()

    def _only_zeros(self, place: int) -> bool:
        starts = range(place, len(self._data), _BLOCK)
        return not any(self._data[start : start + _BLOCK].strip(b"\0") for start in starts)

    def _tag(self, place: int) -> tuple[int, int]:
        group, element = struct.unpack_from(f"{self._order}HH", self._data, place)
        return group, element

    def _step(self, place: int, tag: tuple[int, int]) -> int:
        """Open or close an item or a sequence; returns where it goes on."""
        kind, explicit = self._open[-1]
        (length,) = struct.unpack_from(f"{self._order}L", self._data, place + 4)
        place += _HEADER
        if kind == _SEQUENCE and tag == _ITEM:
            if length == _UNDEFINED:
                self._open.append((_DATASET, explicit))
                return place
            return self._past(place, length)
        closed = (kind == _SEQUENCE and tag == _SEQUENCE_END) or (kind == _DATASET and tag == _ITEM_END)
        if not closed or len(self._open) == 1:
            raise _no_element()
        self._open.pop()
        return place

    def _element(self, place: int, tag: tuple[int, int]) -> int:
        """Skip the value of an element, or enter its items; returns where it goes on."""
        kind, explicit = self._open[-1]
        if kind == _SEQUENCE:
            raise _no_element()
        if len(self._open) == 1:
            self._note(tag)
        vr = bytes(self._data[place + 4 : place + 6]) if explicit else b""
        if explicit and not _LETTERS.fullmatch(vr):
            raise _no_element()
        place, length = self._length(place, vr)
        if length == _UNDEFINED:
            # the items of an element of unknown VR are in implicit VR (PS3.5 6.2.2)
            self._open.append((_SEQUENCE, explicit and vr != b"UN"))
            return place
        return self._past(place, length)

    def _note(self, tag: tuple[int, int]) -> None:
        """Note what an element of the object itself says of its end."""
        if self._pixels and tag[0] < _PIXEL_GROUP:
            raise _no_element()  # the next part of a message, or another file
        self._image = self._image or tag == _ROWS
        self._pixels = self._pixels or tag[0] == _PIXEL_GROUP
        self._instead = self._instead or tag in _INSTEAD

    def _length(self, place: int, vr: bytes) -> tuple[int, int]:
        """Return where the value of an element begins, and its length."""
        if vr and vr not in _LONG_VRS:
            return place + 8, int(struct.unpack_from(f"{self._order}H", self._data, place + 6)[0])
        start = place + 8 if vr else place + 4
        if len(self._data) - start < 4:
            raise _cut_off()
        return start + 4, int(struct.unpack_from(f"{self._order}L", self._data, start)[0])

    def _past(self, place: int, length: int) -> int:
        if place + length > len(self._data):
            raise _cut_off()
        return place + length


def _cut_off() -> PacsAnswerInvalid:
    return PacsAnswerInvalid("the PACS sent an object that ends before its elements do. It was not stored")


def _no_element() -> PacsAnswerInvalid:
    return PacsAnswerInvalid("the PACS sent an object with something in it that is no DICOM element. It was not stored")
