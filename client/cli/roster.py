"""`wardround site roster entry|check`: a hospital's place among those who share the noise of a secure study."""

import dataclasses
from pathlib import Path

import click

from client.cli.options import home_option
from common.display.terminal import Commands, emit, json_option

_path = click.Path(path_type=Path)


@click.group(cls=Commands)
def roster() -> None:
    """Which hospitals share the noise of a secure study."""


@roster.command("entry")
@click.option("--legal", required=True, help="The hospital's legal name, as the other hospitals know it.")
@click.option("--out", type=_path, help="File to write.  [default: SITE.member.json]")
@home_option
@json_option
def entry(*, legal: str, out: Path | None, home: Path, as_json: bool) -> None:
    """Write this hospital's entry, which the coordinator puts into the roster."""
    from client.secure.identity import own_entry
    from common.host.files import require_writable

    member = own_entry(home, legal=legal)
    path = require_writable(out or Path(f"{member.site}.member.json"))
    member.save(path)
    said = f"wrote {path}. Send it to the coordinator; it holds public keys alone"
    emit({**dataclasses.asdict(member), "file": str(path)}, as_json=as_json, text=lambda: said)


@roster.command("check")
@click.argument("roster_file", metavar="ROSTER", type=_path)
@home_option
@json_option
def check(roster_file: Path, *, home: Path, as_json: bool) -> None:
    """Check that this hospital is in ROSTER with its own keys, print its digest, and keep it for plans that name it."""
    from client.secure.identity import accept
    from common.secure.roster import Roster

    found = Roster.load(roster_file)
    mine = accept(home, found)
    told = [
        *found.lines(),
        f"this hospital is {mine.site!r}, {mine.legal}",
        "Read the digest out to the other hospitals over the telephone, at numbers that you know already.",
        "Each of them must read the same one. A hospital that you cannot reach counts as one that colludes.",
    ]
    members = [dataclasses.asdict(member) for member in found.members]
    emit({"digest": found.digest, "own": mine.site, "members": members}, as_json=as_json, text=lambda: "\n".join(told))


COMMANDS: list[click.Command] = [roster]
