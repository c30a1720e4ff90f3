"""Which bits of a decoded sample count, and what its white is, where the header and the values disagree.

Bits above BitsStored may hold other things in a grey picture (overlays of old), so they are cut off there. No colour
ever had such bits: where its values need more bits than the header says, nothing in the file tells which are true.

Source:
    PS3.5 8.1.1 (bits above the stored ones are no pixel data), 8.2 (codestream and header); PS3.3 C.7.6.3.1.2, and the
    IODs of colour (C.8.5.6.1.12, C.8.12.1.1, C.8.12.4.1), which allow 8 or 16 bits a sample.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.admission.reasons import Reason
from client.decoder.codestream import Codestream
from client.dicom.pixels import Stored
from client.dicom.tags import value_of
from common.errors import ScanRefused

_GREYS = ("MONOCHROME1", "MONOCHROME2")
_BYTE = 8
_FAR, _FEW = 4, 0.001
"""Overshoot of lossy compression leaves the range by less than a fourth of it, but for one value in a thousand."""


def high_bit_shift(dataset: Dataset) -> int:
    """Return by how many bits the header says that values lie too high in their cells; 0 in all but retired objects."""
    declared, high = value_of(dataset, "BitsStored"), value_of(dataset, "HighBit")
    return high + 1 - declared if isinstance(declared, int) and isinstance(high, int) else 0


def uncut(dataset: Dataset, photometric: str) -> bool:
    """Return whether values must be seen with all their bits.

    Those are colours, indices without a sign, and values that the header says to lie high in their cells.
    """
    if high_bit_shift(dataset) > 0:
        return True
    return photometric not in _GREYS and value_of(dataset, "PixelRepresentation") != 1


def counted(code: Codestream, dataset: Dataset) -> int:
    """Return the bits that count of a codestream's samples: its own where the header's cells are too narrow."""
    declared = code.precision if code.precision > int(dataset.BitsAllocated) else int(dataset.BitsStored)
    return min(code.precision, declared)


def white(values: Stored, stored: int) -> int:
    """Return the value of white of a colour picture.

    Args:
        values: [rows, columns, 3].
        stored: Bits of a sample that count.

    Raises:
        ScanRefused: `contradictory_header`: fewer than 8 bits, which no colour has; or values that need more; or values
            with a sign.
    """
    if stored < _BYTE or values.dtype.kind != "u" or int(values.max()) >= 1 << stored:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    return (1 << stored) - 1


def true_values(values: Stored, code: Codestream, dataset: Dataset, *, photometric: str) -> Stored:
    """Give decoded values the bits and the sign of the header.

    Bits above BitsStored are cut off grey, as in native pixels, except in a lossy stream: there they are overshoot, and
    values are clipped. Where the header's cells are too narrow for the codestream, the codestream's own width counts.

    Args:
        values: As the codestream holds them.
        code: Its head.
        dataset: The header.
        photometric: What the values are.

    Raises:
        ScanRefused: `contradictory_header`: values of a lossy stream are too far outside for overshoot.
    """
    allocated, declared = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if code.precision > allocated:
        allocated, declared = 8 * values.dtype.itemsize, code.precision
    signed = value_of(dataset, "PixelRepresentation") == 1
    kept = code.precision if code.lossy or uncut(dataset, photometric) else min(code.precision, declared)
    wide: NDArray[Any] = values.astype(np.int64 if max(code.precision, declared) > 30 else np.int32)
    if code.signed != signed or code.precision > kept:
        wide = np.bitwise_and(wide, (1 << kept) - 1)
        if signed:
            wide = np.where(wide >> (kept - 1) > 0, wide - (1 << kept), wide)
    if code.lossy and code.precision > declared:
        wide = _without_overshoot(wide, declared, signed=signed, lifted=high_bit_shift(dataset) > 0)
    true: Stored = wide.astype(f"{'i' if signed else 'u'}{max(allocated, 8) // 8}")
    return true


def _without_overshoot(values: NDArray[Any], stored: int, *, signed: bool, lifted: bool) -> NDArray[Any]:
    """Clip what lies a little outside; values `lifted` in their cells are far outside, and stay."""
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    far = (1 << stored) // _FAR
    if np.count_nonzero((values < low - far) | (values > high + far)) > _FEW * values.size:
        if lifted:
            return values
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    clipped: NDArray[Any] = np.clip(values, low, high)
    return clipped
