"""Enrolment at the coordinator: a token works once, a proof is needed, keys are each site's own."""

import dataclasses
import datetime
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509

from common.errors import MessageRefused, OutputInUse, StateError
from common.wire import pki
from common.wire.enrolment import Welcome
from server.coordinator import invitations, nodes, studies
from server.coordinator.home import Home
from server.study import enrolled, signers
from tests.server.coordinators import Visitor, make_home, request
from tests.server.sites import PLAN


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "coordinator")


def test_every_secret_of_a_new_home_is_the_operators_alone(home: Home) -> None:
    for path in home.root.rglob("*"):
        if path.is_dir() or path.suffix in (".key", ".secret"):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert not stat.S_IMODE(home.root.stat().st_mode) & 0o077


def test_init_on_an_existing_home_refuses_and_changes_nothing(home: Home) -> None:
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    with pytest.raises(OutputInUse, match="never made twice"):
        Home.init(home.root, host="localhost:1")
    assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == before


def test_an_upgrade_adds_what_is_missing_and_never_remakes_the_authority(home: Home) -> None:
    authority = (home.root / "ca" / "ca.crt").read_bytes()
    for name in ("signing/coordinator.key", "tls/superlink.crt", "secrets/superexec.secret"):
        (home.root / name).unlink()
    assert set(home.complete()) == {"signing/coordinator.key", "tls/superlink.crt", "secrets/superexec.secret"}
    assert home.complete() == []
    assert (home.root / "ca" / "ca.crt").read_bytes() == authority


@pytest.mark.parametrize("lost", ["ca.key", "ca.crt"])
def test_a_lost_authority_is_asked_for_and_not_made_anew(home: Home, lost: str) -> None:
    (home.root / "ca" / lost).unlink()
    with pytest.raises(StateError, match="Restore"):
        home.complete()
    assert not (home.root / "ca" / lost).exists()


def test_server_certificates_that_expire_soon_or_lack_a_name_are_renewed_with_their_key(home: Home) -> None:
    ca = invitations.authority.load(home.root / "ca")
    key = (home.root / "tls" / "gateway.key").read_bytes()
    old = pki.issue_server(ca, pki.load_key(home.root / "tls" / "gateway.key").public_key(), ["127.0.0.1"], days=20)
    pki.save_certificate(home.root / "tls" / "gateway.crt", old)
    assert home.complete() == ["tls/gateway.crt"]
    assert pki.days_left(pki.load_certificate(home.root / "tls" / "gateway.crt")) > 700
    assert (home.root / "tls" / "gateway.key").read_bytes() == key
    renamed = Home(home.root, dataclasses.replace(home.settings, names=("127.0.0.1", "hub.example.org")))
    assert renamed.complete() == ["tls/gateway.crt"]


def test_the_three_legs_end_with_a_certificate_of_our_authority_for_that_key(home: Home) -> None:
    visitor = Visitor.enrolled(home, "north")
    certificate = pki.read_certificate(visitor.welcome.certificate)
    pki.require_issued(certificate, pki.load_certificate(home.ca_certificate), what="certificate")
    assert pki.site_of(certificate) == "north"
    assert pki.certificate_key(certificate) == visitor.client_key.public_key()


def test_an_invite_works_once(home: Home) -> None:
    invite = invitations.invite(home, "north")
    invitations.enrol(home, request(invite, pki.new_key(), pki.new_key()))
    with pytest.raises(MessageRefused, match="used or withdrawn"):
        invitations.enrol(home, request(invite, pki.new_key(), pki.new_key()))


def test_an_invite_that_expired_is_refused(home: Home) -> None:
    invite = invitations.invite(home, "north", days=-1 / 86400)
    with pytest.raises(MessageRefused, match="expired"):
        invitations.enrol(home, request(invite, pki.new_key(), pki.new_key()))


def test_a_new_invite_ends_the_old_one(home: Home) -> None:
    old = invitations.invite(home, "north")
    invitations.invite(home, "north")
    with pytest.raises(MessageRefused, match="not proven"):
        invitations.enrol(home, request(old, pki.new_key(), pki.new_key()))


def test_a_request_without_the_token_leaves_the_invite_usable(home: Home) -> None:
    invite = invitations.invite(home, "north")
    forged = dataclasses.replace(invite, token="guessed")
    with pytest.raises(MessageRefused, match="not proven"):
        invitations.enrol(home, request(forged, pki.new_key(), pki.new_key()))
    with pytest.raises(MessageRefused, match="not proven"):
        invitations.enrol(home, request(dataclasses.replace(invite, token=""), pki.new_key(), pki.new_key()))
    assert invitations.enrol(home, request(invite, pki.new_key(), pki.new_key())).site == "north"


def test_a_site_that_was_not_invited_and_another_sites_token_are_refused(home: Home) -> None:
    invite = invitations.invite(home, "north")
    invitations.invite(home, "south")
    with pytest.raises(MessageRefused, match="not invited"):
        invitations.enrol(home, request(dataclasses.replace(invite, site="west"), pki.new_key(), pki.new_key()))
    with pytest.raises(MessageRefused, match="not proven"):
        invitations.enrol(home, request(dataclasses.replace(invite, site="south"), pki.new_key(), pki.new_key()))


def test_a_certificate_request_that_its_key_did_not_sign_is_refused(home: Home) -> None:
    invite = invitations.invite(home, "north")
    mine = pki.make_request(pki.new_key(), "north")
    der = bytearray(mine.public_bytes(pki.serialization.Encoding.DER))
    der[-1] ^= 1
    broken = pki.pem(x509.load_der_x509_csr(bytes(der)))
    paper = dataclasses.replace(request(invite, pki.new_key(), pki.new_key()), csr=broken)
    with pytest.raises(StateError, match="not signed by the key"):
        invitations.enrol(home, paper.proven(invite.token))


def test_two_sites_cannot_have_one_node_key(home: Home) -> None:
    north = Visitor.enrolled(home, "north")
    invite = invitations.invite(home, "south")
    with pytest.raises(MessageRefused, match="is that of 'north'"):
        invitations.enrol(home, request(invite, north.node_key, pki.new_key()))


def test_a_revoked_site_is_on_the_revocation_list_and_comes_back_only_with_new_keys(home: Home) -> None:
    north = Visitor.enrolled(home, "north")
    invitations.revoke(home, "north")
    listed = x509.load_pem_x509_crl(home.revoked.read_bytes())
    serial = pki.read_certificate(north.welcome.certificate).serial_number
    assert listed.get_revoked_certificate_by_serial_number(serial) is not None
    with pytest.raises(MessageRefused, match="not invited"):
        invitations.enrol(home, request(dataclasses.replace(INVITE_OF(home, north)), pki.new_key(), pki.new_key()))
    again = invitations.invite(home, "north")
    with pytest.raises(MessageRefused, match="was revoked"):
        invitations.enrol(home, request(again, north.node_key, pki.new_key()))
    assert invitations.enrol(home, request(again, pki.new_key(), pki.new_key())).site == "north"


def INVITE_OF(home: Home, visitor: Visitor) -> invitations.Invite:
    """The invite a site once had; its token is spent."""
    return invitations.Invite(
        site=visitor.site, address=home.settings.address, ca_certificate=visitor.welcome.ca_certificate,
        token="spent", expires=datetime.datetime.now(datetime.UTC).isoformat(),
    )  # fmt: skip


def test_a_renewal_keeps_the_old_certificate_until_the_next_and_is_refused_from_another_key(home: Home) -> None:
    north = Visitor.enrolled(home, "north")
    asked = invitations.JoinRequest(
        site="north",
        node_key=pki.openssh(north.node_key.public_key()),
        verdict_key=recorded(home, "north").verdict_key,
        csr=pki.pem(pki.make_request(pki.new_key(), "north")),
    )
    with pytest.raises(MessageRefused, match="not signed"):
        invitations.enrol(home, asked.signed(pki.new_key()))
    other = dataclasses.replace(asked, node_key=pki.openssh(pki.new_key().public_key()))
    with pytest.raises(MessageRefused, match="keeps the node key"):
        invitations.enrol(home, other.signed(north.client_key))
    welcome: Welcome = invitations.enrol(home, asked.signed(north.client_key))
    node = nodes.find(home.nodes, "north")
    assert node is not None
    assert [node.certificate, node.previous] == [welcome.certificate, north.welcome.certificate]
    assert node.revoked_serials == ()


def recorded(home: Home, site: str) -> nodes.Node:
    node = nodes.find(home.nodes, site)
    assert node is not None
    return node


def renewal(home: Home, visitor: Visitor, verdict_key: str) -> invitations.JoinRequest:
    return invitations.JoinRequest(
        site=visitor.site,
        node_key=pki.openssh(visitor.node_key.public_key()),
        verdict_key=verdict_key,
        csr=pki.pem(pki.make_request(pki.new_key(), visitor.site)),
    ).signed(visitor.client_key)


def test_the_verdict_key_is_recorded_with_the_site_and_read_by_every_study(home: Home, tmp_path: Path) -> None:
    invite = invitations.invite(home, "north")
    invitations.enrol(home, request(invite, pki.new_key(), pki.new_key(), verdict_key="5a" * 32))
    (tmp_path / "plan.toml").write_text(PLAN)
    folder = studies.prepare(home, tmp_path / "plan.toml")
    assert signers.load(folder) == {"north": "5a" * 32}
    Visitor.enrolled(home, "late")
    assert set(signers.load(folder)) == {"north", "late"}
    invitations.revoke(home, "north")
    assert signers.load(folder)["north"] == "5a" * 32  # what it judged before stays what it was


def test_a_study_knows_who_is_enrolled_when_it_starts_and_not_who_is_invited_or_revoked(
    home: Home, tmp_path: Path
) -> None:
    Visitor.enrolled(home, "north")
    Visitor.enrolled(home, "south")
    invitations.invite(home, "east")
    (tmp_path / "plan.toml").write_text(PLAN)
    folder = studies.prepare(home, tmp_path / "plan.toml")
    assert enrolled.load(folder) == {"north", "south"}
    invitations.revoke(home, "north")
    studies.prepare(home, tmp_path / "plan.toml")
    assert enrolled.load(folder) == {"south"}


@pytest.mark.parametrize("key", ["", "5A" * 32, "5a" * 31, "../key"])
def test_a_request_without_a_proper_verdict_key_is_refused_and_the_invite_stays_usable(home: Home, key: str) -> None:
    invite = invitations.invite(home, "north")
    plain = request(invite, pki.new_key(), pki.new_key())
    with pytest.raises(MessageRefused, match="holds no verdict key"):
        invitations.enrol(home, dataclasses.replace(plain, verdict_key=key).proven(invite.token))
    assert invitations.enrol(home, plain).site == "north"


def test_two_sites_never_share_a_verdict_key(home: Home) -> None:
    Visitor.enrolled(home, "north")
    invite = invitations.invite(home, "south")
    copied = request(invite, pki.new_key(), pki.new_key(), verdict_key=recorded(home, "north").verdict_key)
    with pytest.raises(MessageRefused, match="another site's"):
        invitations.enrol(home, copied)


def test_a_renewal_may_not_change_the_verdict_key_but_adds_one_that_is_missing(home: Home) -> None:
    north = Visitor.enrolled(home, "north")
    with pytest.raises(MessageRefused, match="keeps the verdict key"):
        invitations.enrol(home, renewal(home, north, "5b" * 32))
    old = home.nodes / "north.json"
    record = json.loads(old.read_text())
    del record["verdict_key"]  # a record of before these keys
    old.write_text(json.dumps(record))
    assert recorded(home, "north").verdict_key == ""
    invitations.enrol(home, renewal(home, north, "5b" * 32))
    assert recorded(home, "north").verdict_key == signers.load(home.root)["north"] == "5b" * 32


def test_a_damaged_record_is_named_and_stops_no_other_site(home: Home) -> None:
    Visitor.enrolled(home, "north")
    (home.nodes / "south.json").write_text("{")
    with pytest.raises(StateError, match=r"south\.json"):
        nodes.find(home.nodes, "south")
    assert nodes.all_nodes(home.nodes)[1] == ["south"]
    Visitor.enrolled(home, "west")
    found = nodes.find(home.nodes, "north")
    assert found is not None
    assert found.state == "enrolled"
