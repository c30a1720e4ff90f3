"""The steward's page: what only this hospital may see about a candidate, as one self-contained HTML file."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from client.cohort.cache import Cache
from client.cohort.image_blocks import gathered
from client.evaluation.candidate import Candidate
from common.display import pages
from common.errors import by_name
from common.host.files import PRIVATE, write_atomically
from common.images.pixels import unit_to_uint8
from common.plan.study_plan import StudyPlan

SHOWN, COLUMNS, TILE = 12, 6, 96


def write_page(figures: dict[str, Any], plan: StudyPlan, candidate: Candidate, held_out: Cache, path: Path) -> None:
    """Write the page, mode 0600: the verdict, the figures, and held-out scans next to synthetic images.

    Args:
        figures: From `client.evaluation.figures`, with the outcome.
        plan: The study's plan.
        candidate: What was judged.
        held_out: Patients who were set aside.
        path: The file to write.
    """
    environment = pages.environment("client.evaluation", trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": _figure, "number": _number}
    real = gathered(held_out, most=SHOWN)
    meaning = "" if figures["outcome"] == "passed" else (by_name(figures["outcome"]).__doc__ or "").strip()
    page = environment.get_template("evaluation.html").render(
        figures=figures,
        plan=plan,
        meaning=meaning,
        sheets={"synthetic": _sheet(_mixed(candidate)), "held-out scans": _sheet(real.images)},
    )
    write_atomically(path, page.encode(), mode=PRIVATE)


def _mixed(candidate: Candidate) -> Tensor:
    """As many images of each label, in turn."""
    order = np.argsort(
        np.concatenate([np.arange(n) for n in np.bincount(candidate.labels.numpy()) if n]), kind="stable"
    )
    return candidate.images[order[:SHOWN].copy()]


def _sheet(images: Tensor) -> dict[str, Any]:
    if not len(images):
        return {}
    shown = images[:SHOWN]
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * (TILE + 4) + 4, rows * (TILE + 4) + 4), 24)
    for place, image in enumerate(unit_to_uint8(shown)):
        row, column = divmod(place, COLUMNS)
        tile = Image.fromarray(np.ascontiguousarray(image)).resize((TILE, TILE), Image.Resampling.BICUBIC)
        sheet.paste(tile, (4 + column * (TILE + 4), 4 + row * (TILE + 4)))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"uri": uri, "width": sheet.width, "height": sheet.height, "count": len(shown)}


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _figure(figure: dict[str, float | None]) -> str:
    if figure["low"] is None:
        return _number(figure["value"])
    return f"{_number(figure['value'])} ({_number(figure['low'])} to {_number(figure['high'])})"
