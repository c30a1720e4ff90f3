"""From a DICOM header to the plain description of how each frame is to be shown."""

import math
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from client.admission.reasons import Reason
from client.decoder.frame_decoder import Frame
from client.decoder.sample_bits import high_bit_shift
from client.dicom.functional_groups import SECTIONS, groups_of, value_in
from client.dicom.luts import apply_palette, read_lut
from client.dicom.pixels import Lut, Rendering, Stored, Window, grey_of
from client.dicom.reader import text_of
from client.dicom.sop_classes import ANGIOGRAPHY, COMPUTED_TOMOGRAPHY
from client.dicom.tags import value_of
from common.errors import ScanRefused

_AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "F": 2, "H": 2}
"""Patient axis of each direction letter; the one orientation runs towards L, P and F, lower axis across."""
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_STRANGEST_ASPECT = 16.0
_AIR, _CLEARLY = -1024.0, 100.0
"""Hounsfield units of air, and how far below them padding is no blurred air."""
_SHAPES = {"IDENTITY": False, "INVERSE": True}
_NARROW = 2.0
"""Units below which the half unit of LINEAR is as large as half of the window."""


def grey_plane(frame: Frame, dataset: Dataset) -> tuple[Stored, tuple[float, float] | None]:
    """Return one frame as grey values, and the range they span when it was colour.

    Args:
        frame: From the decoder.
        dataset: The header, for palettes.

    Raises:
        ScanRefused: `malformed`: a palette cannot be read; `contradictory_header`: indices need other bits.
    """
    stored, white = frame.values, frame.white
    if frame.photometric == "PALETTE COLOR":
        try:
            stored, bits = apply_palette(stored, dataset)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ScanRefused(Reason.MALFORMED, f"malformed: {type(error).__name__}") from None
        white = (1 << bits) - 1
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if stored.ndim == 2:
        return _used_bits(stored, dataset), None
    return grey_of(stored[..., :3]), (0.0, float(white))


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
    dataset: Dataset, frame: int, *, photometric: str, full_scale: tuple[float, float] | None, lossy: bool = False
) -> Rendering:
    """Return how one frame is to be shown.

    Args:
        dataset: The header.
        frame: Number of the frame, from 0.
        photometric: Photometric interpretation after decoding.
        full_scale: Range of a frame that was colour; rescale, window and padding do not apply to it.
        lossy: Whether the codestream was; the header tells of earlier compression.

    Raises:
        ScanRefused: `malformed`: a value that decides on pixels makes no sense; `contradictory_header`: the shape of
            the presentation LUT says another polarity than the photometric interpretation.
    """
    groups = groups_of(dataset, frame)
    try:
        geometry = _geometry(dataset, groups)
        if full_scale is not None:
            return Rendering(full_scale=full_scale, **geometry)
        modality = _modality(dataset, groups)
        return Rendering(
            **modality, **geometry,
            voi=_voi(dataset, groups, modality),
            **_padding(dataset, modality, lossy=lossy or text_of(dataset, "LossyImageCompression") == "01"),
            inverted=_inverted(dataset, photometric),
        )  # fmt: skip
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ScanRefused(Reason.MALFORMED, f"malformed: {type(error).__name__}") from None


def _inverted(dataset: Dataset, photometric: str) -> bool:
    """Return whether the lowest value is white.

    PresentationLUTShape must say the same as the photometric interpretation (PS3.3 C.8.11.3.1.2). Where it says the
    opposite, viewers disagree on which is white, and nothing in the file decides.
    """
    inverted = photometric == "MONOCHROME1"
    shape = text_of(dataset, "PresentationLUTShape").upper()
    if shape in _SHAPES and _SHAPES[shape] != inverted:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    return inverted


def _modality(dataset: Dataset, groups: list[Dataset]) -> dict[str, Any]:
    """Return slope and intercept, or the table in their place.

    Neither for angiography, whose modality LUT makes values linear for measuring, not for display (PS3.4 N.2.1.2).
    """
    if text_of(dataset, "SOPClassUID") in ANGIOGRAPHY:
        return {}
    tables = value_of(dataset, "ModalityLUTSequence")
    if tables:
        return {"modality_lut": read_lut(tables[0], signed=value_of(dataset, "PixelRepresentation") == 1)}
    slope = float(_first(value_in(dataset, groups, "RescaleSlope"), default=1.0))
    intercept = float(_first(value_in(dataset, groups, "RescaleIntercept"), default=0.0))
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise ValueError("rescale")
    return {"slope": slope, "intercept": intercept}


def _voi(dataset: Dataset, groups: list[Dataset], modality: dict[str, Any]) -> Window | Lut | None:
    """Return the frame's first VOI LUT or usable window, its own functional group before the shared one and the top."""
    signed = _lowest(dataset, modality) < 0
    items = [section[0] for group in groups if (section := value_of(group, "FrameVOILUTSequence"))]
    for item in (*items, dataset):
        found = _voi_table(item, signed=signed) or _voi_window(item, fine=abs(modality.get("slope", 1.0)) < 1)
        if found is not None:
            return found
    return None


def _lowest(dataset: Dataset, modality: dict[str, Any]) -> float:
    """Return the lowest value that the modality step can give: a VOI LUT's first input has a sign where it can."""
    if "modality_lut" in modality:
        return 0.0
    bits = int(value_of(dataset, "BitsStored") or 16)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if value_of(dataset, "PixelRepresentation") == 1 else (
        0, (1 << bits) - 1)  # fmt: skip
    slope, intercept = modality.get("slope", 1.0), modality.get("intercept", 0.0)
    return float(min(low * slope, high * slope) + intercept)


def _voi_table(item: Dataset, *, signed: bool) -> Lut | None:
    for table in value_of(item, "VOILUTSequence") or ():
        try:
            return read_lut(table, signed=signed)
        except (AttributeError, IndexError, TypeError, ValueError):
            continue
    return None


def _voi_window(item: Dataset, *, fine: bool) -> Window | None:
    """Return the first usable window of an item.

    LINEAR takes half a unit off both ends, which is meant for whole numbers (PS3.3 C.11.2.1.2.1). Where the rescale
    makes steps finer than a unit, a window of less than two units would become a threshold or nothing. It is read as
    LINEAR_EXACT.
    """
    function = text_of(item, "VOILUTFunction").upper() or "LINEAR"
    pairs = zip(_numbers(value_of(item, "WindowCenter")), _numbers(value_of(item, "WindowWidth")), strict=False)
    for centre, width in pairs:
        narrow = function == "LINEAR" and fine and 0 < width < _NARROW
        window = Window(centre=centre, width=width, function="LINEAR_EXACT" if narrow else function)
        if window.usable:
            return window
    return None


def _numbers(value: Any) -> list[float]:
    """Return one or several values as numbers; NaN for those that are none."""
    if value is None or value == "":
        return []
    found: list[float] = []
    for part in [value] if isinstance(value, int | float | str) else value:
        try:
            found.append(float(part))
        except (TypeError, ValueError):
            found.append(math.nan)
    return found


def _first(value: Any, *, default: float) -> Any:
    """Return the first of one or several values."""
    if value is None or value == "":
        return default
    if isinstance(value, int | float | str):
        return value
    return value[0] if len(value) else default


def _padding(dataset: Dataset, modality: dict[str, Any], *, lossy: bool) -> dict[str, Any]:
    """Return the range of padding, and whether lossy compression may have moved it.

    No tissue lies below air: where the padding of a CT does, all that compression has left of it is below halfway.
    """
    value = value_of(dataset, "PixelPaddingValue")
    if value is None or isinstance(value, bytes | str):
        return {}
    limit = value_of(dataset, "PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None or isinstance(limit, bytes | str) else limit)]
    if value_of(dataset, "PixelRepresentation") == 1:
        bits = int(dataset.BitsAllocated)
        ends = [end - (1 << bits) if end >= 1 << (bits - 1) else end for end in ends]
    low, high = float(min(ends)), float(max(ends))
    slope, intercept = modality.get("slope", 0.0), modality.get("intercept", 0.0)
    units = high * slope + intercept
    if lossy and slope > 0 and units < _AIR - _CLEARLY and text_of(dataset, "SOPClassUID") in COMPUTED_TOMOGRAPHY:
        return {"padding": (-math.inf, ((units + _AIR) / 2 - intercept) / slope)}
    return {"padding": (low, high), "padding_moved": lossy}


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
        pair = _numbers(value_in(dataset, groups, keyword) if keyword in SECTIONS else value_of(dataset, keyword))
        if not pair or len(pair) > 2:
            continue
        height, width = pair[0], pair[-1]  # one value: the pixels are square
        if height > 0 and width > 0 and 1 / _STRANGEST_ASPECT <= height / width <= _STRANGEST_ASPECT:
            return height / width
    return 1.0


def _directions(dataset: Dataset, groups: list[Dataset]) -> tuple[str, str] | None:
    """Return the patient direction of increasing columns and of increasing rows (PS3.3 C.7.6.1.1.1), or None."""
    cosines = value_in(dataset, groups, "ImageOrientationPatient")
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
