"""What of a plan decides which scans enter, and as what, in plain words: every filter, and where labels come from.

The coordinator wrote all of it, and whether enough patients pass it leaves a site. So the steward sees every rule, one
that lets everything in too.
"""

from typing import Any

from client.cohort.label_attributes import HARMLESS
from common.plan.data import WINDOW_RULES, DataPlan


def table(data: DataPlan) -> dict[str, Any]:
    """Every rule as plain JSON types."""
    return {
        "modality": list(data.modality),
        "body_parts": list(data.body_parts),
        "views": list(data.views),
        "min_side": data.min_side,
        "window": data.window if isinstance(data.window, str) else list(data.window),
        "labels": list(data.labels),
        "label_attribute": data.label_attribute,
    }


def lines(data: DataPlan) -> list[str]:
    """Every rule as a data steward reads it, and what is written into synthetic images."""
    return [
        f"  enter    modality {_codes(data.modality)}; body part {_codes(data.body_parts)}; view {_codes(data.views)};",
        f"           {data.min_side} x {data.min_side} pixels or more; grey values {_window(data.window)}",
        f"  labels   {_labels(data)}",
        f"  writes   {data.body_part or 'nothing'} as body part into synthetic images; this chooses no scan",
    ]


def _codes(codes: tuple[str, ...]) -> str:
    return " or ".join(codes) or "any"


def _window(window: str | tuple[float, float]) -> str:
    if isinstance(window, str):
        return WINDOW_RULES[window]
    return f"in a window of centre {window[0]:g} and width {window[1]:g}"


def _labels(data: DataPlan) -> str:
    if not data.labels:
        return "none: one class"
    if not data.label_attribute:
        return f"{', '.join(data.labels)}; from labels.csv in this site's own folder"
    named = "" if data.label_attribute in HARMLESS else ", which this site's site.toml allows"
    return (
        f"{', '.join(data.labels)}; from the DICOM attribute {data.label_attribute}{named}; images of any other value "
        "stay out"
    )
