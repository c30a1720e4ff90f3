"""`wardround site ...`: the commands a hospital runs on its own scans."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from client.admission.doubts import DOUBTS_TITLE, TOLD, Doubt
from client.admission.reasons import EXPLAINED, Reason
from client.admission.steward_cli import inspect_, plan_option, quarantine, settings_of
from client.admission.text_finder import in_words
from client.options import home_option
from common.terminal import Commands, Sheet, emit, json_option, progress

if TYPE_CHECKING:
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
    """Bring the DICOM files below FOLDER into the training cache."""
    from client.admission.ingest import ingest  # torch takes seconds to load, and `--help` must not wait for it

    settings = settings_of(plan_path)
    with progress(quiet=as_json) as bar:
        task = bar.add_task("reading scans", total=None)
        summary = ingest(
            folder, home, settings, workers=workers, dry_run=dry_run, ocr=ocr,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    emit(summary.to_dict(), as_json=as_json, text=lambda: _sheets(summary, dry_run=dry_run))


def _sheets(summary: "IngestSummary", *, dry_run: bool) -> list[Sheet | str]:
    """The account for a person."""
    rows = [("admitted", str(summary.admitted), "in the training cache")]
    rows += [(code, str(count), EXPLAINED[Reason(code)]) for code, count in summary.reasons.items()]
    rows.append(("all", str(summary.files), ""))
    files = Sheet(
        title=f"{summary.patients} patients" + (" (dry run: nothing written)" if dry_run else ""),
        columns=("files", "number", "meaning"), rows=tuple(rows), right=("number",),
    )  # fmt: skip
    told = tuple((code, str(count), TOLD[Doubt(code)]) for code, count in summary.doubts.items())
    doubts = Sheet(title=DOUBTS_TITLE, columns=("doubt", "number", "meaning"), rows=told, right=("number",))
    return [files, *([doubts] if told else []), in_words(summary.looked_for_text)]
