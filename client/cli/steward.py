"""`wardround site quarantine` and `wardround site inspect`: what a hospital's data steward looks at and decides."""

from pathlib import Path
from typing import Any

import click

from client.admission.reasons import EXPLAINED, Reason
from client.admission.settings import IngestSettings
from client.cli.options import home_option
from client.site import layout
from common.display.terminal import Commands, Sheet, emit, json_option
from common.plan.study_plan import StudyPlan

_path = click.Path(path_type=Path)
plan_option = click.option("--plan", "plan_path", type=_path, help="The study plan; image form by its [data] table.")


def settings_of(plan_path: Path | None) -> IngestSettings:
    """Return the settings of a plan file, or those of a plan that says nothing."""
    return IngestSettings.from_plan(StudyPlan.load(plan_path) if plan_path else StudyPlan(name="default"))


@click.group(cls=Commands)
def quarantine() -> None:
    """Look at pictures that may hold a name, and decide on them."""


@quarantine.command("list")
@home_option
@json_option
def list_(*, home: Path, as_json: bool) -> None:
    """List the files that wait."""
    from client.admission.quarantine import SHORT, waiting

    rows = [
        {"id": record.decided_by[:SHORT], "reason": record.verdict, "modality": record.modality, "file": record.name}
        for record in waiting(home)
    ]
    emit({"waiting": rows}, as_json=as_json, text=lambda: [_waiting(rows)])


def _waiting(rows: list[dict[str, str]]) -> Sheet:
    cells = ((row["id"], row["modality"], EXPLAINED[Reason(row["reason"])], row["file"]) for row in rows)
    return Sheet(title=f"{len(rows)} files wait", columns=("id", "modality", "why", "file"), rows=tuple(cells))


@quarantine.command("show")
@click.argument("short")
@click.option("--to", "target", type=_path, help="PNG to write.  [default: HOME/quarantine/ID.png]")
@home_option
@json_option
def show(short: str, *, target: Path | None, home: Path, as_json: bool) -> None:
    """Write the picture of a waiting file, named by its ID, as PNG."""
    from client.admission.quarantine import SHORT, find
    from client.admission.waiting_picture import picture_of

    record = find(home, short)
    path = target or home / layout.QUARANTINED / f"{record.decided_by[:SHORT]}.png"
    picture_of(home, record, path)
    emit({"picture": str(path)}, as_json=as_json, text=lambda: str(path))


def _decision(name: str, told: str) -> click.Command:
    @click.argument("shorts", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All files that wait.")
    @home_option
    @json_option
    def run(shorts: tuple[str, ...], *, everything: bool, home: Path, as_json: bool) -> None:
        from client.admission.quarantine import decide, find, waiting

        if bool(shorts) == everything:
            raise click.UsageError("give IDs, or --all")
        records = waiting(home) if everything else [find(home, short) for short in shorts]
        decide(home, [record.decided_by for record in records], "admit" if name == "admit" else "drop")
        result: dict[str, Any] = {"decided": len(records), "decision": name}
        emit(result, as_json=as_json, text=lambda: f"{len(records)} files: {name}. Run `wardround site ingest` again")

    return click.command(name, help=told)(run)


quarantine.add_command(_decision("admit", "Let files in: a human has seen that the picture names no person."))
quarantine.add_command(_decision("drop", "Leave files out for good."))


@click.command("inspect")
@home_option
@plan_option
@click.option("--html", "page", type=_path, help="Also write a page with the rejected files and a contact sheet.")
@json_option
def inspect_(*, home: Path, plan_path: Path | None, page: Path | None, as_json: bool) -> None:
    """Show the cohort, what was left out and why, and what the plan asks for.  Nothing of it leaves the site."""
    from client.admission.overview import look, write_page

    view = look(home, StudyPlan.load(plan_path) if plan_path else None)
    if page is not None:
        write_page(view, home, page)
    emit(view.to_dict(), as_json=as_json, text=view.sheets)
