"""`wardround site join|renew|move|adopt|serve|status`: joining a coordinator, and the daemon that works for it.

`deploy.cli` attaches `COMMANDS` to the `site` group.
"""

from pathlib import Path

import click

from client.cli.options import by_option, home_option, seen_home_option
from common.display.terminal import ask, confirm, emit, json_option

_folder = click.Path(path_type=Path)
_out = click.option("--out", type=_folder, help="File to write.  [default: SITE.request.json]")


@click.command()
@click.argument("file", type=_folder)
@home_option
@click.option("--fingerprint", help="The authority's fingerprint, as read out by the coordinator over the telephone.")
@_out
@json_option
def join(*, file: Path, home: Path, fingerprint: str | None, out: Path | None, as_json: bool) -> None:
    """Join the coordinator whose invite FILE is, or close the joining with its welcome."""
    from client.daemon import join as joining
    from client.daemon.home import DaemonHome
    from common.host.files import require_writable
    from common.wire.enrolment import Invite

    paper, daemon = joining.paper_of(file), DaemonHome(home.resolve())
    if isinstance(paper, Invite):
        path = require_writable(out or Path(f"{paper.site}.request.json"))
        given = fingerprint or ask("Fingerprint of the authority, as the coordinator reads it out")
        request = joining.answer(daemon, paper, fingerprint=given)
        request.save(path)
        said = f"wrote {path}. Send it to the coordinator; `wardround site join` the welcome that comes back"
        emit({"state": "asked", "site": request.site, "request": str(path)}, as_json=as_json, text=lambda: said)
        return
    certificate = joining.install(daemon, paper)
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    emit(
        {"state": "joined", "site": paper.site, "coordinator": paper.address, "until": until},
        as_json=as_json,
        text=lambda: (
            f"joined {paper.address} as {paper.site}; certificate valid until {until}. Now `wardround site serve`"
        ),
    )


@click.command()
@home_option
@_out
@json_option
def renew(*, home: Path, out: Path | None, as_json: bool) -> None:
    """Ask for a new certificate in the name of the one in use."""
    from client.daemon import join as joining
    from client.daemon.home import DaemonHome
    from client.site.rules import SitePolicy
    from common.host.files import require_writable

    path = require_writable(out or Path(f"{SitePolicy.load(home).name}.request.json"))
    request = joining.renew(DaemonHome(home.resolve()))
    request.save(path)
    said = f"wrote {path}. Send it to the coordinator; `wardround site join` the welcome that comes back"
    emit({"state": "asked", "site": request.site, "request": str(path)}, as_json=as_json, text=lambda: said)


@click.command()
@click.argument("address", metavar="HOST[:PORT]")
@home_option
@click.option("--unasked", is_flag=True, help="Change it even if no coordinator answers there yet.")
@json_option
def move(address: str, *, home: Path, unasked: bool, as_json: bool) -> None:
    """Follow the coordinator to another address, once it has answered there."""
    from client.daemon.home import DaemonHome
    from client.daemon.move import move as go

    moved = go(DaemonHome(home.resolve()), address, unasked=unasked)
    emit({"coordinator": moved.address}, as_json=as_json, text=lambda: f"the coordinator is at {moved.address} now")


@click.command()
@home_option
def serve(*, home: Path) -> None:
    """Work for the coordinator until told to end: SuperNode, runner and forwarder, started again when they die."""
    from client.daemon.serve import serve as run

    run(home)


@click.command()
@home_option
@by_option
@click.option("--merge", "other", type=_folder, metavar="OTHER_HOME", help="Book what this other copy has spent.")
@click.option("--yes", is_flag=True, help="No other copy serves, or will; do not ask.")
@json_option
def adopt(*, home: Path, by: str, other: Path | None, yes: bool, as_json: bool) -> None:
    """Go on with this home after it was moved, restored or copied."""
    from client.site import adopt as adopting

    question = "Is every other copy of this home stopped, and will none be started again?"
    agreed = yes or (not as_json and confirm(question))
    if not agreed:
        emit({"adopted": False}, as_json=as_json, text=lambda: "not adopted; nothing was changed")
        return
    found = adopting.adopt(home.resolve(), by=by, other=other)
    emit(
        {"adopted": True, **vars(found), "plans": list(found.plans)},
        as_json=as_json,
        text=lambda: adopting.in_words(home, found, other),
    )


@click.command()
@seen_home_option
@json_option
@click.pass_context
def status(context: click.Context, *, home: Path, as_json: bool) -> None:
    """Show how the daemon is; exit code 5 unless it is serving."""
    from client.daemon.status import Status
    from common.errors import StateError

    seen = Status.of(home)
    emit(seen.to_dict(), as_json=as_json, text=seen.text)
    if not seen.serving:
        context.exit(StateError.exit_code)


COMMANDS: list[click.Command] = [join, renew, move, adopt, serve, status]
