"""`wardround plan budget`: what a plan costs a patient, what its noise leaves to learn, and what would change that."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.display.terminal import emit, json_option
from common.plan.study_plan import StudyPlan

if TYPE_CHECKING:
    from deploy.planning.planner import Forecast, RoundForecast
    from deploy.planning.planner_advice import Advice


@click.command("budget")
@click.argument("plan_file", type=click.Path(path_type=Path))
@click.option("--patients", type=click.IntRange(1), required=True, help="Patients at one hospital.")
@click.option("--sites", type=click.IntRange(1), help="Hospitals of that size.  [default: the plan's quorum]")
@click.option("--plot", "plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into this SVG file.")
@click.option("--calibrate/--no-calibrate", default=True, show_default=True, help="Time a few steps on this machine.")
@json_option
def budget_(
    plan_file: Path, *, patients: int, sites: int | None, plot: Path | None, calibrate: bool, as_json: bool
) -> None:
    """Print what PLAN_FILE costs and buys at a hospital of so many patients, and how its budget is better split."""
    from deploy.planning import (  # torch takes seconds to load, and `--help` must not wait for it
        calibration,
        planner,
        planner_advice,
        sharing,
    )

    plan = StudyPlan.load(plan_file)
    measured = calibration.calibrate(plan) if calibrate else None
    found = planner.forecast(plan, patients=patients, calibration=measured)
    if plot is not None:
        from deploy.planning.planner_plot import draw

        draw(found, plot)
    advice = planner_advice.advise(plan, patients=patients, sites=sites or plan.aggregation.min_sites)
    shared = sharing.worth(plan, sites=sites or plan.aggregation.hospitals or plan.aggregation.min_sites)
    result = {
        **found.to_dict(),
        "advice": None if advice is None else advice.to_dict(),
        "sharing": None if shared is None else shared.to_dict(),
    }
    told = [] if shared is None else ["", *shared.lines()]
    emit(result, as_json=as_json, text=_text(found, plot, advice, told))


def _text(found: "Forecast", plot: Path | None, advice: "Advice | None", sharing: list[str]) -> Callable[[], str]:
    """Return what draws the forecast for a person.

    Args:
        found: The forecast.
        plot: Where it was drawn.
        advice: How the budget is better split.
        sharing: Lines on what shared noise is worth.
    """

    def lines() -> str:
        plan = found.plan
        out = [f"{plan.name}: one hospital of {found.patients} patients, delta {plan.privacy.delta:g}", ""]
        out += ["round  phase     sigma     steps  epsilon after  signal/noise  relative error"]
        out += [_round(entry) for entry in found.rounds]
        out += [
            "",
            "signal/noise: if all patients agreed, at one site; S averaged sites have sqrt(S) times as much",
            "",
        ]
        out += ["what would change it                  patients  rounds  epsilon     sigma  first round  last phase"]
        out += [
            f"{a.change:36}  {a.patients:8}  {a.rounds:6}  {a.epsilon:7.3f}  {a.sigma:8.3f}  {a.first_ratio:11.3g}"
            f"  {a.whole_ratio:10.3g}"
            for a in found.alternatives
        ]
        drawn = [f"drawn in {plot}"] if plot else []
        return "\n".join([*out, "", _effort(found), *drawn, *sharing, *([] if advice is None else _advice(advice))])

    return lines


def _advice(advice: "Advice") -> list[str]:
    """The proposal, ready to be copied, and why."""
    where = f"{advice.sites} site{'s' if advice.sites > 1 else ''} of {advice.patients} patients"
    return ["", f"proposed for {where}, from public numbers alone:", "", advice.toml(), ""] + [
        f"# {reason}" for reason in advice.reasons
    ]


def _round(entry: "RoundForecast") -> str:
    error = "" if entry.relative_error is None else f"{entry.relative_error:16.3g}"
    return (
        f"{entry.number:5}  {entry.phase:8}  {entry.sigma:8.3f}  {entry.steps:5}  {entry.epsilon_after:13.3f}"
        f"  {entry.signal_to_noise:12.3g}{error}"
    )


def _effort(found: "Forecast") -> str:
    if found.calibration is None or found.seconds is None:
        return "run time and memory: not measured (--no-calibrate)"
    seen = found.calibration
    return (
        f"about {_duration(found.seconds)} of computing at the site and {seen.memory_bytes / 2**30:.2f} GiB of memory, "
        f"by a short calibration on this machine ({seen.threads} threads, as busy as it is now); network not counted"
    )


def _duration(seconds: float) -> str:
    """A length of time in its natural unit, two digits."""
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, math.ceil(seconds))} seconds"


COMMANDS = [budget_]
"""What the `plan` group takes in."""
