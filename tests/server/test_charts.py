"""The report's pictures draw what they are given, and nothing that they are given becomes markup."""

import base64
import dataclasses
import io
import math
import re
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from PIL import Image

from server.report.charts import RoundChart, image_sheet, round_chart


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_a_sheet_shows_the_first_images_in_order_over_a_strip_of_words() -> None:
    images = np.stack([np.full((28, 28), 8 * n, np.uint8) for n in range(30)])
    sheet = image_sheet(images, words=["SYNTHETIC"])
    assert sheet is not None
    picture = opened(sheet.uri)
    assert (picture.size, sheet.shown) == ((sheet.width, sheet.height), 24)
    shown = [picture.getpixel((4 + column * 116 + 56, 4 + row * 116 + 56)) for row in range(4) for column in range(6)]
    assert shown == [8 * n for n in range(24)]
    strip = np.asarray(picture)[-30:]
    assert strip.max() > 180 > strip[:, :40].max()


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 28, 28), (120, 146)), ((7, 128, 64), (412, 294)), ((2, 8, 2), (68, 146))]
)
def test_a_sheet_keeps_the_images_form_whatever_their_number(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    sheet = image_sheet(np.zeros(shape, np.uint8), words=["SYNTHETIC", "NOT FOR DIAGNOSIS"])
    assert sheet is not None
    assert (sheet.width, sheet.height) == size


def a_chart(**changes: Any) -> RoundChart:
    chart = RoundChart(
        key="k",
        title="t",
        description="d",
        unit="ε",
        rounds=[1, 2, 3],
        values=[2.0, 4.0, 6.0],
        limit=8.0,
        stepped=True,
    )
    return dataclasses.replace(chart, **changes)


def test_a_budget_chart_rises_to_its_last_value_and_keeps_the_limit_in_sight() -> None:
    drawing = fromstring(round_chart(a_chart()))
    limit = next(float(line.attrib["y1"]) for line in drawing.iter("line") if line.attrib["class"] == "limit")
    path = next(line.attrib["d"] for line in drawing.iter("path") if line.attrib["class"] == "series")
    start, *heights = [float(height) for height in re.findall(r"(?:^M[\d.]+ |V)([\d.]+)", path)]
    shares = [(start - height) / (start - limit) for height in heights]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=1e-3)
    assert limit > 42


def test_points_lie_higher_the_larger_they_are_and_a_value_that_is_none_has_no_point() -> None:
    drawing = fromstring(round_chart(a_chart(values=[0.5, math.nan, 0.2], limit=None, stepped=False)))
    left, right = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawing.iter("circle")]
    assert left[0] < right[0]
    assert left[1] < right[1]


def test_a_chart_of_one_value_or_of_none_can_be_drawn() -> None:
    assert "<circle" in round_chart(a_chart(rounds=[1], values=[0.0], limit=None, stepped=False))
    assert round_chart(a_chart(values=[math.nan] * 3)) == ""
    with pytest.raises(ValueError, match="3 rounds but 1 values"):
        a_chart(values=[1.0])


def test_chart_texts_are_escaped() -> None:
    hostile = "</text><script>alert(1)</script>&"
    drawing = fromstring(round_chart(a_chart(title=hostile, description=hostile, unit=hostile)))
    assert "script" not in {element.tag for element in drawing.iter()}
    assert [element.text for element in drawing.iter()].count(hostile) == 3
