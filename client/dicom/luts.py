"""Look-up tables as headers hold them: modality, VOI and palette, with their words, bits and signs as they are meant.

Source:
    PS3.3 C.11.1.1 and C.11.2.1.1 (LUT Descriptor and LUT Data), C.7.6.3.1.5 and C.7.6.3.1.6 (palettes).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from client.admission.reasons import Reason
from client.dicom.pixels import Lut, Stored
from client.dicom.tags import value_of
from common.errors import ScanRefused

Words = NDArray[np.int64]

_MOST_ENTRIES = 1 << 16
_BYTE, _WORD = 8, 16
_CHANNELS = ("Red", "Green", "Blue")
_TABLE = "PaletteColorLookupTable"


def read_lut(item: Dataset, *, signed: bool) -> Lut:
    """Return the look-up table of a sequence item.

    The entries are unsigned, for every VR. A table that declares 16 bits and uses fewer has the range that it
    uses: 16 is the size of its words, and makers of radiographs write 12-bit entries into them.

    Args:
        item: Holds LUTDescriptor and LUTData.
        signed: Whether the table's input can be negative, which decides how its first input value is read.

    Raises:
        ValueError: The table is shorter than it says, or of impossible bits.
    """
    count, first, bits = _descriptor(item.LUTDescriptor, signed=signed)
    little = item.original_encoding[1] is not False
    entries = _entries(item.LUTData, count, packed=bits <= _BYTE, little=little)
    return Lut(first=first, entries=entries, bits=_used(bits, entries))


def apply_palette(stored: Stored, dataset: Dataset) -> tuple[Stored, int]:
    """Return a frame of palette indices as RGB, and the bits of its colours.

    Args:
        stored: [rows, columns] indices.
        dataset: Holds the tables; segmented ones are expanded by pydicom.

    Raises:
        ValueError: A table is shorter than it says, or of impossible bits.
        ScanRefused: `contradictory_header`.
    """
    stored = _indices(stored, dataset)
    if value_of(dataset, f"Red{_TABLE}Data") is None:
        colour: Stored = apply_color_lut(stored, dataset)[..., :3]
        return colour, _BYTE * colour.dtype.itemsize
    signed = value_of(dataset, "PixelRepresentation") == 1
    little = dataset.original_encoding[1] is not False
    luts: list[Lut] = []
    for channel in _CHANNELS:
        descriptor = value_of(dataset, f"{channel}{_TABLE}Descriptor")
        count, first, bits = _descriptor(descriptor, signed=signed)
        data = value_of(dataset, f"{channel}{_TABLE}Data")
        # a table of 16 bits as long as one of bytes holds bytes
        bits = _BYTE if isinstance(data, bytes) and len(data) <= count + count % 2 else bits
        entries = _entries(data, count, packed=bits <= _BYTE, little=little)
        luts.append(Lut(first=first, entries=entries, bits=bits))
    most = max(int(lut.entries.max()) for lut in luts)
    bits = _BYTE if most < 1 << _BYTE else _WORD
    channels = [lut(stored.astype(np.float64)) for lut in luts]
    return np.stack(channels, axis=-1).astype(np.uint8 if bits == _BYTE else np.uint16), bits


def _indices(stored: Stored, dataset: Dataset) -> Stored:
    """Cut the bits above BitsStored off indices, unless the tables hold entries for what they say with those bits."""
    if stored.dtype.kind != "u" or int(stored.max()) < 1 << int(dataset.BitsStored):
        return stored
    count, first, _ = _descriptor(value_of(dataset, f"Red{_TABLE}Descriptor"), signed=False)
    above = stored >= 1 << int(dataset.BitsStored)
    if int(dataset.HighBit) >= int(dataset.BitsStored) or bool((above & (stored < first + count)).any()):
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    cut: Stored = stored & ((1 << int(dataset.BitsStored)) - 1)
    return cut


def _descriptor(value: Any, *, signed: bool) -> tuple[int, int, int]:
    """Return number of entries, first input value and bits; the VR of the first value is often the wrong one."""
    count, first, bits = (int(part) for part in value)
    first &= _MOST_ENTRIES - 1
    if signed and first >= _MOST_ENTRIES // 2:
        first -= _MOST_ENTRIES
    if not 1 <= bits <= _WORD:
        raise ValueError("look-up table")
    return count % _MOST_ENTRIES or _MOST_ENTRIES, first, bits


def _entries(data: Any, count: int, *, packed: bool, little: bool) -> Words:
    """Return the entries of a table: words, or bytes of which the lower half of each word comes first."""
    if isinstance(data, bytes):
        order = "<" if little else ">"
        words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype(np.int64)
        if len(data) % 2:
            words = np.append(words, data[-1])
    else:
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)) & (_MOST_ENTRIES - 1)
    if packed and len(words) < count <= 2 * len(words):
        words = np.stack([words & 0xFF, words >> _BYTE], axis=-1).ravel()
    if len(words) < count:
        raise ValueError("look-up table")
    return words[:count]


def _used(bits: int, entries: Words) -> int:
    """Return the bits of a table's output range: those declared, more where entries need them, fewer of 16."""
    used = max(1, int(entries.max()).bit_length())
    return used if bits == _WORD else max(bits, used)
