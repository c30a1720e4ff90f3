"""A first plan for a study, with sensible values and a comment at each: what `wardround plan new` writes.

It follows from public numbers alone: modality, size, labels, patients and sites that one expects, epsilon. The phases,
the base, the latents and the covariance are the planner's (`deploy.planning.planner_advice`); the other values are the
rules below. A draft is where to begin: `wardround plan budget` shows what it buys.
"""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.plan.keys import find, in_toml, tables
from common.plan.study_plan import StudyPlan
from deploy.planning.planner_advice import Advice, advise

WINDOWS: dict[tuple[str, str], tuple[float, float]] = {
    ("CT", "CHEST"): (-600.0, 1500.0),
    ("CT", "ABDOMEN"): (40.0, 400.0),
    ("CT", "HEAD"): (40.0, 80.0),
    ("CT", "BRAIN"): (40.0, 80.0),
}
"""Centre and width in HU by modality and body part: lung, soft tissue and brain windows in common use."""
_SOFT_TISSUE = (40.0, 400.0)
_BY_IMAGE = frozenset({"MR", "US", "OP", "PT", "NM"})
"""Modalities whose values have no common unit, or whose files often bear no window: each image's own percentiles."""
_DRAWN = 48
"""Patients that one gradient step sees at a hospital."""
_HELD_OUT = 0.15
"""Part of the patients that is set aside to judge the result."""
_LEAST_SIGMA, _SIGMA = 2.5, 20.0
"""Noise of a verdict at an epsilon of 8 and more, and by which epsilon it is divided: below a tenth of the budget."""
_CLEAR = 10.0
"""Patients set aside over the verdict's noise from which a verdict says more of the images than of its noise."""
_LINE = 116


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person says of a study.

    Attributes:
        name: Name of the study.
        modality: DICOM Modality codes.
        body_part: DICOM BodyPartExamined; "" for none.
        labels: The classes; empty for none.
        image_size: Side of the training image, pixels.
        patients: Patients expected at one hospital.
        sites: Hospitals expected.
        epsilon: Bound of the whole study.
    """

    name: str
    modality: tuple[str, ...]
    body_part: str
    labels: tuple[str, ...]
    image_size: int
    patients: int
    sites: int
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan that was drafted.

    Attributes:
        plan: The plan.
        text: Its `plan.toml`, with a comment at each key.
        reasons: Why the planner chose its part, in sentences.
    """

    plan: StudyPlan
    text: str
    reasons: tuple[str, ...]


def draft(wanted: Wanted) -> Draft:
    """Draft a plan.

    Args:
        wanted: What is known of the study.

    Raises:
        PlanError: A wish is none that a plan can have; all such faults are named.
    """
    values = _values(wanted)
    advice = advise(StudyPlan.parse(_bare(values)), patients=wanted.patients, sites=wanted.sites)
    assert advice is not None
    values = _advised(values, advice)
    text = "\n".join(_commented(wanted, values)) + "\n"
    return Draft(plan=StudyPlan.parse(text), text=text, reasons=advice.reasons)


def _values(wanted: Wanted) -> dict[str, dict[str, Any]]:
    """Tables and keys of the draft, before the planner has spoken; the name stands in the table ""."""
    most = max(2, math.ceil(2 * wanted.sites / 3))
    values: dict[str, dict[str, Any]] = {
        "": {"name": wanted.name},
        "data": {
            "modality": wanted.modality,
            "body_part": wanted.body_part,
            "window": _window(wanted),
            "image_size": wanted.image_size,
            "labels": wanted.labels,
            "min_patients": max(1, wanted.patients // 2),
        },
        "model": {"channels": _channels(wanted.image_size)},
        "training": {"rounds": 5, "local_steps": 10, "sample_rate": _rate(wanted.patients)},
        "privacy": {"epsilon": wanted.epsilon, "delta": _delta(wanted.patients)},
        "aggregation": {"min_sites": min(wanted.sites, most), "max_patients": 4 * wanted.patients},
        "release": {"images_per_label": 100},
    }
    sigma = float(f"{max(_LEAST_SIGMA, _SIGMA / wanted.epsilon if wanted.epsilon > 0 else 0.0):.2g}")
    if _HELD_OUT * wanted.patients >= _CLEAR * sigma:
        values["evaluation"] = {"held_out_share": _HELD_OUT, "sigma": sigma}
    return {table: {key: value for key, value in row.items() if value not in ((), "")} for table, row in values.items()}


def _advised(values: dict[str, dict[str, Any]], advice: Advice) -> dict[str, dict[str, Any]]:
    model = {**values["model"], "latent": advice.latent, "base": advice.base}
    privacy = {**values["privacy"], "phases": advice.phases}
    if advice.covariance != "shared":
        model["covariance"] = advice.covariance
    if advice.moments_share < 1:
        privacy["moments_share"] = advice.moments_share
    found = {**values, "model": model, "privacy": privacy}
    if "sgd" not in advice.phases:
        found["training"] = {"rounds": 0}
    return found


def _window(wanted: Wanted) -> str | tuple[float, float]:
    """CT has a unit, so a window of that unit; others are shown by the file's own window or by percentiles."""
    if "CT" in wanted.modality:
        return WINDOWS.get(("CT", wanted.body_part), _SOFT_TISSUE)
    return "percentile" if _BY_IMAGE.intersection(wanted.modality) else "dicom"


def _channels(size: int) -> tuple[int, ...]:
    """Levels that halve the side, to about 7 pixels; each level must divide it."""
    levels = 2
    while size % 2 ** (levels + 1) == 0 and size // 2 ** (levels + 1) >= 7 and levels < 4:
        levels += 1
    return (8, *(16,) * (levels - 1))


def _rate(patients: int) -> float:
    """Chance of a patient to be in a step: about 48 of them, a fifth at most."""
    return float(f"{min(0.2, _DRAWN / patients):.1g}")


def _delta(patients: int) -> float:
    """A power of ten well below one in all patients, 1e-5 for any that are fewer than ten thousand."""
    return min(1e-5, 10.0 ** -math.ceil(math.log10(10 * max(2, patients))))


def _bare(values: dict[str, dict[str, Any]]) -> str:
    """The same without comments, for the planner."""
    rows = [f"[{table}]\n" * bool(table) + "\n".join(f"{k} = {in_toml(v)}" for k, v in row.items())
            for table, row in values.items()]  # fmt: skip
    return "\n".join(rows)


def _commented(wanted: Wanted, values: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The draft's lines."""
    yield f"# {wanted.name}: drafted for {wanted.sites} hospitals of about {wanted.patients} patients."
    yield "# Keys that are not here keep their defaults: `wardround plan explain`, or docs/plan.md."
    yield "# Next: `wardround plan budget PLAN --patients N`, then a simulation on public images of the same kind."
    told = tables()
    for table, row in values.items():
        yield ""
        if table:
            yield from _comment(told[table])
            yield f"[{table}]"
        for key, value in row.items():
            entry = find(f"{table}.{key}" if table else key)[0]
            costs = f" Cost: {entry.costs}." if entry.costs != "nothing" else ""
            yield from _comment(entry.words + costs)
            yield f"{key} = {in_toml(value)}"


def _comment(words: str) -> list[str]:
    return textwrap.wrap(words, _LINE, initial_indent="# ", subsequent_indent="# ")
