"""Charts of the evaluation as inline SVG: figures with intervals in rows, and two curves over each other.

Drawn like `server.report.charts`: no script, class names for the page's colours, a title and a description to be read
out.
"""

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from common.display.plain import plain

_WIDTH = 460.0
_ROW, _TOP, _NAMES, _RIGHT = 24.0, 16.0, 190.0, 20.0
_CURVE_HEIGHT, _MARGIN = 220.0, 30.0
_CLASSES = ("first", "second")


def interval_chart(
    *, key: str, title: str, description: str, rows: Sequence[tuple[str, dict[str, Any], int]], middle: float = 0.5
) -> Markup:
    """Draw values from 0 to 1 with intervals, one row each.

    Args:
        key: Name of the chart inside the document.
        title: What a screen reader announces.
        description: The chart in a sentence.
        rows: Name, figure ("value", "low", "high") and colour (0 or 1).
        middle: A level drawn as a dashed line: what guessing reaches.

    Returns:
        One `<svg>`, safe to place in HTML; empty without rows.
    """
    if not rows:
        return Markup("")
    height = _TOP + _ROW * len(rows) + 26
    svg = _canvas(key, title, description, height)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _across(tick)
        _line(svg, (x, _TOP), (x, height - 24), "limit" if tick == middle else "grid", dashed=tick == middle)
        _text(svg, f"{tick:g}", (x, height - 8), "tick", anchor="middle")
    for place, (name, figure, colour) in enumerate(rows):
        y = _TOP + _ROW * (place + 0.5)
        _text(svg, name if len(name) <= 28 else name[:27] + "…", (_NAMES - 10, y + 4), "tick", anchor="end")
        if figure["low"] is not None:
            _line(svg, (_across(figure["low"]), y), (_across(figure["high"]), y), _CLASSES[colour], width=3)
        at = {"cx": f"{_across(figure['value']):g}", "cy": f"{y:g}", "r": "4.5", "class": _CLASSES[colour]}
        SubElement(svg, "circle", at)
    return Markup(tostring(svg, encoding="unicode"))  # ElementTree has escaped every text


def curve_chart(
    *, key: str, title: str, description: str, across: tuple[str, str], series: Sequence[tuple[str, Sequence[float]]]
) -> Markup:
    """Draw up to two curves over a shared range; arguments as above, `across` names the two ends of the axis.

    Args:
        key: Name of the chart inside the document.
        title: What a screen reader announces.
        description: The chart in a sentence.
        across: Words for the two ends of the axis.
        series: Name and values of each curve.
    """
    if not series:
        return Markup("")
    values = [value for _, curve in series for value in curve]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    svg = _canvas(key, title, description, _CURVE_HEIGHT)
    floor, roof = _CURVE_HEIGHT - _MARGIN, _MARGIN
    _line(svg, (_MARGIN, floor), (_WIDTH - _RIGHT, floor), "grid")
    _text(svg, across[0], (_MARGIN, _CURVE_HEIGHT - 10), "tick")
    _text(svg, across[1], (_WIDTH - _RIGHT, _CURVE_HEIGHT - 10), "tick", anchor="end")
    for place, (name, curve) in enumerate(series):
        step = (_WIDTH - _RIGHT - _MARGIN) / max(len(curve) - 1, 1)
        points = " ".join(
            f"{_MARGIN + i * step:.1f},{floor - (value - low) / span * (floor - roof):.1f}"
            for i, value in enumerate(curve)
        )
        line = {"class": _CLASSES[place], "points": points, "stroke-width": "2", "style": "fill:none"}
        SubElement(svg, "polyline", line | ({"stroke-dasharray": "7 4"} if place else {}))
        _text(svg, f"{'- - ' if place else '— '}{name}", (_MARGIN + 130 * place, 16), _CLASSES[place])
    return Markup(tostring(svg, encoding="unicode"))


def _across(share: float) -> float:
    return round(_NAMES + min(max(share, 0.0), 1.0) * (_WIDTH - _NAMES - _RIGHT), 2)


def _canvas(key: str, title: str, description: str, height: float) -> Element:
    svg = Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {_WIDTH:g} {height:g}",
            "role": "img",
            "aria-labelledby": f"{key}-title {key}-desc",
        },
    )
    SubElement(svg, "title", {"id": f"{key}-title"}).text = plain(title)
    SubElement(svg, "desc", {"id": f"{key}-desc"}).text = plain(description)
    return svg


def _line(
    svg: Element,
    start: tuple[float, float],
    end: tuple[float, float],
    kind: str,
    *,
    width: float = 1,
    dashed: bool = False,
) -> None:
    place = {"x1": f"{start[0]:g}", "y1": f"{start[1]:g}", "x2": f"{end[0]:g}", "y2": f"{end[1]:g}"}
    look = {"class": kind, "stroke-width": f"{width:g}"}
    if kind == "grid":
        look |= {"stroke": "currentColor", "stroke-opacity": "0.2"}
    SubElement(svg, "line", place | look | ({"stroke-dasharray": "6 4"} if dashed else {}))


def _text(svg: Element, text: str, at: tuple[float, float], kind: str, *, anchor: str = "start") -> None:
    place = {"x": f"{at[0]:g}", "y": f"{at[1]:g}", "text-anchor": anchor, "class": kind, "font-size": "12"}
    if kind == "tick":
        place["fill"] = "currentColor"
    SubElement(svg, "text", place).text = plain(text)
