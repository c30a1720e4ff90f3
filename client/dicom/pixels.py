"""The DICOM grey-scale pipeline on plain arrays: stored values -> modality values -> window -> [-1, 1].

A grey image holds few distinct values, so the pipeline is worked out once a value, not once a pixel, wherever the
values span less than the pixels count. Everything here is a function of the one image or of the plan's constants.

Source:
    PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding); PS3.4 N.2.1 (order).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.admission.reasons import Reason
from common.errors import ScanRefused

Floats = NDArray[np.float64]
Stored = NDArray[Any]
Range = Callable[[Floats, NDArray[np.int64]], tuple[float, float]]
"""From values and how often each occurs to the lowest and the highest that are shown."""

_TABLE_SPAN = 1 << 16
"""Widest range of stored values that is worked through by table."""
_BANDS, _NEXT_TO_NONE, _WORTH_IT = 64, 0.0002, 0.005
"""A gap is a 64th of the levels that holds fewer than 0.02 % of the pixels; padding is worth it from 0.5 % on."""
_EIGHT_BITS = 255.0
"""White of a colour picture under a plan's window of numbers, however many bits its colours have."""
_LUMA, _THOUSAND = (299, 587, 114), 1000
"""ITU-R BT.601 weights of red, green and blue, the ones YBR_FULL is defined by (PS3.3 C.7.6.3.1.2), in thousandths."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lut:
    """A look-up table of the standard: values below `first` take the first entry, values past the end the last.

    Attributes:
        first: Input value of the first entry.
        entries: [n] output values.
        bits: Bits of an output value.
    """

    first: int
    entries: NDArray[np.integer[Any]]
    bits: int

    def __call__(self, values: Floats) -> Floats:
        """Look each value up."""
        index = np.clip(np.round(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        return self.entries[index].astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A display window: centre and width in modality units, and the VOI function that uses them."""

    centre: float
    width: float
    function: str = "LINEAR"

    @property
    def usable(self) -> bool:
        """Whether the standard allows it (C.11.2.1.2.1: width at least 1 for LINEAR, else above 0) and it is finite."""
        if not (np.isfinite(self.centre) and np.isfinite(self.width)):
            return False
        if self.function == "LINEAR":
            return self.width >= 1
        return self.function in ("LINEAR_EXACT", "SIGMOID") and self.width > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendering:
    """How one frame is to be shown, as its header says.

    Attributes:
        slope: Rescale slope.
        intercept: Rescale intercept.
        modality_lut: Table that stands in for slope and intercept.
        voi: The frame's own window or VOI LUT; None where it has none that can be used.
        padding: Lowest and highest stored value that means "no data here"; None for no padding.
        padding_moved: Lossy compression may have moved the padding off its value.
        inverted: MONOCHROME1: the lowest value is white.
        full_scale: Stored range that is shown when neither window nor percentiles apply (colour turned grey).
        transpose: Swap rows and columns, then flip, to reach the one orientation.
        flip_rows: Mirror top to bottom, after `transpose`.
        flip_columns: Mirror left to right, after `transpose`.
        aspect: Height of a pixel over its width, before `transpose`.
    """

    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: Lut | None = None
    voi: Window | Lut | None = None
    padding: tuple[float, float] | None = None
    padding_moved: bool = False
    inverted: bool = False
    full_scale: tuple[float, float] | None = None
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    aspect: float = 1.0


def grey_of(colour: Stored) -> Stored:
    """Turn RGB into luminance.

    Args:
        colour: [height, width, 3] unsigned.

    Returns:
        [height, width], same type, rounded to nearest, halves up. In whole numbers: as fractions, a half may come out
        on either side by how the picture lies in memory, and one picture in two encodings would be two.
    """
    red, green, blue = (colour[..., channel].astype(np.int64) for channel in range(3))
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    grey: Stored = ((luma + _THOUSAND // 2) // _THOUSAND).astype(colour.dtype)
    return grey


def render(stored: Stored, rendering: Rendering, window: str | tuple[float, float]) -> NDArray[np.float32]:
    """Take one frame of stored values to [-1, 1].

    Args:
        stored: [height, width] integers or floats.
        rendering: What the header says about this frame.
        window: "dicom" (the frame's own, percentiles where it has none), a rule of `OF_THE_IMAGE`, or the plan's
            (centre, width).

    Returns:
        [height, width] float32 in [-1, 1], in the one orientation, black at -1; padding is black.

    Raises:
        ScanRefused: `constant_image`: all pixels outside the padding are equal, before or after the window.
    """
    levels, index = _levels(stored)
    values = _modality(levels, rendering)
    usable = np.isfinite(values)
    if rendering.padding is not None:
        low, high = moved_padding(levels, index, rendering) if rendering.padding_moved else rendering.padding
        usable &= (levels < low) | (levels > high)
    counts = _counts(index, usable, always=_range(rendering, window) is not None or not _rises(rendering))
    present = usable if counts is None else usable & (counts > 0)
    if not present.any() or values[present].min() == values[present].max():
        raise ScanRefused(Reason.CONSTANT_IMAGE)
    unit = _window(values, counts, present, rendering, window)
    if rendering.inverted:
        unit = -unit
    unit[~usable] = -1.0
    shown = unit[present]
    if shown.min() == shown.max():
        raise ScanRefused(Reason.CONSTANT_IMAGE)
    curve = unit.astype(np.float32)
    picture = curve.reshape(stored.shape) if index is None else curve[index]
    return _orient(picture, rendering)


def _levels(stored: Stored) -> tuple[Floats, NDArray[np.int64] | None]:
    """Return the levels to work on, and the level of each pixel (None: a level for each pixel).

    The first and the last level occur in the picture; those between may not.
    """
    if stored.dtype.kind in "iu":
        low, high = int(stored.min()), int(stored.max())
        if high - low < min(_TABLE_SPAN, stored.size):
            return np.arange(low, high + 1, dtype=np.float64), np.subtract(stored, low, dtype=np.int64)
    return stored.astype(np.float64).ravel(), None


def moved_padding(levels: Floats, index: NDArray[np.int64] | None, rendering: Rendering) -> tuple[float, float]:
    """Return the range that padding fills after lossy compression has blurred it around its value.

    The blur ends where a band of levels on either side holds next to no pixels. Where there is no such gap, values near
    the padding may be the patient, and only the value itself is padding.

    Args:
        levels: [n] stored values, rising by one; those of the pixels where there is no index.
        index: The level of each pixel.
        rendering: Holds the padding as the header gives it.
    """
    assert rendering.padding is not None
    low, high = rendering.padding
    if index is None:
        span = levels.max() - levels.min()
        if not span < _TABLE_SPAN or np.any(levels != np.floor(levels)):
            return low, high
        index = (levels - levels.min()).astype(np.int64)
        levels = np.arange(levels.min(), levels.max() + 1)
    mass = np.concatenate([[0], np.cumsum(np.bincount(index.ravel(), minlength=len(levels)))])
    band, few, far = max(2, len(levels) // _BANDS), index.size * _NEXT_TO_NONE, len(levels) // 4
    first, last = np.searchsorted(levels, low), np.searchsorted(levels, high, side="right")  # padding is first to last

    def held(begin: Any, end: Any) -> Any:
        return mass[np.clip(end, 0, len(levels))] - mass[np.clip(begin, 0, len(levels))]

    steps = np.arange(far + 1)
    above = np.flatnonzero(held(last + steps, last + steps + band) <= few)
    below = np.flatnonzero(held(first - steps - band, first - steps) <= few)
    if held(first - band, last + band) < index.size * _WORTH_IT or not len(above) or not len(below):
        return low, high
    return low - float(below[0]), high + float(above[0])


def _range(rendering: Rendering, window: str | tuple[float, float]) -> Range | None:
    """Return what finds the grey values to show from the image alone, None where header or plan says them."""
    if not isinstance(window, str):
        return None
    if window != "dicom":
        return OF_THE_IMAGE[window]
    return percentiles if rendering.voi is None and rendering.full_scale is None else None


def _rises(rendering: Rendering) -> bool:
    """Whether shown values follow stored ones without turns, so that the two ends tell of the whole picture."""
    return rendering.modality_lut is None and not isinstance(rendering.voi, Lut)


def _counts(index: NDArray[np.int64] | None, usable: NDArray[np.bool_], *, always: bool) -> NDArray[np.int64] | None:
    """Count how often each level occurs, where that matters; None where it does not."""
    if index is None:
        return np.ones(usable.shape, dtype=np.int64)
    if always or not usable.all():
        return np.bincount(index.ravel(), minlength=len(usable))
    return None


def _modality(levels: Floats, rendering: Rendering) -> Floats:
    if rendering.modality_lut is not None:
        return rendering.modality_lut(levels)
    return levels * rendering.slope + rendering.intercept


def _window(
    values: Floats,
    counts: NDArray[np.int64] | None,
    present: NDArray[np.bool_],
    rendering: Rendering,
    window: str | tuple[float, float],
) -> Floats:
    """Return the unit value of each level under the window that applies."""
    if not isinstance(window, str):
        eight = values if rendering.full_scale is None else values * (_EIGHT_BITS / rendering.full_scale[1])
        return apply_window(eight, Window(centre=window[0], width=window[1], function="LINEAR_EXACT"))
    if (found := _range(rendering, window)) is not None:
        assert counts is not None
        low, high = found(values[present], counts[present])
    elif rendering.voi is not None:
        if isinstance(rendering.voi, Lut):
            return rendering.voi(values) * (2.0 / ((1 << rendering.voi.bits) - 1)) - 1.0
        return apply_window(values, rendering.voi)
    else:
        assert rendering.full_scale is not None
        low, high = rendering.full_scale
    return np.clip((values - low) * (2.0 / (high - low)) - 1.0, -1.0, 1.0)


def percentiles(values: Floats, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the 1st and 99th percentile (inverted CDF) of a weighted sample, or its extremes where those are equal.

    Args:
        values: [n], not all equal.
        counts: [n] above 0: how often each occurs.
    """
    order = np.argsort(values, kind="stable")
    ordered, mass = values[order], np.cumsum(counts[order])
    low = ordered[np.searchsorted(mass, 0.01 * mass[-1])]
    high = ordered[np.searchsorted(mass, 0.99 * mass[-1])]
    if low == high:
        low, high = ordered[0], ordered[-1]
    return float(low), float(high)


OF_THE_IMAGE: dict[str, Range] = {"percentile": percentiles}
"""Window rules of a plan that find the lowest and the highest grey value to show from the one image."""


def apply_window(values: Floats, window: Window) -> Floats:
    """Map modality values onto [-1, 1] by one of the three VOI functions.

    Source:
        PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).
    """
    if window.function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 2.0 / (1.0 + np.exp(-4.0 * (values - window.centre) / window.width)) - 1.0
    if window.function == "LINEAR_EXACT":
        return np.clip((values - window.centre) * (2.0 / window.width), -1.0, 1.0)
    if window.width == 1:
        return np.where(values <= window.centre - 0.5, -1.0, 1.0)
    return np.clip((values - (window.centre - 0.5)) * (2.0 / (window.width - 1.0)), -1.0, 1.0)


def _orient(picture: NDArray[np.float32], rendering: Rendering) -> NDArray[np.float32]:
    if rendering.transpose:
        picture = picture.T
    if rendering.flip_rows:
        picture = picture[::-1]
    if rendering.flip_columns:
        picture = picture[:, ::-1]
    return picture
