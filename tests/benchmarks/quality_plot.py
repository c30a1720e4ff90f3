"""The quality table as one picture: a row for each data set, a panel for each deal to sites, a line for each method."""

import statistics
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from matplotlib.ticker import MaxNLocator

from tests.benchmarks.quality_page import SPLITS, TITLES, places, real_scores, scores
from tests.benchmarks.quality_plans import BASES, METHODS

_PANEL, _HEIGHT, _GAP = 172.0, 150.0, 14.0
_LEFT, _TOP = 52.0, 70.0
_ROW = _HEIGHT + 80.0
_LOOK = {"plain": ("#d55e00", "2 3"), "moments": ("#0072b2", "7 4"), "phased": ("#00795a", "none")}
"""Colours apart for every kind of colour vision, and dashes for none (Okabe and Ito, darkened)."""
_UNIT = {"pneumonia": "AUC", "mednist": "label readable, %"}

Place = tuple[float, float]


def plot(results: list[dict[str, Any]]) -> str:
    """One SVG on white, self-contained, with a title and a description to be read out."""
    shown = [data for data in BASES if places(results, data)]
    columns = max((len(_deals(results, data)) for data in shown), default=1)
    width = _LEFT + columns * (_PANEL + _GAP) + 4
    height = _TOP + len(shown) * _ROW
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:g} {height:g}", "role": "img",
                          "font-family": "sans-serif", "aria-labelledby": "title desc"})  # fmt: skip
    SubElement(svg, "title", {"id": "title"}).text = "Quality by epsilon, method and sites"
    SubElement(svg, "desc", {"id": "desc"}).text = (
        "Mean over the seeds with their range, for the plain DP-VAE, the closed form alone and the phased default; the "
        "dotted level is what real images reach. The same figures stand in the tables."
    )
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    for number, method in enumerate(METHODS):
        x = _LEFT + 118 * number
        _line(svg, (x, 20), (x + 30, 20), method)
        _text(svg, method, (x + 36, 24))
    _line(svg, (_LEFT + 354, 20), (_LEFT + 384, 20), None)
    _text(svg, "real images", (_LEFT + 390, 24))
    for row, data in enumerate(shown):
        _row(svg, results, data, top=_TOP + row * _ROW)
    return tostring(svg, encoding="unicode") + "\n"


def _deals(results: list[dict[str, Any]], data: str) -> list[tuple[int, str]]:
    """The ways of dealing that a data set was measured with: sites and split, in the table's order."""
    return list(dict.fromkeys((sites, split) for sites, split, _ in places(results, data)))


def _row(svg: Element, results: list[dict[str, Any]], data: str, *, top: float) -> None:
    scale = 1.0 if data == "pneumonia" else 100.0
    real = [scale * value for value in real_scores(results, data)]
    mine = [scale * line["score"] for line in results if line["data"] == data]
    ticks = [float(tick) for tick in MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(*_span(mine))]
    budgets = sorted({place[2] for place in places(results, data)}, key=lambda value: (value is None, value or 0))

    def y(value: float) -> float:
        return round(top + _HEIGHT * (1 - (value - ticks[0]) / (ticks[-1] - ticks[0])), 2)

    _text(svg, f"{TITLES[data]}: {_UNIT.get(data, 'TSTR accuracy, %')}", (4, top - 24), size=13, weight="bold")
    for column, (sites, split) in enumerate(_deals(results, data)):
        left = _LEFT + column * (_PANEL + _GAP)
        _text(svg, "1 site" if sites == 1 else f"{sites} sites, {SPLITS[split]}", (left, top - 7))
        for tick in ticks:
            attributes = {"stroke": "#d8d8d8", "x1": f"{left:g}", "x2": f"{left + _PANEL:g}"}
            SubElement(svg, "line", {**attributes, "y1": f"{y(tick):g}", "y2": f"{y(tick):g}"})
            if column == 0:
                _text(svg, f"{tick:g}", (left - 6, y(tick) + 4), anchor="end")
        places_x = [left + _PANEL * (number + 0.5) / len(budgets) for number in range(len(budgets))]
        for budget, x in zip(budgets, places_x, strict=True):
            _text(svg, "no DP" if budget is None else f"{budget:g}", (x, top + _HEIGHT + 16), anchor="middle")
        if real:
            _line(svg, (left, y(statistics.mean(real))), (left + _PANEL, y(statistics.mean(real))), None)
        for shift, method in enumerate(METHODS):
            found = [
                (x + 5 * (shift - 1), [scale * score for score in values])
                for budget, x in zip(budgets, places_x, strict=True)
                if (values := scores(results, data=data, method=method, sites=sites, split=split, epsilon=budget))
            ]
            points = [(x, y(statistics.mean(values)), y(min(values)), y(max(values))) for x, values in found]
            _series(svg, points, method)
    _text(svg, "epsilon", (_LEFT, top + _HEIGHT + 30), colour="#666666")


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range that an axis has to show: that of the values, and where they are one, a percent around it."""
    low, high = min(values), max(values)
    return (low, high) if high - low > 0.01 * abs(high) else (0.99 * low, 1.01 * high)


def _series(svg: Element, points: Sequence[tuple[float, float, float, float]], method: str) -> None:
    """A line through means, and at each the range of the seeds."""
    colour, dash = _LOOK[method]
    path = " ".join(f"{x:g},{mean:g}" for x, mean, _, _ in points)
    look = {"fill": "none", "stroke": colour, "stroke-width": "2", "stroke-dasharray": dash}
    SubElement(svg, "polyline", {"points": path, **look})
    for x, mean, low, high in points:
        SubElement(svg, "line", {"x1": f"{x:g}", "x2": f"{x:g}", "y1": f"{low:g}", "y2": f"{high:g}", "stroke": colour})
        SubElement(svg, "circle", {"cx": f"{x:g}", "cy": f"{mean:g}", "r": "3", "fill": colour})


def _line(svg: Element, start: Place, end: Place, method: str | None) -> None:
    """A line in a method's look; None is the level of real images."""
    colour, dash = _LOOK[method] if method else ("#555555", "1 3")
    place = {"x1": f"{start[0]:g}", "y1": f"{start[1]:g}", "x2": f"{end[0]:g}", "y2": f"{end[1]:g}"}
    SubElement(svg, "line", {**place, "stroke": colour, "stroke-width": "2", "stroke-dasharray": dash})


def _text(
    svg: Element, text: str, place: Place, *, size: int = 12, anchor: str = "start", weight: str = "normal",
    colour: str = "#222222",
) -> None:  # fmt: skip
    look = {"font-size": str(size), "text-anchor": anchor, "font-weight": weight, "fill": colour}
    SubElement(svg, "text", {"x": f"{place[0]:g}", "y": f"{place[1]:g}", **look}).text = text
