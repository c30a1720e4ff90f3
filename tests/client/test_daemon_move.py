"""Another address of the coordinator, a name without one, certificates that end: what a hospital is told and does."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from client.daemon import checks, join, serve
from client.daemon.forwarder import proxy_for
from client.daemon.home import Coordinator, DaemonHome
from client.daemon.status import Status
from common.errors import StateError
from common.host import clocks
from common.host.supervisor import Supervisor
from common.wire import flower_version, pki
from deploy.cli import main
from deploy.doctor import hospital, network
from server.coordinator.home import free_ports
from tests.client.daemon_lab import wait_until
from tests.client.test_daemon_forwarder import AUTHORITY, OTHER, Gateway, forwarding, joined

NOWHERE = "gateway.invalid"
"""A name that no resolver knows (RFC 6761)."""


def move(home: DaemonHome, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["site", "move", *arguments, "--home", str(home.home)])
    return done.exit_code, done.output


def test_a_site_follows_its_coordinator_once_that_has_answered_there(tmp_path: Path) -> None:
    home = joined(tmp_path, free_ports(1)[0])
    with Gateway(tmp_path).running() as gateway:
        code, said = move(home, f"127.0.0.1:{gateway.port}")
        assert (code, said) == (0, f"the coordinator is at 127.0.0.1:{gateway.port} now\n")
        assert Coordinator.load(home) == Coordinator(site="north", address=f"127.0.0.1:{gateway.port}")


def test_a_site_does_not_follow_where_nobody_or_a_stranger_answers(tmp_path: Path) -> None:
    home = joined(tmp_path, free_ports(1)[0])
    before = Coordinator.load(home)
    with Gateway(tmp_path, authority=OTHER).running() as stranger:
        for address, word in (
            (f"127.0.0.1:{stranger.port}", "TLSRefused"),
            (f"127.0.0.1:{free_ports(1)[0]}", "ConnectError"),
            (f"{NOWHERE}:8443", "NameUnknown"),
            ("not an address", "neither"),
        ):
            code, said = move(home, address)
            assert code == StateError.exit_code
            assert word in said
            assert Coordinator.load(home) == before
        assert stranger.seen == []
    assert move(home, "[2001:db8::7]", "--unasked")[0] == 0
    port = before.address.rpartition(":")[2]
    assert Coordinator.load(home).address == f"[2001:db8::7]:{port}"


def test_a_site_that_joined_nobody_follows_nobody(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["site", "init", "--name", "north", "--home", str(tmp_path / "north")])
    code, said = move(DaemonHome(tmp_path / "north"), "hub:1")
    assert code == StateError.exit_code
    assert "has joined no coordinator" in said


def heard(what: str, **more: object) -> dict[str, object]:
    """What the forwarder notes of the coordinator just now."""
    return {what: time.time(), f"{what}_up": clocks.uptime_s(), "boot": clocks.boot(), **more}


def test_a_name_without_an_address_is_told_as_that_and_not_as_a_firewall(tmp_path: Path) -> None:
    home = joined(tmp_path, 8443)
    Coordinator(site="north", address=f"{NOWHERE}:8443").save(home)
    found = {finding.check: finding for finding in hospital.coordinator(home)}
    assert found["name"].level == "failure"
    assert f"{NOWHERE} has no address here (DNS)" in found["name"].finding
    assert "port" not in found
    home.link.write_text(json.dumps(heard("failed", error="NameUnknown")))
    assert checks.registered(home).startswith(f"the name {NOWHERE} has no address here (DNS)")
    home.link.write_text(json.dumps(heard("failed", error="ConnectError")))
    assert "DNS" not in checks.registered(home)


def test_the_forwarder_tells_a_name_without_an_address_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Coordinator.save
    monkeypatch.setattr(
        Coordinator, "save", lambda self, home: plain(Coordinator(site=self.site, address=f"{NOWHERE}:8443"), home)
    )
    with forwarding(tmp_path, 8443) as forwarder:
        assert forwarder.post().status_code == 502
        assert wait_until(lambda: forwarder.link.get("error"), "the failure") == "NameUnknown"


def test_a_coordinator_of_another_flower_is_told_with_both_versions(tmp_path: Path) -> None:
    home = joined(tmp_path, 8443)
    home.link.write_text(json.dumps(heard("answered", status=426, flower="1.50.0")))
    said = checks.flower(home)
    assert f"this site runs Flower {flower_version.installed()}, the coordinator 1.50.0" in said
    assert checks.registered(home) == "the coordinator answers 426: see `flower`"
    home.link.write_text(json.dumps(heard("answered", status=403, flower="1.50.0")))
    assert checks.flower(home) == "", "it has let us in until now, or refuses us for something else"
    assert "enrolled" in checks.registered(home)
    assert [finding.level for finding in network.flower("1.50.0")] == ["failure"]
    assert [finding.level for finding in network.flower("1.42.0", ours="1.41.0")] == ["ok"]
    assert list(network.flower("")) == []


def test_the_forwarder_notes_the_version_that_the_gateway_says(tmp_path: Path) -> None:
    with Gateway(tmp_path).running() as gateway, forwarding(tmp_path, gateway.port) as forwarder:
        forwarder.post()
        wait_until(lambda: forwarder.link.get("status") == 200, "the answer")
        assert forwarder.link["flower"] == ""
        gateway.flower = "1.42.0"

        def noted() -> bool:
            forwarder.post()
            return bool(forwarder.link.get("flower") == "1.42.0")

        wait_until(noted, "the version")
        assert gateway.seen[-1][1][flower_version.TRIED_HEADER] == "1.41 1.42"
        assert "1.42.0 at the coordinator" in Status.of(forwarder.home.home).text()


def test_a_proxy_is_left_out_for_an_ipv6_address_that_no_proxy_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "2001:db8::7")):
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)  # counts first where both are set
    assert proxy_for(Coordinator(site="north", address="[2001:db8::7]:8443"), "") == ""
    assert proxy_for(Coordinator(site="north", address="[2001:db8::8]:8443"), "") == "http://127.0.0.1:1"


@pytest.mark.parametrize(("days", "told"), [(29, True), (0, True), (31, False)])
def test_the_end_of_the_client_certificate_is_told_a_month_before(tmp_path: Path, days: int, told: bool) -> None:
    home = joined(tmp_path, 8443)
    request = pki.make_request(pki.load_key(home.client_key), "north")
    pki.save_certificate(home.client_certificate, pki.issue_client(AUTHORITY, request, "north", days=days))
    said = checks.certificate_end(home)
    assert ("wardround site renew" in said) is told
    if days:
        assert checks.certificate(home) == "", "it still works"


def test_the_forwarders_own_certificate_is_renewed_and_its_users_start_again(tmp_path: Path) -> None:
    home = joined(tmp_path, 8443)
    asked: list[str] = []

    class Noted(Supervisor):
        def restart(self, name: str) -> None:
            asked.append(name)

    serve.renew(home, Noted([]))
    assert asked == []
    node_key = home.node_key.read_bytes()
    ours = pki.make_authority("wardround loopback")
    key = pki.new_key()
    pki.save_key(home.loopback / "server.key", key)
    pki.save_certificate(home.loopback / "server.crt", pki.issue_server(ours, key.public_key(), ["127.0.0.1"], days=20))
    pki.save_certificate(home.loopback / "ca.crt", ours.certificate)
    serve.renew(home, Noted([]))
    assert asked == ["forwarder", "supernode"]
    assert pki.days_left(pki.load_certificate(home.loopback / "server.crt")) > 700
    assert home.node_key.read_bytes() == node_key
    assert not join.renew_loopback(home)
