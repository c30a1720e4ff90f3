"""A coordinator's home: refused without a trace, IPv6, another address, certificates renewed while it is served."""

import asyncio
import dataclasses
import errno
import json
import re
import socket
import sqlite3
import ssl
from pathlib import Path

import flwr
import httpx
import pytest
from click.testing import CliRunner, Result

from common.errors import OutputInUse, StateError
from common.host.supervisor import Supervisor
from common.wire import pki
from deploy.cli import main
from deploy.doctor.coordinator import ports
from deploy.doctor.database import database, known_revisions
from deploy.doctor.examine import require_fit
from server.coordinator import authority
from server.coordinator.home import Home
from server.coordinator.serve import _gateway, _plain, _State, certificate_end, renew
from server.gateway import gateway, tls
from server.gateway.listening import listeners
from tests.server.coordinators import Visitor, make_home
from tests.server.test_coordinator_shares import serving


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["server", *map(str, arguments)])


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "hub example"),
        ("--host", "hub/x:1"),
        ("--host", ""),
        ("--host", "[2001:db8::5"),
        ("--host", "hub:0"),
        ("--host", "hub", "--san", "ä.example.org"),
        ("--host", "hub", "--san", 'x"]'),
        ("--host", "hub", "--listen", "nowhere at all:1"),
        ("--host", "hub", "--listen", "0.0.0.0:99999"),
    ],
)
def test_an_init_that_is_refused_leaves_nothing_and_the_corrected_one_is_taken(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    root = tmp_path / "deep" / "home"
    refused = run("init", root, *options)
    assert refused.exit_code == StateError.exit_code, refused.output
    assert not root.exists()
    root.mkdir(parents=True)
    assert run("init", root, *options).exit_code == StateError.exit_code
    assert list(root.iterdir()) == []
    assert run("init", root, "--host", "hub.example.org").exit_code == 0
    assert Home.open(root).settings.address == "hub.example.org:8443"


def test_a_name_that_no_certificate_can_carry_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """Not when the certificate is renewed, months after a person wrote the name."""
    root = Home.init(tmp_path / "home", host="hub").root
    text = (root / "server.toml").read_text()
    (root / "server.toml").write_text(text.replace('names = ["hub"]', 'names = ["hub", "two words"]'))
    with pytest.raises(StateError, match="two words"):
        Home.open(root)


def test_an_init_that_the_disk_ends_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:

        def no_space(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr("server.coordinator.authority.write_atomically", no_space)
        with pytest.raises(StateError, match="No space left"):
            Home.init(tmp_path / "home", host="hub")
    assert not (tmp_path / "home").exists()
    assert Home.init(tmp_path / "home", host="hub").complete() == []


def test_an_init_over_a_file_or_a_home_touches_neither(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputInUse):
        Home.init(tmp_path / "file", host="hub")
    assert (tmp_path / "file").read_text() == "mine"
    ours = Home.init(tmp_path / "home", host="hub")
    before = {path: path.read_bytes() for path in ours.root.rglob("*") if path.is_file()}
    with pytest.raises(OutputInUse, match="not empty"):
        Home.init(tmp_path / "home", host="hub")
    assert {path: path.read_bytes() for path in ours.root.rglob("*") if path.is_file()} == before


def test_of_two_inits_at_once_the_second_leaves_what_the_first_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, made = Home.complete, []

    def beaten(self: Home) -> list[str]:
        if not made:
            made.append("")
            (tmp_path / "home" / "server.toml").write_text("theirs")
        return plain(self)

    monkeypatch.setattr(Home, "complete", beaten)
    with pytest.raises(OutputInUse, match="meanwhile"):
        Home.init(tmp_path / "home", host="hub")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["server.toml"]
    assert (tmp_path / "home" / "server.toml").read_text() == "theirs"


def test_flowers_configuration_names_files_of_the_home_itself(tmp_path: Path) -> None:
    home = Home.init(tmp_path / "home", host="hub")
    assert f'root-certificates = "{home.ca_certificate}"' in (home.root / "flwr" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("host", "address", "listen", "name"),
    [
        ("[2001:db8::5]:9443", "[2001:db8::5]:9443", "[::]:9443", "2001:db8::5"),
        ("2001:DB8:0::5", "[2001:db8::5]:8443", "[::]:8443", "2001:db8::5"),
        ("::1", "[::1]:8443", "[::1]:8443", "::1"),
        ("localhost:9000", "localhost:9000", "127.0.0.1:9000", "localhost"),
        ("hub.example.org", "hub.example.org:8443", "0.0.0.0:8443", "hub.example.org"),
    ],
)
def test_every_form_of_host_gives_an_address_that_can_be_used(
    tmp_path: Path, host: str, address: str, listen: str, name: str
) -> None:
    settings = Home.init(tmp_path / "home", host=host).settings
    assert (settings.address, settings.listen, settings.names) == (address, listen, (name,))
    home = Home.open(tmp_path / "home")
    assert pki.hosts(pki.load_certificate(home.root / "tls" / "gateway.crt")) == {name}
    assert home.renew() == [], "a certificate that holds every name is not made again"


def test_every_address_takes_ipv4_and_ipv6_by_one_socket(tmp_path: Path) -> None:
    (opened,) = listeners(f"[::]:{free_port()}")
    with opened:
        port = opened.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=30):
                opened.accept()[0].close()


def test_a_name_is_listened_on_at_each_of_its_addresses_or_at_none() -> None:
    port = free_port()
    opened = listeners(f"localhost:{port}")
    assert opened
    with pytest.raises(StateError, match="cannot be bound"):
        listeners(f"localhost:{port}")
    for each in opened:
        each.close()
    for each in listeners(f"localhost:{port}"):
        each.close()


def test_the_doctor_sees_that_ipv4_holds_the_port_that_both_are_to_have(tmp_path: Path) -> None:
    home = Home.init(tmp_path / "home", host=f"[2001:db8::5]:{free_port()}")
    assert [finding.level for finding in ports(home)] == ["ok"]
    with socket.create_server(("127.0.0.1", int(home.settings.listen.rpartition(":")[2]))):
        (found,) = ports(home)
    assert (found.level, found.blocks) == ("failure", True)


def test_a_move_changes_settings_and_certificate_and_keeps_the_old_name(tmp_path: Path) -> None:
    root = tmp_path / "home"
    run("init", root, "--host", "hub.example.org:9443")
    (root / "server.toml").write_text((root / "server.toml").read_text() + "# mine\n")
    moved = run("move", "[2001:db8::7]", "--san", "new.example.org", "--listen", "[::]", "--home", root, "--json")
    assert json.loads(moved.stdout) == {
        "address": "[2001:db8::7]:9443", "names": ["2001:db8::7", "new.example.org", "hub.example.org"],
        "restart_serve": False,
    }  # fmt: skip
    home = Home.open(root)
    assert (home.settings.address, home.settings.listen) == ("[2001:db8::7]:9443", "[::]:9443")
    assert (root / "server.toml").read_text().endswith("# mine\n")
    assert pki.hosts(pki.load_certificate(root / "tls" / "gateway.crt")) == set(home.settings.names)
    assert "wardround site move other:9443" in run("move", "other", "--home", root).output


def test_a_move_that_cannot_be_done_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "home"
    run("init", root, "--host", "hub.example.org")
    path, certificate = root / "server.toml", (root / "tls" / "gateway.crt").read_bytes()
    before = path.read_text()
    for wrong in (["a b"], ["hub", "--san", "a b"], ["hub", "--listen", "x:y"]):
        assert run("move", *wrong, "--home", root).exit_code == StateError.exit_code
    assert path.read_text() == before
    split = before.replace('names = ["hub.example.org"]', 'names = [\n"hub.example.org"]')
    path.write_text(split)
    refused = run("move", "other", "--home", root)
    assert "Edit it by hand" in refused.output
    assert path.read_text() == split
    assert (root / "tls" / "gateway.crt").read_bytes() == certificate


def test_a_certificate_that_ends_soon_is_renewed_and_taken_up_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_S", 0.05)
    home = make_home(tmp_path / "home")
    shorten(home, "gateway", days=20)
    visitor = Visitor.enrolled(home, "north")

    async def watch() -> None:
        config = gateway.config(home)
        config.port = 0
        async with serving(config) as port:
            context = visitor.context(tmp_path)
            async with httpx.AsyncClient(verify=context, trust_env=False) as opened:
                url = f"https://127.0.0.1:{port}/v1/fleet/nothing"
                assert (await opened.post(url)).status_code == 404
                before = await shown(port, context)
                assert pki.days_left(before) < 21
                renew(home, Supervisor([]))
                while (now := await shown(port, context)) == before:
                    await asyncio.sleep(0.05)
                assert pki.days_left(now) > 700
                assert (await opened.post(url)).status_code == 404

    asyncio.run(asyncio.wait_for(watch(), 90))


async def shown(port: int, context: ssl.SSLContext) -> pki.Certificate:
    """The certificate that a new connection is met with."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return pki.read_certificate(ssl.DER_cert_to_PEM_cert(der))


def shorten(home: Home, name: str, *, days: float) -> None:
    """Have one of our servers' certificates end in so many days."""
    ca, path = authority.load(home.root / "ca"), home.root / "tls" / f"{name}.crt"
    hosts = sorted(pki.hosts(pki.load_certificate(path)))
    key = pki.load_key(path.with_suffix(".key"))
    pki.save_certificate(path, pki.issue_server(ca, key.public_key(), hosts, days=days))  # type: ignore[arg-type]


def test_a_renewed_superlink_certificate_has_the_superlink_started_again_and_nothing_else(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    asked: list[str] = []

    class Noted(Supervisor):
        def restart(self, name: str) -> None:
            asked.append(name)

    renew(home, Noted([]))
    shorten(home, "superlink", days=5)
    renew(home, Noted([]))
    assert asked == ["superlink"]
    assert pki.days_left(pki.load_certificate(home.root / "tls" / "superlink.crt")) > 700


def test_an_end_is_told_well_before_it(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    visitor = Visitor.enrolled(home, "north")
    assert certificate_end(home) == ""
    record = home.nodes / "north.json"
    ca = authority.load(home.root / "ca")
    short = pki.issue_client(ca, pki.make_request(visitor.client_key, "north"), "north", days=20)
    record.write_text(json.dumps({**json.loads(record.read_text()), "certificate": pki.pem(short)}))
    assert certificate_end(home) == "certificates of sites end: north in 20 days. Ask them for `wardround site renew`"
    shorten(home, "gateway", days=10)
    assert certificate_end(home).startswith("tls/gateway.crt ends in 10 days and could not be renewed")
    pki.save_certificate(home.ca_certificate, pki.make_authority("old", days=300).certificate)
    assert certificate_end(home).startswith("the authority ends in 300 days")


def test_the_gateways_health_is_asked_for_on_the_address_it_listens_on(tmp_path: Path) -> None:
    made = make_home(tmp_path / "home")

    async def watch() -> None:
        for listen, reachable in (("[::1]", "[::1]"), ("[::]", "[::]"), ("0.0.0.0", "0.0.0.0")):
            (opened,) = listeners(f"{listen}:{free_port()}")
            port = opened.getsockname()[1]
            home = Home(made.root, dataclasses.replace(made.settings, listen=f"{reachable}:{port}"))
            server = gateway.uvicorn.Server(gateway.config(home))
            task = asyncio.create_task(server._serve([opened]))
            while not server.started:
                await asyncio.sleep(0.02)
            assert await asyncio.to_thread(_gateway, home) == ""
            server.force_exit = server.should_exit = True
            await task

    asyncio.run(asyncio.wait_for(watch(), 90))


def test_a_database_of_a_newer_flower_stops_an_older_one_before_it_starts(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    path = home.root / "superlink" / "state.db"
    assert [found.finding for found in database(path)] == ["not begun"]
    (head,) = known_revisions() - {text for text in known_revisions() if text in _older()}
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (head,))
    assert [found.level for found in database(path)] == ["ok"]
    require_fit(home.root)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(StateError, match="newer Flower has brought"):
        require_fit(home.root)


def _older() -> set[str]:
    """Every form of Flower's database that another one follows."""
    folder = Path(flwr.__file__).parent / "supercore" / "state" / "alembic" / "versions"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    lines = re.findall(r"(?m)^down_revision.*?=(.*)$", text)
    return {found for line in lines for found in re.findall(r"[0-9a-f]{8,}", line)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_serve_that_starts_forgets_what_an_earlier_one_knew(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home.root / "state.json").write_text(json.dumps({"nodes": {"north": "online"}, "health": {"disk": ""}}))
    _State(home)
    assert set(json.loads((home.root / "state.json").read_text())) == {"pid", "since"}


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("\x1b[92mINFO \x1b[0m:      ControlServicer.ListNodes", ""),
        ("INFO :      ControlServicer.ListRuns\n", ""),
        ('2026-11-27T15:00:18Z INFO [uvicorn.access] 127.0.0.1:4 - "POST /v1/control/list-nodes HTTP/1.1" 200', ""),
        ('2026-11-27T15:00:18Z INFO [uvicorn.access] 127.0.0.1:4 - "GET /health HTTP/1.1" 200', ""),
        ('x - "POST /v1/control/list-nodes HTTP/1.1" 500', 'x - "POST /v1/control/list-nodes HTTP/1.1" 500'),
        ("\x1b[92mINFO \x1b[0m:      ControlServicer.RegisterNode", "INFO :      ControlServicer.RegisterNode"),
    ],
)
def test_our_own_looks_do_not_fill_the_superlinks_log(line: str, kept: str) -> None:
    assert _plain(line) == kept
