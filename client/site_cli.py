"""`wardround site ...`: the commands a hospital runs on its own scans."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from client.admission.doubts import DOUBTS_TITLE, TOLD, Doubt
from client.admission.reasons import EXPLAINED, Reason
from client.admission.steward_cli import inspect_, plan_option, quarantine, settings_of
from client.options import home_option
from common.terminal import Commands, emit, json_option, progress

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
@click.option("--ocr/--no-ocr", default=None, help="Look for text in pictures.  [default: where the extra `ocr` is]")
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
    emit(summary.to_dict(), as_json=as_json, text=_table(summary, dry_run=dry_run))


def _table(summary: "IngestSummary", *, dry_run: bool) -> Callable[[], str]:
    """Return what draws the account for a person."""

    def draw() -> str:
        console = Console()
        table = Table(title=f"{summary.patients} patients" + (" (dry run: nothing written)" if dry_run else ""))
        table.add_column("files")
        table.add_column("number", justify="right")
        table.add_column("meaning")
        table.add_row("admitted", str(summary.admitted), "in the training cache")
        for code, count in summary.reasons.items():
            table.add_row(code, str(count), EXPLAINED[Reason(code)])
        table.add_row("all", str(summary.files), "")
        doubts = Table(title=DOUBTS_TITLE)
        doubts.add_column("doubt")
        doubts.add_column("number", justify="right")
        doubts.add_column("meaning")
        for code, count in summary.doubts.items():
            doubts.add_row(code, str(count), TOLD[Doubt(code)])
        with console.capture() as captured:
            console.print(table)
            if summary.doubts:
                console.print(doubts)
        return captured.get().rstrip()

    return draw
