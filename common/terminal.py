"""How every command speaks to a person or a script: progress bars, `--json`, one-line errors, exit codes."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.errors import WardroundError

_T = TypeVar("_T")

_ASKED = "wardround.json"


def _remember(context: click.Context, _option: click.Parameter, asked: bool) -> bool:
    context.find_root().meta[_ASKED] = asked
    return asked


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_remember, help="Print one JSON object and nothing else on stdout."
)


class Commands(click.Group):
    """A command group that turns every `WardroundError` into one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; deliberate errors end it with their documented exit code."""
        try:
            return super().invoke(ctx)
        except WardroundError as error:
            if ctx.find_root().meta.get(_ASKED):
                click.echo(json.dumps({"error": type(error).__name__, "message": str(error)}))
            click.echo(f"wardround: {type(error).__name__}: {error}", err=True)
            ctx.exit(error.exit_code)


def emit(result: dict[str, Any], *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's one result: `result` as JSON, or the text a person reads."""
    click.echo(json.dumps(result, sort_keys=True) if as_json else text())


def track(items: Iterable[_T], *, description: str, total: int, quiet: bool = False) -> Iterator[_T]:
    """Yield `items` behind a progress bar on stderr; no bar where stderr is not a terminal or `quiet` is set."""
    with progress(quiet=quiet) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


def progress(*, quiet: bool = False) -> Progress:
    """Return the one progress bar style used everywhere, drawn on stderr and only on a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
