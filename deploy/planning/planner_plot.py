"""The planner's picture: epsilon after each round, and signal against noise by round, as one SVG file."""

import io
import itertools
import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from common.host.files import write_atomically
from common.mechanism.registry import MECHANISMS
from deploy.planning.planner import Forecast

_COLOURS = (
    "#4c72b0",
    "#55a868",
    "#8172b3",
    "#ccb974",
    "#64b5cd",
    "#937860",
    "#da8bc3",
    "#c44e52",
    "#8c8c8c",
    "#dd8452",
)
"""Of the phases, in the order of `common.mechanism.registry.MECHANISMS`; then from the first again."""


def draw(found: Forecast, path: Path) -> None:
    """Write the picture of `found` to `path`; the same forecast gives the same bytes.

    Args:
        found: The forecast; rounds without noise are left out of the right-hand chart.
        path: The SVG file; its folder is made.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    cost, ratio = figure.subplots(1, 2)
    numbers = [entry.number for entry in found.rounds]
    after = [entry.epsilon_after for entry in found.rounds]
    if all(map(math.isfinite, after)):
        cost.step([0, *numbers], [0.0, *after], where="post", color="black")
        cost.fill_between([0, *numbers], [0.0, *after], step="post", color="black", alpha=0.1)
    cost.axhline(found.plan.privacy.epsilon, linestyle="--", color="grey", label="the plan's limit")
    cost.set(title="Epsilon after each round", xlabel="round", ylabel="epsilon", ylim=(0, None))
    cost.legend(loc="lower right", frameon=False)
    for phase, colour in zip(MECHANISMS, itertools.cycle(_COLOURS), strict=False):
        shown = [r for r in found.rounds if r.phase == phase and math.isfinite(r.signal_to_noise)]
        if shown:
            ratio.plot(
                [r.number for r in shown],
                [r.signal_to_noise for r in shown],
                "o",
                color=colour,
                label=phase,
                markersize=4,
            )
    ratio.axhline(1.0, linestyle="--", color="grey")
    ratio.set(title=f"Signal to noise, {found.patients} patients", xlabel="round", yscale="log")
    if ratio.get_legend_handles_labels()[1]:
        ratio.legend(frameon=False)
    write_atomically(path, _svg(figure))


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "wardround", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()
