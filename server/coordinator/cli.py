"""`wardround server ...`: the commands of the coordinator. `COMMANDS` is attached to the `server` group."""

import re
from pathlib import Path
from typing import Any

import click

from common.display.terminal import Commands, emit, json_option, say
from common.host.owner import require_owner

_folder = click.Path(path_type=Path)
_COLOURED = re.compile(r"\x1b\[[0-9;]*m((?:DEBUG|INFO|WARNING|ERROR) *)\x1b\[0m")
"""A level as Flower writes it into its logs; any other code is data, and is shown as such."""


def _owned(_context: click.Context, _option: click.Parameter, root: Path) -> Path:
    """Refuse to work in somebody else's home, before anything is opened there."""
    require_owner(root)
    return root


_HOME: dict[str, Any] = {
    "type": _folder, "envvar": "WARDROUND_SERVER_HOME", "default": "wardround-server", "show_default": True,
    "help": "The coordinator's home (also WARDROUND_SERVER_HOME).",
}  # fmt: skip
_home = click.option("--home", "root", callback=_owned, **_HOME)
_seen_home = click.option("--home", "root", **_HOME)
"""The same for a command that only looks, for anybody who may."""


@click.group(cls=Commands)
def server() -> None:
    """What the coordinating institution runs."""


_roster = click.option("--roster", "roster_file", type=_folder, help="The roster.json of a plan that shares its noise.")
_warm_data = click.option("--warm-data", type=_folder, help="Public images (.npz) for a plan that names them.")


@click.command()
@click.argument("root", metavar="HOME", type=_folder)
@click.option("--host", required=True, metavar="NAME[:PORT]", help="What hospitals connect to; the port is 8443.")
@click.option("--san", "names", multiple=True, help="One more host name or address of the gateway; repeat it.")
@click.option("--listen", default="", metavar="ADDRESS:PORT", help="Where the gateway listens.  [default: everywhere]")
@json_option
def init(root: Path, *, host: str, names: tuple[str, ...], listen: str, as_json: bool) -> None:
    """Make a coordinator's home: an authority for years, certificates, secrets. Never twice."""
    from common.wire import pki
    from server.coordinator.home import Home

    home = Home.init(root, host=host, names=names, listen=listen)
    print_ = pki.fingerprint(pki.load_certificate(home.ca_certificate))
    result = {"home": str(home.root), "address": home.settings.address, "fingerprint": print_}
    said = (
        f"made {home.root} for {home.settings.address}\nauthority: {print_}\nKeep a copy of {home.root / 'ca'} offline."
    )
    emit(result, as_json=as_json, text=lambda: said)


@click.command()
@click.argument("site")
@_home
@click.option("--out", type=_folder, help="File to write.  [default: SITE.invite.json]")
@click.option("--days", default=14.0, show_default=True, type=click.FloatRange(0.01, 365), help="Days it may be used.")
@json_option
def invite(site: str, *, root: Path, out: Path | None, days: float, as_json: bool) -> None:
    """Write an invite for SITE, and print the fingerprint to read out to it over the telephone."""
    from common.host.files import require_writable
    from common.wire import pki
    from server.coordinator import invitations
    from server.coordinator.home import Home

    home, path = Home.open(root), require_writable(out or Path(f"{pki.check_site(site)}.invite.json"))
    paper = invitations.invite(home, site, days=days)
    paper.save(path)
    print_ = pki.fingerprint(pki.read_certificate(paper.ca_certificate))
    result = {"site": site, "invite": str(path), "expires": paper.expires, "fingerprint": print_}
    said = f"wrote {path}, usable once until {paper.expires}\nread this out to {site} over the telephone:\n  {print_}"
    emit(result, as_json=as_json, text=lambda: said)


@click.command()
@click.argument("request", type=_folder)
@_home
@click.option("--out", type=_folder, help="File to write.  [default: SITE.welcome.json]")
@json_option
def enrol(request: Path, *, root: Path, out: Path | None, as_json: bool) -> None:
    """Accept the REQUEST file of an invited site, or its renewal, and write its welcome."""
    from common.host.files import require_writable
    from common.wire.enrolment import JoinRequest
    from server.coordinator import invitations
    from server.coordinator.home import Home

    home, asked = Home.open(root), JoinRequest.load(request)
    path = require_writable(out or Path(f"{asked.site}.welcome.json"))
    welcome = invitations.enrol(home, asked)
    welcome.save(path)
    result = {"site": welcome.site, "welcome": str(path)}
    emit(result, as_json=as_json, text=lambda: f"{welcome.site} is enrolled; send it {path}")


@click.command()
@click.argument("site")
@_home
@json_option
def revoke(site: str, *, root: Path, as_json: bool) -> None:
    """End the access of SITE at once: its certificate, its node key, any open invite."""
    from server.coordinator import invitations
    from server.coordinator.home import Home

    node = invitations.revoke(Home.open(root), site)
    emit({"site": site, "state": node.state}, as_json=as_json, text=lambda: f"{site} is revoked")


@click.command()
@click.argument("host", metavar="HOST[:PORT]")
@_home
@click.option("--san", "names", multiple=True, help="One more host name or address of the gateway; repeat it.")
@click.option("--listen", default="", metavar="ADDRESS:PORT", help="Where the gateway listens.  [default: as before]")
@json_option
def move(host: str, *, root: Path, names: tuple[str, ...], listen: str, as_json: bool) -> None:
    """Give the coordinator another address; every hospital then runs `wardround site move HOST:PORT`."""
    from server.coordinator.home import Home
    from server.coordinator.move import move as go

    home = Home.open(root)
    moved = go(home, host, names=names, listen=listen)
    again = home.is_served() and moved.settings.listen != home.settings.listen
    result = {"address": moved.settings.address, "names": list(moved.settings.names), "restart_serve": again}
    said = f"tell every hospital: wardround site move {moved.settings.address}"
    restart = "\nstart `wardround server serve` again: it listens elsewhere now" if again else ""
    emit(result, as_json=as_json, text=lambda: said + restart)


@click.command()
@_home
def serve(*, root: Path) -> None:
    """Run SuperLink, SuperExec and gateway until SIGTERM, and keep them running."""
    from server.coordinator.serve import serve as run

    run(root)


@click.command()
@click.argument("plan", type=_folder)
@_home
@_warm_data
@_roster
@json_option
def start(plan: Path, *, root: Path, warm_data: Path | None, roster_file: Path | None, as_json: bool) -> None:
    """Start the study of PLAN: the same as `flwr run deploy/flower_app` on its prepared folder."""
    from server.coordinator import studies
    from server.coordinator.control import SuperLink
    from server.coordinator.home import Home

    home = Home.open(root)
    folder = studies.prepare(home, plan, warm_data=warm_data, roster=roster_file)
    with SuperLink(home) as link:
        run = studies.start(home, link, folder.name)
    _submitted(folder, run, as_json=as_json)


@click.command()
@click.argument("plan", type=_folder)
@_home
@_warm_data
@_roster
@json_option
def prepare(plan: Path, *, root: Path, warm_data: Path | None, roster_file: Path | None, as_json: bool) -> None:
    """Make the study's folder and print the `flwr run` line that starts it."""
    from server.coordinator import studies
    from server.coordinator.control import flower_app
    from server.coordinator.home import SUPERLINK, Home

    home = Home.open(root)
    folder = studies.prepare(home, plan, warm_data=warm_data, roster=roster_file)
    line = f"FLWR_HOME={home.root / 'flwr'} flwr run {flower_app()} {SUPERLINK} --run-config 'run-dir=\"{folder}\"'"
    emit({"study": folder.name, "run_dir": str(folder), "command": line}, as_json=as_json, text=lambda: line)


@click.command()
@click.argument("study")
@_home
@json_option
def resume(study: str, *, root: Path, as_json: bool) -> None:
    """Resume STUDY from its last checkpoint, after any end."""
    from server.coordinator import studies
    from server.coordinator.control import SuperLink
    from server.coordinator.home import Home

    home = Home.open(root)
    with SuperLink(home) as link:
        run = studies.start(home, link, study)
    _submitted(home.study(study), run, as_json=as_json)


@click.command()
@click.argument("study")
@_home
@json_option
def stop(study: str, *, root: Path, as_json: bool) -> None:
    """Stop the run of STUDY; its rounds stay saved, and `resume` goes on."""
    from server.coordinator import studies
    from server.coordinator.control import SuperLink
    from server.coordinator.home import Home

    home = Home.open(root)
    with SuperLink(home) as link:
        last = studies.last_run(link, home.study(study))
        stopped = last is not None and not last.ended
        if last is not None and stopped:
            link.stop(last.run_id)
    said = f"{study} is stopped" if stopped else f"no run of {study} was under way"
    emit({"study": study, "stopped": stopped}, as_json=as_json, text=lambda: said)


@click.command()
@_seen_home
@json_option
@click.pass_context
def status(context: click.Context, *, root: Path, as_json: bool) -> None:
    """Show whether the coordinator is well, its sites, studies and certificates; exit code 5 unless it is healthy."""
    from common.errors import StateError
    from server.coordinator.home import Home
    from server.coordinator.status import table, text

    found = table(Home.open(root))
    emit(found, as_json=as_json, text=lambda: text(found))
    if not found["healthy"]:
        context.exit(StateError.exit_code)


@click.command()
@click.argument("name")
@_seen_home
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--lines", default=100, show_default=True, type=click.IntRange(1), help="Last lines of a process's log.")
def logs(name: str, *, root: Path, follow: bool, lines: int) -> None:
    """Print the log of study NAME's last run, or of a process: serve, superlink, superexec, gateway."""
    from server.coordinator.home import Home
    from server.coordinator.status import process_log, study_log

    home = Home.open(root)
    pieces = process_log(home, name, lines)
    for piece in study_log(home, name, follow=follow) if pieces is None else pieces:
        say(_COLOURED.sub(r"\1", piece), nl=False)


@click.command()
@click.argument("entries", metavar="ENTRY...", nargs=-1, required=True, type=_folder)
@click.option("--out", type=_folder, default="roster.json", show_default=True, help="File to write.")
@json_option
def roster(entries: tuple[Path, ...], *, out: Path, as_json: bool) -> None:
    """Put the hospitals' entries into one roster, and print the digest that a plan names."""
    from common.host.files import require_writable
    from common.secure.roster import Member, Roster

    made, path = Roster.of([Member.load(entry) for entry in entries]), require_writable(out)
    made.save(path)
    said = [
        *made.lines(),
        f"wrote {path}. Send it to each of these hospitals. A plan names it by",
        f'  roster = "{made.digest}"',
    ]
    result = {"digest": made.digest, "sites": list(made.names), "roster": str(path)}
    emit(result, as_json=as_json, text=lambda: "\n".join(said))


def _submitted(folder: Path, run: int, *, as_json: bool) -> None:
    result: dict[str, Any] = {"study": folder.name, "run": run, "run_dir": str(folder)}
    emit(result, as_json=as_json, text=lambda: f"study {folder.name} is under way as run {run} in {folder}")


COMMANDS: list[click.Command] = [
    init, invite, enrol, revoke, move, serve, prepare, start, stop, resume, status, logs, roster,
]  # fmt: skip
for _command in COMMANDS:
    server.add_command(_command)
