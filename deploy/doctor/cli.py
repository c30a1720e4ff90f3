"""`wardround doctor`: the table of findings, and running the doctor before `serve`."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import click

from common.display.terminal import Sheet, emit, json_option
from deploy.doctor.finding import Finding, worst

EXIT_CODES = {"ok": 0, "warning": 8, "failure": 9}
_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@click.command()
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar=["WARDROUND_HOME", "WARDROUND_SERVER_HOME"],
    default=".",
    show_default=True,
    show_envvar=True,
    help="The home to examine.",
)
@json_option
@click.pass_context
def doctor(context: click.Context, *, home: Path, as_json: bool) -> None:
    """Examine a coordinator's or a hospital's home: check, finding, how to fix.

    Exit code 0: all is well; 8: warnings; 9: failures.
    """
    from deploy.doctor.examine import run_checks

    findings = run_checks(home)
    level = worst(findings)
    result = {"home": str(home), "level": level, "findings": [dataclasses.asdict(finding) for finding in findings]}
    emit(result, as_json=as_json, text=lambda: [_sheet(findings)])
    context.exit(EXIT_CODES[level])


def examined_first(serve: click.Command) -> None:
    """Put the doctor before the command `serve`: a finding that blocks ends it with the state error's exit code."""
    run = serve.callback
    if run is None:
        raise TypeError(f"the command {serve.name!r} does nothing")

    @functools.wraps(run)
    def examined(*arguments: Any, **options: Any) -> Any:
        from deploy.doctor.examine import require_fit

        require_fit(Path(options.get("root") or options["home"]))
        return run(*arguments, **options)

    serve.callback = examined


def _sheet(findings: list[Finding]) -> Sheet:
    return Sheet(
        columns=("check", "level", "finding", "how to fix"),
        rows=tuple((finding.check, finding.level, finding.finding, finding.fix) for finding in findings),
        colours=tuple(_COLOURS[finding.level] for finding in findings),
    )
