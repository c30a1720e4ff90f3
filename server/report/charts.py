"""The report's pictures: charts by round as inline SVG, synthetic images as one PNG sheet.

Both need nothing but the document they stand in: no script, no font file, no address. Charts draw with
`currentColor` and a few class names, so that the page's style sheet colours them in light, dark and print.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.display.plain import plain

_WIDTH, _HEIGHT = 420.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 42.0, 40.0
_MOST_MARKERS = 40

_TILE = 112
_GAP = 4
_STRIP = 30
_COLUMNS = 6
_FILM, _INK = 24, 214

SHEET_LIMIT = 24
"""Most images one sheet shows: the first ones drawn, never a selection."""


@dataclass(frozen=True, kw_only=True)
class RoundChart:
    """One measured quantity by round.

    Attributes:
        key: Name of the chart inside the document; letters and dashes, used once.
        title: What a screen reader announces.
        description: The chart in a sentence or two, for a reader who cannot see it.
        unit: What the vertical axis counts.
        rounds: Round numbers, ascending.
        values: One value for each round; those that are not finite are left out.
        bands: (first round, last round, label) of the phases in the background.
        limit: A level drawn as a dashed line, if there is one.
        stepped: A quantity that adds up: steps above zero, filled; else points joined by a line.
    """

    key: str
    title: str
    description: str
    unit: str
    rounds: Sequence[int]
    values: Sequence[float]
    bands: Sequence[tuple[int, int, str]] = ()
    limit: float | None = None
    stepped: bool = False

    def __post_init__(self) -> None:
        if len(self.rounds) != len(self.values):
            raise ValueError(f"chart {self.key}: {len(self.rounds)} rounds but {len(self.values)} values")


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """From rounds and values to the drawing's own units."""

    first: int
    last: int
    low: float
    high: float

    def x(self, number: float) -> float:
        """Return the horizontal place; a round takes the space from half before to half after its number."""
        share = (number - self.first + 0.5) / (self.last - self.first + 1)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 2)

    def y(self, value: float) -> float:
        """Return the vertical place; larger values lie higher."""
        share = (value - self.low) / (self.high - self.low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 2)


def round_chart(chart: RoundChart) -> Markup:
    """Draw a quantity by round.

    Returns:
        One `<svg>` element, safe to place in HTML; empty where no value is finite.
    """
    points = [pair for pair in zip(chart.rounds, chart.values, strict=True) if math.isfinite(pair[1])]
    if not points:
        return Markup("")
    values = [value for _, value in points]
    ticks = _value_ticks(values, limit=chart.limit, from_zero=chart.stepped)
    scale = _Scale(first=chart.rounds[0], last=chart.rounds[-1], low=ticks[0], high=ticks[-1])
    svg = Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {_WIDTH:g} {_HEIGHT:g}",
            "role": "img",
            "aria-labelledby": f"{chart.key}-title {chart.key}-desc",
        },
    )
    SubElement(svg, "title", {"id": f"{chart.key}-title"}).text = plain(chart.title)
    SubElement(svg, "desc", {"id": f"{chart.key}-desc"}).text = plain(chart.description)
    _draw_bands(svg, chart, scale)
    _draw_axes(svg, chart, scale, ticks)
    if chart.limit is not None:
        level = scale.y(chart.limit)
        _line(svg, (_LEFT, level), (_WIDTH - _RIGHT, level), kind="limit")
        _text(svg, f"limit {chart.limit:g}", (_LEFT + 6, level - 5), kind="limit-label")
    _draw_series(svg, points, scale, stepped=chart.stepped)
    return Markup(tostring(svg, encoding="unicode"))  # ElementTree has escaped every text


def _value_ticks(values: Sequence[float], *, limit: float | None, from_zero: bool) -> list[float]:
    """Return round numbers that enclose all values and the limit, lowest first, at least two."""
    low = 0.0 if from_zero else min(values)
    high = max([*values, *([] if limit is None else [limit])])
    room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    bottom = low if from_zero else low - room
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
    return [float(tick) for tick in locator.tick_values(bottom, high + room)]


def _draw_bands(svg: Element, chart: RoundChart, scale: _Scale) -> None:
    for index, (first, last, label) in enumerate(chart.bands):
        left, right = scale.x(first - 0.5), scale.x(last + 0.5)
        SubElement(
            svg,
            "rect",
            {
                "class": "band" if index % 2 == 0 else "band odd",
                "fill": "currentColor",
                "fill-opacity": "0.06" if index % 2 == 0 else "0",
                "x": f"{left:g}",
                "y": f"{_TOP:g}",
                "width": f"{right - left:g}",
                "height": f"{_HEIGHT - _TOP - _BOTTOM:g}",
            },
        )
        if right - left > 6 * len(label):
            _text(svg, label, ((left + right) / 2, _TOP - 6), kind="band-label", anchor="middle")


def _draw_axes(svg: Element, chart: RoundChart, scale: _Scale, ticks: Sequence[float]) -> None:
    for tick in ticks:
        _line(svg, (_LEFT, scale.y(tick)), (_WIDTH - _RIGHT, scale.y(tick)), kind="grid")
        _text(svg, f"{tick:.6g}", (_LEFT - 7, scale.y(tick) + 4), kind="tick", anchor="end")
    span = max(scale.last - scale.first, 1)
    for tick in MaxNLocator(nbins=8, integer=True).tick_values(scale.first, scale.first + span):
        if scale.first <= tick <= scale.last:
            _text(svg, f"{tick:.0f}", (scale.x(tick), _HEIGHT - _BOTTOM + 17), kind="tick", anchor="middle")
    _text(svg, chart.unit, (2, 14), kind="axis")
    _text(svg, "round", (_WIDTH - _RIGHT, _HEIGHT - 5), kind="axis", anchor="end")


def _draw_series(svg: Element, points: Sequence[tuple[int, float]], scale: _Scale, *, stepped: bool) -> None:
    if stepped:
        floor = scale.y(scale.low)
        path = f"M{scale.x(points[0][0] - 0.5):g} {floor:g}" + "".join(
            f"V{scale.y(value):g}H{scale.x(number + 0.5):g}" for number, value in points
        )
        SubElement(
            svg,
            "path",
            {"class": "area", "fill": "currentColor", "fill-opacity": "0.14", "d": f"{path}V{floor:g}Z"},
        )
    else:
        path = "M" + "L".join(f"{scale.x(number):g} {scale.y(value):g}" for number, value in points)
    SubElement(
        svg,
        "path",
        {"class": "series", "fill": "none", "stroke": "currentColor", "stroke-width": "2", "d": path},
    )
    if not stepped and len(points) <= _MOST_MARKERS:
        for number, value in points:
            SubElement(
                svg,
                "circle",
                {
                    "class": "dot",
                    "fill": "currentColor",
                    "r": "3.2",
                    "cx": f"{scale.x(number):g}",
                    "cy": f"{scale.y(value):g}",
                },
            )


def _line(svg: Element, start: tuple[float, float], end: tuple[float, float], *, kind: str) -> None:
    SubElement(
        svg,
        "line",
        {
            "class": kind,
            "stroke": "currentColor",
            "stroke-opacity": "0.2" if kind == "grid" else "1",
            "stroke-dasharray": "none" if kind == "grid" else "6 4",
            "x1": f"{start[0]:g}",
            "y1": f"{start[1]:g}",
            "x2": f"{end[0]:g}",
            "y2": f"{end[1]:g}",
        },
    )


def _text(svg: Element, text: str, place: tuple[float, float], *, kind: str, anchor: str = "start") -> None:
    SubElement(
        svg,
        "text",
        {
            "class": kind,
            "fill": "currentColor",
            "font-size": "12",
            "text-anchor": anchor,
            "x": f"{place[0]:g}",
            "y": f"{place[1]:g}",
        },
    ).text = plain(text)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Synthetic images side by side, as one picture.

    Attributes:
        uri: `data:image/png;base64,...`.
        width: Pixels.
        height: Pixels.
        shown: How many images it holds.
    """

    uri: str
    width: int
    height: int
    shown: int


def image_sheet(images: NDArray[np.uint8], *, words: Sequence[str]) -> Sheet | None:
    """Lay the first images out in rows, smoothly enlarged, over a strip that says what they are.

    The words are burnt into the pixels, for the day somebody saves the picture out of the report.

    Args:
        images: [n, height, width], 8-bit grey, 0 is black.
        words: What the strip says; as many of them as fit, the first ones first.

    Returns:
        At most `SHEET_LIMIT` images, 6 to a row; None where `n` is 0.
    """
    shown = images[:SHEET_LIMIT]
    if not shown.size:
        return None
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    tile_height = max(_TILE, shown.shape[1])
    tile_width = max(1, round(tile_height * shown.shape[2] / shown.shape[1]))
    size = (columns * (tile_width + _GAP) + _GAP, rows * (tile_height + _GAP) + _STRIP)
    sheet = Image.new("L", size, _FILM)
    for index, image in enumerate(shown):
        row, column = divmod(index, columns)
        tile = Image.fromarray(np.ascontiguousarray(image))
        tile = tile.resize((tile_width, tile_height), Image.Resampling.BICUBIC)
        sheet.paste(tile, (_GAP + column * (tile_width + _GAP), _GAP + row * (tile_height + _GAP)))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    lengths = ("  |  ".join(words[:count]) for count in range(len(words), -1, -1))
    line = next(text for text in lengths if draw.textlength(text, font=font) <= size[0] - 2 * _GAP)
    draw.text((size[0] / 2, size[1] - _STRIP / 2 + 1), line, fill=_INK, font=font, anchor="mm")
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Sheet(uri=uri, width=size[0], height=size[1], shown=len(shown))
