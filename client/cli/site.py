"""`wardround site ...`: the commands a hospital runs on its own scans."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from client.admission.doubts import DOUBTS_TITLE, TOLD, Doubt
from client.admission.reasons import EXPLAINED, Reason
from client.cli.options import home_option
from client.cli.steward import inspect_, plan_option, quarantine, settings_of
from client.cohort.forms import words
from client.dicom.text_finder import in_words
from common.display.terminal import Commands, Sheet, emit, json_option, progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from client.admission.records import IngestSummary

_folder = click.Path(path_type=Path)


@click.group(cls=Commands)
def site() -> None:
    """What a hospital does with its own scans."""


site.add_command(quarantine)
site.add_command(inspect_)


@site.command("ingest")
@click.argument("folder", type=_folder)
@home_option
@plan_option
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Decoder processes.")
@click.option("--dry-run", is_flag=True, help="Look and count; write nothing.")
@click.option("--ocr/--no-ocr", default=None, help="Look for text in pictures.  [default: where the extra `ocr` works]")
@json_option
def ingest_(
    folder: Path, *, home: Path, plan_path: Path | None, workers: int, dry_run: bool, ocr: bool | None, as_json: bool
) -> None:
    """Bring the DICOM files below FOLDER into the training cache of PLAN, or without one of every active plan."""
    from client.admission.ingest import ingest, wanted  # torch takes seconds to load, and `--help` must not wait for it

    made: dict[str, IngestSummary] = {}
    for settings in [settings_of(plan_path)] if plan_path else wanted(home, folder):
        with progress(quiet=as_json) as bar:
            task = bar.add_task("reading scans", total=None)
            made[words(settings.to_dict())] = ingest(
                folder, home, settings, workers=workers, dry_run=dry_run, ocr=ocr, progress=partial(_advance, bar, task)
            )
    first = next(iter(made.values()))
    result = {**first.to_dict(), "forms": {form: summary.to_dict() for form, summary in made.items()}}
    sheets = [
        sheet
        for form, summary in made.items()
        for sheet in _sheets(summary, form=form if len(made) > 1 else "", dry_run=dry_run)
    ]
    emit(result, as_json=as_json, text=lambda: sheets)


def _advance(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


@site.command("forms")
@home_option
@click.option("--prune", is_flag=True, help="Remove the caches that no active plan needs.")
@json_option
def forms_(*, home: Path, prune: bool, as_json: bool) -> None:
    """Show the image forms that there is a training cache for, and which plans need each."""
    from client.admission.form_caches import prune as removed
    from client.admission.form_caches import table

    gone = removed(home) if prune else []
    rows, lacking = table(home)
    spare = "no active plan: --prune removes it"
    drawn = tuple((row["form"], row["made"], ", ".join(row["plans"]) or spare) for row in rows)
    shown = Sheet(title="image forms", columns=("form", "made", "needed by"), rows=drawn)
    none = Sheet(title="no training cache for", columns=("plan", "form"), rows=tuple(sorted(lacking.items())))
    sheets = [shown, *([none] if lacking else [])]
    emit({"forms": rows, "missing": lacking, "removed": gone}, as_json=as_json, text=lambda: sheets)


def _sheets(summary: "IngestSummary", *, form: str, dry_run: bool) -> list[Sheet | str]:
    """The account for a person; `form` where there are several."""
    rows = [("admitted", str(summary.admitted), "in the training cache")]
    rows += [(code, str(count), EXPLAINED[Reason(code)]) for code, count in summary.reasons.items()]
    rows.append(("all", str(summary.files), ""))
    files = Sheet(
        title=f"{summary.patients} patients{form and ', '}{form}" + (" (dry run: nothing written)" if dry_run else ""),
        columns=("files", "number", "meaning"), rows=tuple(rows), right=("number",),
    )  # fmt: skip
    told = tuple((code, str(count), TOLD[Doubt(code)]) for code, count in summary.doubts.items())
    doubts = Sheet(title=DOUBTS_TITLE, columns=("doubt", "number", "meaning"), rows=told, right=("number",))
    return [files, *([doubts] if told else []), in_words(summary.looked_for_text)]
