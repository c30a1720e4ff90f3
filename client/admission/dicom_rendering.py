"""From a DICOM header to the plain description of how each frame is to be shown."""

import math
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from client.admission.dicom_pixels import high_bit_shift
from client.admission.dicom_reader import text_of
from client.admission.dicom_tags import value_of
from client.admission.pixels import Lut, Rendering, Stored, Window, grey_of
from client.admission.reasons import Reason
from common.errors import ScanRefused

_AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "F": 2, "H": 2}
"""Patient axis of each direction letter; the one orientation runs towards L, P and F, lower axis across."""
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_STRANGEST_ASPECT = 16.0
_SECTIONS = {
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "VOILUTFunction": "FrameVOILUTSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
}
"""Functional group that holds an attribute in an enhanced object (PS3.3 C.7.6.16.2)."""


def grey_plane(stored: Stored, photometric: str, dataset: Dataset) -> tuple[Stored, tuple[float, float] | None]:
    """Return one frame as grey values, and the range they span when it was colour.

    Args:
        stored: [rows, columns] or [rows, columns, 3] from the decoder.
        photometric: Its photometric interpretation after decoding.
        dataset: The header, for palettes.
    """
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if stored.ndim == 2:
        return _used_bits(stored, dataset), None
    if stored.dtype.kind != "u":
        raise ScanRefused(Reason.MALFORMED)
    stored = stored[..., :3]
    wide = photometric == "PALETTE COLOR" or stored.dtype == np.uint8
    bits = 8 * stored.dtype.itemsize if wide else int(dataset.BitsStored)
    return grey_of(stored), (0.0, float((1 << bits) - 1))


def only_regions(plane: Stored, dataset: Dataset) -> Stored:
    """Blank what lies outside the ultrasound regions: the screen around the image, where names stand.

    Args:
        plane: [rows, columns] grey.
        dataset: The header; without SequenceOfUltrasoundRegions the plane comes back as it is.

    Source:
        PS3.3 C.8.5.5.1 (corners in pixels from 0, both included).
    """
    inside = np.zeros(plane.shape, dtype=bool)
    for region in value_of(dataset, "SequenceOfUltrasoundRegions") or ():
        corners = [value_of(region, f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if all(isinstance(corner, int) and corner >= 0 for corner in corners):
            left, top, right, bottom = corners
            inside[top : bottom + 1, left : right + 1] = True
    return np.where(inside, plane, plane.min()) if inside.any() else plane


def _used_bits(stored: Stored, dataset: Dataset) -> Stored:
    """Move values that lie in the upper bits of their cells down (HighBit above BitsStored - 1, retired).

    HighBit is often wrong, so it counts only when values need more than the stored bits.
    """
    shift = high_bit_shift(dataset)
    if shift <= 0 or stored.dtype.kind not in "iu":
        return stored
    half = 1 << (int(dataset.BitsStored) - 1)
    low, high = (-half, half) if stored.dtype.kind == "i" else (0, 2 * half)
    return stored if low <= int(stored.min()) and int(stored.max()) < high else stored >> shift


def rendering_of(
    dataset: Dataset, frame: int, *, photometric: str, full_scale: tuple[float, float] | None
) -> Rendering:
    """Return how one frame is to be shown.

    Args:
        dataset: The header.
        frame: Number of the frame, from 0.
        photometric: Photometric interpretation after decoding.
        full_scale: Range of a frame that was colour; rescale, window and padding do not apply to it.

    Raises:
        ScanRefused: `malformed`: a value that decides on pixels makes no sense.
    """
    groups = _groups(dataset, frame)
    try:
        geometry = _geometry(dataset, groups)
        if full_scale is not None:
            return Rendering(full_scale=full_scale, **geometry)
        return Rendering(
            **_modality(dataset, groups), **geometry,
            voi=_voi(dataset, groups),
            padding=_padding(dataset),
            inverted=photometric == "MONOCHROME1",
        )  # fmt: skip
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ScanRefused(Reason.MALFORMED, f"malformed: {type(error).__name__}") from None


def _groups(dataset: Dataset, frame: int) -> list[Dataset]:
    """Return the functional groups of a frame, its own before the shared ones; none for classic objects."""
    found: list[Dataset] = []
    per_frame = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if per_frame and frame < len(per_frame):
        found.append(per_frame[frame])
    shared = value_of(dataset, "SharedFunctionalGroupsSequence")
    if shared:
        found.append(shared[0])
    return found


def _value(dataset: Dataset, groups: list[Dataset], keyword: str) -> Any:
    """Return an attribute from the frame's groups, else from the top level, else None."""
    for group in groups:
        section = value_of(group, _SECTIONS[keyword])
        if section and value_of(section[0], keyword) is not None:
            return value_of(section[0], keyword)
    return value_of(dataset, keyword)


def _modality(dataset: Dataset, groups: list[Dataset]) -> dict[str, Any]:
    tables = value_of(dataset, "ModalityLUTSequence")
    if tables:
        return {"modality_lut": _lut(tables[0], dataset)}
    slope = float(_number(_value(dataset, groups, "RescaleSlope"), default=1.0))
    intercept = float(_number(_value(dataset, groups, "RescaleIntercept"), default=0.0))
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise ValueError("rescale")
    return {"slope": slope, "intercept": intercept}


def _voi(dataset: Dataset, groups: list[Dataset]) -> Window | Lut | None:
    """Return the first VOI LUT, else the first window that the standard allows, else None."""
    tables = value_of(dataset, "VOILUTSequence")
    if tables:
        try:
            return _lut(tables[0], dataset)
        except (AttributeError, IndexError, TypeError, ValueError):
            pass
    centre = _number(_value(dataset, groups, "WindowCenter"), default=math.nan)
    width = _number(_value(dataset, groups, "WindowWidth"), default=math.nan)
    function = str(_value(dataset, groups, "VOILUTFunction") or "LINEAR")
    window = Window(centre=float(centre), width=float(width), function=function)
    return window if window.usable else None


def _number(value: Any, *, default: float) -> Any:
    """Return the first of one or several values."""
    if value is None or value == "":
        return default
    if isinstance(value, int | float | str):
        return value
    return value[0] if len(value) else default


def _lut(item: Dataset, dataset: Dataset) -> Lut:
    count, first, bits = (int(part) for part in item.LUTDescriptor)
    count = count or 1 << 16
    signed = value_of(dataset, "PixelRepresentation") == 1
    if signed and first >= 1 << 15:
        first -= 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, dtype="u1" if len(data) < 2 * count else f"{order}u2")
    entries = np.asarray(data, dtype=np.int64)[:count]
    if len(entries) < count or not 1 <= bits <= 16:
        raise ValueError("look-up table")
    return Lut(first=first, entries=entries, bits=max(bits, int(entries.max()).bit_length()))


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    value = value_of(dataset, "PixelPaddingValue")
    if value is None or isinstance(value, bytes | str):
        return None
    limit = value_of(dataset, "PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None or isinstance(limit, bytes | str) else limit)]
    if value_of(dataset, "PixelRepresentation") == 1:
        bits = int(dataset.BitsAllocated)
        ends = [end - (1 << bits) if end >= 1 << (bits - 1) else end for end in ends]
    return float(min(ends)), float(max(ends))


def _geometry(dataset: Dataset, groups: list[Dataset]) -> dict[str, Any]:
    """Return the turn that brings the frame to the one orientation, and the aspect of its pixels."""
    aspect = _aspect(dataset, groups)
    letters = _directions(dataset, groups)
    if letters is None:
        return {"aspect": aspect}
    across, down = letters
    transpose = _AXES[across] > _AXES[down]
    if transpose:
        across, down = down, across
    return {"aspect": aspect, "transpose": transpose, "flip_columns": across in "RA", "flip_rows": down in "RAH"}


def _aspect(dataset: Dataset, groups: list[Dataset]) -> float:
    """Return height over width of a pixel; 1 where the header is silent or absurd."""
    for keyword in _SPACINGS:
        pair = _value(dataset, groups, keyword) if keyword in _SECTIONS else value_of(dataset, keyword)
        if pair is None or isinstance(pair, str) or len(pair) != 2:
            continue
        height, width = float(pair[0]), float(pair[1])
        if height > 0 and width > 0 and 1 / _STRANGEST_ASPECT <= height / width <= _STRANGEST_ASPECT:
            return height / width
    return 1.0


def _directions(dataset: Dataset, groups: list[Dataset]) -> tuple[str, str] | None:
    """Return the patient direction of increasing columns and of increasing rows (PS3.3 C.7.6.1.1.1), or None."""
    cosines = _value(dataset, groups, "ImageOrientationPatient")
    if cosines is not None and not isinstance(cosines, str) and len(cosines) == 6:
        vectors = np.asarray([float(part) for part in cosines]).reshape(2, 3)
        found = tuple(_letter(vector) for vector in vectors)
    else:
        found = tuple(part[:1].upper() for part in text_of(dataset, "PatientOrientation").split("\\"))
    if len(found) != 2 or not all(letter in _AXES for letter in found) or _AXES[found[0]] == _AXES[found[1]]:
        return None
    return found[0], found[1]


def _letter(vector: Any) -> str:
    if not np.isfinite(vector).all() or not vector.any():
        return ""
    axis = int(np.argmax(np.abs(vector)))
    return ("LPH" if vector[axis] > 0 else "RAF")[axis]
