"""How every command speaks to a person or a script: tables, progress bars, `--json`, one-line errors, exit codes.

The one door to the terminal: no other module prints. Everything that goes through it is shown and never obeyed,
from any author (`common.display.plain`).
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from common.display.plain import PlainFormatter, plain, plain_lines
from common.errors import Interrupted, WardroundError

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

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Parse; what the command line itself refuses is told in plain characters."""
        try:
            return super().make_context(*arguments, **options)
        except click.ClickException as error:
            raise _told_plainly(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; deliberate errors and Ctrl-C end it with their documented exit code."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _told_plainly(error) from error
        except KeyboardInterrupt:
            _fail(ctx, Interrupted("ended by Ctrl-C before it was done. Run the same command again"))
        except WardroundError as error:
            _fail(ctx, error)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of data for a person.

    Attributes:
        columns: Their headings.
        rows: Their cells, one for each column; any text.
        title: Above it; any text.
        right: Columns of numbers, set to the right.
        colours: Colour of the first cell of each row; empty for none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    right: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()

    def drawn(self) -> str:
        """Return the table as text, in the width and colours of the terminal."""
        table = Table(title=Text(plain(self.title)) if self.title else None, title_justify="left")
        for column in self.columns:
            table.add_column(column, justify="right" if column in self.right else "left")
        for i, row in enumerate(self.rows):
            first = self.colours[i] if self.colours else ""
            table.add_row(*(Text(plain(cell), style=first if j == 0 else "") for j, cell in enumerate(row)))
        console = Console()
        with console.capture() as captured:
            console.print(table)
        return captured.get().rstrip()


def listen(*, verbose: bool) -> None:
    """Decide what of the log reaches stderr, and in which form; a library's warnings are part of the log.

    Args:
        verbose: Show events and warnings, and not errors alone.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _unexpected


def emit(
    result: dict[str, Any], *, as_json: bool, text: Callable[[], str] | Callable[[], Iterable[Sheet | str]]
) -> None:
    """Print a command's one result: `result` as JSON, or the text or tables that a person reads.

    Args:
        result: The result in JSON types.
        as_json: Whether `--json` was given.
        text: Makes the text or the tables; called only where they are shown.
    """
    if as_json:
        say(json.dumps(result, sort_keys=True))
        return
    shown = text()
    for piece in [shown] if isinstance(shown, str) else shown:
        if isinstance(piece, str):
            say(piece)
        else:
            click.echo(_encodable(piece.drawn(), err=False))


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text of our own, data and all, on stdout or stderr; only line ends in it are obeyed.

    Args:
        text: The text, data and all.
        err: Whether it goes to stderr.
        nl: Whether a line end follows.
    """
    click.echo(_encodable(plain_lines(text), err=err), err=err, nl=nl)


def ask(question: str) -> str:
    """Ask a person on stderr and return the answer."""
    return str(click.prompt(plain(question), err=True))


def confirm(question: str) -> bool:
    """Ask a person for a yes or a no."""
    return click.confirm(plain(question))


def track(items: Iterable[_T], *, description: str, total: int, quiet: bool = False) -> Iterator[_T]:
    """Yield `items` behind a progress bar on stderr; no bar where stderr is not a terminal or `quiet` is set.

    Args:
        items: What is worked on.
        description: What the bar says.
        total: Number of items.
        quiet: Whether no bar is shown.
    """
    with progress(quiet=quiet) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


def progress(*, quiet: bool = False) -> Progress:
    """Return the one progress bar style used everywhere, drawn on stderr and only on a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )


def _fail(context: click.Context, error: WardroundError) -> None:
    if context.find_root().meta.get(_ASKED):
        say(json.dumps({"error": type(error).__name__, "message": str(error)}))
    say(plain(f"wardround: {type(error).__name__}: {error}"), err=True)
    context.exit(error.exit_code)


def _told_plainly(error: click.ClickException) -> click.ClickException:
    """The same error; a name that it quotes from the command line is shown and not obeyed."""
    text = error.format_message()
    if (shown := plain_lines(text)) == text:
        return error
    return click.UsageError(shown, error.ctx) if isinstance(error, click.UsageError) else click.ClickException(shown)


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback; the text of an exception is data, too."""
    say("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)


def _encodable(text: str, *, err: bool) -> str:
    """Spell out what the terminal's encoding has no character for, where Python would end with a traceback."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
