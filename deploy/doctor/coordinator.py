"""The doctor at the coordinator."""

from collections.abc import Iterator
from pathlib import Path

from common.errors import StateError
from common.wire import flower_version, pki
from deploy.doctor import database, keys, machine
from deploy.doctor.finding import Check, Finding, failure, ok, warning
from server.coordinator.home import Home, split_address
from server.coordinator.nodes import Node
from server.gateway import peers
from server.gateway.listening import listeners
from server.study import progress

BEFORE_SERVE = (
    "packages", "versions", "file modes", "disk", "authority", "gateway certificate", "SuperLink certificate", "ports",
    "database",
)  # fmt: skip


def checks(root: Path) -> dict[str, Check]:
    """Every check of a coordinator's home, by name."""
    home = Home.open(root)
    private = [
        root / "ca" / "ca.key", root / "tls" / "gateway.key", root / "tls" / "superlink.key",
        root / "secrets" / "superexec.secret", root / "signing" / "coordinator.key",
    ]  # fmt: skip
    gateway = split_address(home.settings.listen)[1]
    return {
        "packages": machine.packages,
        "versions": machine.versions,
        "file modes": lambda: keys.modes(root, private),
        "disk": lambda: machine.disk(root),
        "authority": lambda: keys.authority(home.ca_certificate),
        "gateway certificate": lambda: _server_certificate(home, "gateway"),
        "SuperLink certificate": lambda: _server_certificate(home, "superlink"),
        "ports": lambda: ports(home),
        "database": lambda: database.database(root / "superlink" / "state.db"),
        "sites": lambda: sites(home),
        "studies": lambda: studies(home),
        "listeners": lambda: machine.listeners(allowed=[gateway]),
    }


def ports(home: Home) -> Iterator[Finding]:
    """Whether the ports that `serve` binds are free, unless it is the one that holds them."""
    if home.is_served():
        yield ok("ports", "held by the running `wardround server serve`")
        return
    wanted = {
        "gateway": home.settings.listen,
        "SuperLink": f"127.0.0.1:{home.settings.superlink_port}",
        "health": f"127.0.0.1:{home.settings.health_port}",
    }
    taken = False
    for name, address in wanted.items():
        try:
            for probe in listeners(address):
                probe.close()
        except StateError as error:
            taken = True
            yield failure(
                "ports", f"the port of the {name} is not free: {error}",
                "Stop what holds it, or name another in server.toml", blocks=True,
            )  # fmt: skip
    if not taken:
        yield ok("ports", "gateway, SuperLink and health ports are free")


def sites(home: Home) -> Iterator[Finding]:
    """Whether the records of sites can be read, and whose certificate runs out."""
    enrolled = []
    for path in sorted(home.nodes.glob("*.json")):
        try:
            node = Node.load(path)
        except StateError as error:
            yield failure("sites", f"{path.name} cannot be used ({type(error).__name__})", "Restore it from a backup")
            continue
        if node.state != "enrolled":
            continue
        enrolled.append(node.site)
        days = pki.days_left(node.certificates[0])
        if days < keys.EXPIRES_SOON_DAYS:
            yield warning("sites", f"the certificate of {node.site} expires in {days:.0f} days",
                          "Ask it for `wardround site renew`, then `wardround server enrol`")  # fmt: skip
    versions, ours = peers.read(home.root), flower_version.installed()
    for site in enrolled:
        if (theirs := versions.get(site, "")) and not flower_version.speak(theirs, ours):
            yield warning("sites", f"{site} {peers.words(theirs, ours)}", "See *Upgrade* in docs/operations.md")
    if enrolled:
        yield ok("sites", f"enrolled: {', '.join(enrolled)}")
    else:
        yield warning("sites", "no site is enrolled", "`wardround server invite SITE`")


def studies(home: Home) -> Iterator[Finding]:
    """Whether every study that is not finished can go on from its last checkpoint."""
    found = 0
    for plan in sorted((home.root / "studies").glob("*/plan.toml")):
        folder, found = plan.parent, found + 1
        state = progress.read(folder)
        if state.state == "paused":
            yield warning(
                "studies", f"{folder.name} is paused: {state.message}", "Mend that, then `wardround server resume`"
            )
        elif state.state == "interrupted":
            from server.study.study import Study

            try:
                Study.resume(folder)
            except StateError as error:
                yield failure("studies", str(error), "Do what the message says")
            else:
                yield warning("studies", f"{folder.name} was cut off", "`wardround server resume`")
    yield ok("studies", f"{found} known")


def _server_certificate(home: Home, name: str) -> Iterator[Finding]:
    what = f"{name} certificate"
    tls = home.root / "tls"
    renew = "Start `wardround server serve` again, which renews it"
    yield from keys.certificate(what, tls / f"{name}.crt", home.ca_certificate, renew=renew, key=tls / f"{name}.key")
