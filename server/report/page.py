"""The study's report: one self-contained HTML page for a clinician and a data-protection officer.

It shows only what the server may know anyway: the plan, the participants, each hospital's stated cost, the error on
public phantoms, and images of the finished generator. The page loads nothing from outside, and its own content policy
forbids it. So it can be mailed, archived and printed as it is.
"""

import functools
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray

from common.display import pages
from common.errors import StateError, WardroundError, by_name
from common.host.files import write_atomically
from common.mechanism.mechanism import Reading
from common.mechanism.registry import RIDERS, mechanism
from common.plan.schedule import Phase
from server.report.charts import RoundChart, image_sheet, round_chart
from server.report.evaluation import evaluated, figure_text, not_run_text, number_text

_SHEET_WORDS = ("SYNTHETIC", "NOT A PATIENT", "NOT FOR DIAGNOSIS")
_SHEET_WORDS_OFF = ("NO PRIVACY", "HANDLE AS PATIENT DATA", "NOT FOR DIAGNOSIS")
_WIDEST_MATRIX = 24
_REASON = re.compile(r"[A-Za-z][\w-]{0,47}")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class SiteLine:
    """What one hospital took part in, and what it says its patients have been exposed to.

    Attributes:
        name: The site's name in the study.
        epsilon: Spent in this study by the site's own ledger; infinity without noise.
        delta: That epsilon's delta.
        rounds_joined: Rounds whose model holds the site's reply.
        rounds_missed: Rounds that went on without it.
        last_refusal: Type name of the last refusal, or "".
        text_searched: Whether the site says that its pictures were searched for text: "yes", "no" or "unknown".
    """

    name: str
    epsilon: float
    delta: float
    rounds_joined: int
    rounds_missed: int
    last_refusal: str
    text_searched: str = "unknown"


@dataclass(frozen=True, kw_only=True)
class RoundLine:
    """One finished round.

    Attributes:
        number: From 1.
        phase: What the sites computed.
        replied: Sites whose reply was checked and averaged.
        missing: Site to the type name of the reason it is not in the model.
        epsilon: Spent, after this round, by a site that joined all rounds so far.
        phantom_error: Root mean square error of the global model on public phantoms, image units in [-1, 1]; NaN if
            it was not measured.
        seconds: Duration of the round.
        readings: What the round's riders say, by rider (`common.mechanism.mechanism.Rider`).
    """

    number: int
    phase: Phase
    replied: tuple[str, ...]
    missing: dict[str, str]
    epsilon: float
    phantom_error: float
    seconds: float
    readings: dict[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the report is made of.

    Attributes:
        plan: `StudyPlan.to_dict()`.
        plan_digest: SHA-256 of the plan's canonical form, hex.
        decoder_digest: Digest of the released decoder's weights, hex.
        sites: One line for each invited hospital.
        rounds: Finished rounds in order.
        epsilon_limit: The plan's bound for each hospital.
        delta: The plan's delta.
        simulated: One machine played every hospital.
        images: Label to synthetic images, [n, height, width] uint8, 0 is black; in the order they were drawn.
        notes: Sentences the run wants to be read, e.g. which site missed which round.
        code_version: Version of wardround that ran the study.
        created: ISO date, or "" to leave it out (reproducible reports).
        verdicts: Site to "passed" or the type of its no; empty where the plan has no gate.
        evaluation: Raw figures by site (`client.evaluation.figures`) of a simulation on public data; else empty.
        audit: What an audit of the mechanism found or why there was none (the card's "audit"); empty says nothing.

    Raises:
        ValueError: Images that are not three-dimensional 8-bit arrays.
    """

    plan: dict[str, Any]
    plan_digest: str
    decoder_digest: str
    sites: list[SiteLine]
    rounds: list[RoundLine]
    epsilon_limit: float
    delta: float
    simulated: bool
    images: dict[str, NDArray[np.uint8]]
    notes: list[str]
    code_version: str
    created: str
    verdicts: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, images in self.images.items():
            if images.ndim != 3 or images.dtype != np.uint8:
                raise ValueError(f"images of {label!r} must be [n, h, w] uint8, not {images.shape} {images.dtype}")

    @property
    def private(self) -> bool:
        """Whether the study ran with noise; anything but a plain yes in the plan counts as no."""
        return self.plan.get("privacy", {}).get("enabled") is True


def render_report(data: ReportData) -> str:
    """Write the report as one HTML document without script or external resource.

    Every name and note is escaped; a reason is shown only if it looks like a type name, never as free text.
    Epsilon and delta are rounded upwards, so the page never states less than was spent.
    """
    words = _SHEET_WORDS if data.private else _SHEET_WORDS_OFF
    return (
        _environment()
        .get_template("report.html")
        .render(
            data=data,
            spent=max((site.epsilon for site in data.sites), default=0.0),
            seconds=sum(line.seconds for line in data.rounds),
            sheets={label: image_sheet(images, words=words) for label, images in data.images.items()},
            epsilon_chart=_epsilon_chart(data),
            phantom_chart=_phantom_chart(data.rounds),
            participation=_participation(data),
            reasons=_reasons(data),
            sections=_plan_sections(data.plan),
            phase_words={phase: mechanism(phase).title for phase in {line.phase for line in data.rounds}},
            riders=[rider for rider in RIDERS.values() if any(rider.name in line.readings for line in data.rounds)],
            evaluated=evaluated(data.evaluation),
            gate={site: (outcome, _meaning(outcome)) for site, outcome in sorted(data.verdicts.items())},
        )
    )


def write_report(data: ReportData, path: Path) -> None:
    """Render the report and put it at `path` whole or not at all, replacing an older one.

    Raises:
        StateError: The file cannot be written.
    """
    content = render_report(data).encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise StateError(
            f"report {path}: cannot be written ({type(error).__name__}). Give a folder that can be written to"
        ) from error


@functools.cache
def _environment() -> Environment:
    environment = pages.environment("server.report", trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "epsilon": _epsilon_text,
        "delta": _delta_text,
        "value": _plan_value,
        "duration": _duration,
        "reason": _reason,
        "figure": figure_text,
        "number": number_text,
        "not_run": not_run_text,
    }
    environment.tests["finite"] = math.isfinite
    return environment


def _epsilon_text(value: float) -> str:
    """Two decimals, rounded upwards; "∞" where there is no bound."""
    if not math.isfinite(value):
        return "∞"
    return str(Decimal(repr(round(value, 9))).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def _delta_text(value: float) -> str:
    """Two significant digits, rounded upwards, as a power of ten."""
    if not (math.isfinite(value) and value > 0):
        return f"{value:g}"
    rounded = Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(value))
    mantissa, exponent = f"{rounded:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _reason(text: str) -> str:
    """Return a reason's type name; a text that is none may hold anything and is not repeated."""
    return text if _REASON.fullmatch(text) else "unspecified"


def _meaning(outcome: str) -> str:
    """What a verdict says in plain words."""
    kind = by_name(outcome)
    return "" if kind is WardroundError else (kind.__doc__ or "").strip().partition("\n")[0]


def _reasons(data: ReportData) -> dict[str, str]:
    """Return each reason in the report that is one of our error types, with what that type means."""
    named = {why for line in data.rounds for why in line.missing.values()} | {site.last_refusal for site in data.sites}
    kinds = {name: by_name(name) for name in sorted({_reason(name) for name in named if name})}
    return {
        name: (kind.__doc__ or "").strip().partition("\n")[0]
        for name, kind in kinds.items()
        if kind is not WardroundError
    }


def _plan_sections(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Group the plan's keys by section; top-level values come first, under "study"."""
    single = {key: value for key, value in plan.items() if not isinstance(value, dict)}
    return {"study": single} | {key: value for key, value in plan.items() if isinstance(value, dict)}


def _plan_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plan_value(item) for item in value) or "none given"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none given"


def _bands(rounds: Sequence[RoundLine]) -> list[tuple[int, int, str]]:
    """Return (first round, last round, name) of each run of rounds that belong together."""
    runs = [list(run) for _, run in itertools.groupby(rounds, key=lambda line: mechanism(line.phase).band)]
    return [(run[0].number, run[-1].number, mechanism(run[0].phase).band) for run in runs]


def _epsilon_chart(data: ReportData) -> str:
    spent = data.rounds[-1].epsilon if data.rounds else 0.0
    return round_chart(
        RoundChart(
            key="epsilon-chart",
            title="Privacy spent by round",
            description=f"Epsilon adds up to {_epsilon_text(spent)} after {len(data.rounds)} rounds; "
            f"the plan's limit is {data.epsilon_limit:g}. The table of rounds holds every value.",
            unit="ε so far",
            rounds=[line.number for line in data.rounds],
            values=[line.epsilon for line in data.rounds],
            bands=_bands(data.rounds),
            limit=data.epsilon_limit,
            stepped=True,
        )
    )


def _phantom_chart(rounds: Sequence[RoundLine]) -> str:
    measured = [line for line in rounds if math.isfinite(line.phantom_error)]
    if not measured:
        return ""
    first, last = measured[0], measured[-1]
    return round_chart(
        RoundChart(
            key="phantom-chart",
            title="Error on public phantoms by round",
            description=f"Root mean square error goes from {first.phantom_error:.3f} in round {first.number} "
            f"to {last.phantom_error:.3f} in round {last.number}; lower is better.",
            unit="RMSE",
            rounds=[line.number for line in rounds],
            values=[line.phantom_error for line in rounds],
            bands=_bands(rounds),
        )
    )


def _participation(data: ReportData) -> dict[str, Any]:
    """Return who joined what: column heads, and one list of "joined", "missed" or "not asked" for each site.

    Past 24 rounds, neighbouring rounds with the same participants share a column.
    """
    seen = [name for line in data.rounds for name in (*line.replied, *line.missing)]
    names = list(dict.fromkeys([*(site.name for site in data.sites), *seen]))
    columns = [[line] for line in data.rounds]
    if len(columns) > _WIDEST_MATRIX:
        runs = itertools.groupby(data.rounds, key=lambda line: (set(line.replied), set(line.missing)))
        columns = [list(run) for _, run in runs]
    heads = [f"{run[0].number}" if len(run) == 1 else f"{run[0].number}–{run[-1].number}" for run in columns]
    return {"heads": heads, "rows": {name: [_state(name, run[0]) for run in columns] for name in names}}


def _state(name: str, line: RoundLine) -> str:
    if name in line.replied:
        return "joined"
    return "missed" if name in line.missing else "not asked"
