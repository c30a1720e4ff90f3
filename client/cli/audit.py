"""`wardround site audit`: does the trainer on this machine keep the epsilon that the plan claims?"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from client.cli.options import home_option
from common.display.terminal import emit, json_option, progress
from common.errors import StateError
from common.plan.study_plan import StudyPlan

if TYPE_CHECKING:
    from client.mechanism.audit import AuditResult


@click.command("audit")
@click.argument("plan_file", type=click.Path(path_type=Path))
@home_option
@click.option("--canaries", default=1000, show_default=True, type=click.IntRange(100, 100_000), help="How many.")
@json_option
def audit_(plan_file: Path, *, home: Path, canaries: int, as_json: bool) -> None:
    """Audit the trainer on artificial patients under PLAN_FILE: a lower bound of epsilon next to the claimed one.

    No scan is read and no budget is spent. Exit code 5 where the trainer does not keep its claim.
    """
    from client.mechanism.audit import audit  # torch takes seconds to load, and `--help` must not wait for it
    from client.mechanism.randomness import SecureRandom
    from client.site.site import Site

    plan, site = StudyPlan.load(plan_file), Site.open(home)
    site.use_threads()
    with progress(quiet=as_json) as bar:
        task = bar.add_task("training on canaries", total=plan.training.rounds)
        found = audit(
            plan, random=SecureRandom.from_os(), device=site.device(), canaries=canaries,
            on_round=lambda done: bar.update(task, completed=done),
        )  # fmt: skip
    result: dict[str, Any] = {**dataclasses.asdict(found), "faults": found.faults}
    emit(result, as_json=as_json, text=_text(found))
    if found.faults:
        click.get_current_context().exit(StateError.exit_code)


def _text(found: "AuditResult") -> Callable[[], str]:
    """Return what draws the finding for a person."""

    def draw() -> str:
        verdict = [f"THE CLAIM DOES NOT HOLD: {fault}" for fault in found.faults] + (
            ["Train nothing here until it is mended."] if found.faults else ["Nothing here contradicts the claim."]
        )
        return "\n".join(
            [
                f"{found.canaries} canaries, {found.steps} steps; no patient took part",
                f"epsilon            claimed {found.claimed_epsilon:.3f} at delta {found.delta:g}, "
                f"at least {found.lower_bound:.3f} by experiment (95 %)",
                f"canaries found     AUC {found.auc:.3f}, expected {_band(found.auc_band)}",
                f"noise multiplier   booked {found.sigma:.3f}, measured {found.measured_sigma:.3f}, "
                f"expected {_band(found.sigma_band)}",
                *verdict,
            ]
        )

    return draw


def _band(band: tuple[float, float]) -> str:
    return f"{band[0]:.3f} to {band[1]:.3f}"


COMMANDS = [audit_]
"""What the `site` group takes in."""
