"""Joining by files: what is checked before anything is kept, and that private keys never leave."""

import dataclasses
import datetime
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from client.cohort.identity import SIGNING_KEY
from client.daemon import join, serve
from client.daemon.cli import COMMANDS
from client.daemon.home import Coordinator, DaemonHome, client_context
from client.site.rules_file import init
from common.errors import HomeMoved, MessageRefused, StateError
from common.wire import pki
from common.wire.enrolment import Invite, JoinRequest, Welcome
from common.wire.signing import Key
from deploy.cli import main

AUTHORITY = pki.make_authority("coordinator")
OTHER = pki.make_authority("somebody else")
FINGERPRINT = pki.fingerprint(AUTHORITY.certificate)
TOKEN = "0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path) -> DaemonHome:
    init(tmp_path / "north", "north")
    return DaemonHome(tmp_path / "north")


def invite(**changes: str) -> Invite:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    plain = Invite(
        site="north",
        address="127.0.0.1:8443",
        ca_certificate=pki.pem(AUTHORITY.certificate),
        token=TOKEN,
        expires=later.isoformat(),
    )
    return dataclasses.replace(plain, **changes)


def welcome(request: JoinRequest, authority: pki.Authority = AUTHORITY, *, site: str = "north") -> Welcome:
    certificate = pki.issue_client(authority, pki.read_request(request.csr), site)
    return Welcome(
        site=site,
        address="127.0.0.1:8443",
        certificate=pki.pem(certificate),
        ca_certificate=pki.pem(authority.certificate),
    )


def files(home: DaemonHome) -> set[str]:
    return {str(path.relative_to(home.home)) for path in home.home.rglob("*") if path.is_file()}


def test_the_three_papers_end_in_a_certificate_that_opens_the_gateway(home: DaemonHome) -> None:
    request = join.answer(home, invite(), fingerprint=FINGERPRINT)
    request.require_proof(TOKEN)
    join.install(home, welcome(request))
    assert client_context(home)
    assert Coordinator.load(home) == Coordinator(site="north", address="127.0.0.1:8443")
    assert not home.next_key.exists()


def test_private_keys_are_for_their_owner_and_in_no_paper(home: DaemonHome) -> None:
    request = join.answer(home, invite(), fingerprint=FINGERPRINT)
    join.install(home, welcome(request))
    sent = json.dumps(request.to_dict())
    for path in (home.node_key, home.client_key, home.loopback / "server.key", home.secret):
        assert path.stat().st_mode & 0o777 == 0o600
        assert all(line not in sent for line in path.read_text().splitlines())
    assert "PRIVATE" not in sent
    assert (home.identity).stat().st_mode & 0o077 == 0


def test_a_request_that_cannot_be_written_is_told_before_anything_is_kept(home: DaemonHome, tmp_path: Path) -> None:
    invite().save(tmp_path / "invite.json")
    (tmp_path / "folder").mkdir()
    before = files(home)
    asked = [
        "join", str(tmp_path / "invite.json"), "--home", str(home.home), "--fingerprint", FINGERPRINT,
        "--out", str(tmp_path / "folder"),
    ]  # fmt: skip
    done = CliRunner().invoke(main, ["site", *asked])
    assert done.exit_code == StateError.exit_code
    assert "nothing was changed" in done.output
    assert files(home) == before


@pytest.mark.parametrize(
    ("paper", "fingerprint"),
    [
        (invite(), pki.fingerprint(OTHER.certificate)),
        (invite(ca_certificate=pki.pem(OTHER.certificate)), FINGERPRINT),
        (invite(), ""),
        (invite(site="south"), FINGERPRINT),
        (invite(expires="2020-01-01T00:00:00+00:00"), FINGERPRINT),
        (invite(expires="soon"), FINGERPRINT),
        (invite(expires="2999-01-01"), FINGERPRINT),
    ],
    ids=["other fingerprint", "other authority", "no fingerprint", "other site", "expired", "no date", "no time zone"],
)
def test_a_wrong_foreign_or_old_invite_leaves_nothing_behind(home: DaemonHome, paper: Invite, fingerprint: str) -> None:
    before = files(home)
    with pytest.raises(MessageRefused):
        join.answer(home, paper, fingerprint=fingerprint)
    assert files(home) == before


@pytest.mark.parametrize("address", ["127.0.0.1", "a:b", ":1", "host:99999", "user@host:1", "host/path:1"])
def test_an_invite_without_a_plain_address_is_refused(home: DaemonHome, address: str) -> None:
    with pytest.raises(StateError):
        join.answer(home, invite(address=address), fingerprint=FINGERPRINT)
    assert not home.authority.exists()


def test_an_authority_that_is_pinned_is_not_replaced_by_another_invite(home: DaemonHome) -> None:
    join.answer(home, invite(), fingerprint=FINGERPRINT)
    other = invite(ca_certificate=pki.pem(OTHER.certificate))
    with pytest.raises(StateError, match="another coordinator"):
        join.answer(home, other, fingerprint=pki.fingerprint(OTHER.certificate))
    assert pki.fingerprint(pki.load_certificate(home.authority)) == FINGERPRINT


def test_a_welcome_must_be_of_the_pinned_authority_for_this_site_and_key(home: DaemonHome) -> None:
    request = join.answer(home, invite(), fingerprint=FINGERPRINT)
    stranger = JoinRequest(
        site="north",
        node_key=request.node_key,
        verdict_key=request.verdict_key,
        csr=pki.pem(pki.make_request(pki.new_key(), "north")),
    )
    forged = dataclasses.replace(welcome(request, OTHER), ca_certificate=pki.pem(AUTHORITY.certificate))
    for paper in (
        welcome(request, OTHER),
        forged,
        welcome(request, site="south"),
        dataclasses.replace(welcome(request, site="south"), site="north"),
        welcome(stranger),
    ):
        with pytest.raises((MessageRefused, StateError)):
            join.install(home, paper)
        assert not home.client_certificate.exists()
    join.install(home, welcome(request))


def test_asking_twice_keeps_one_key_so_that_either_welcome_fits(home: DaemonHome) -> None:
    first = join.answer(home, invite(), fingerprint=FINGERPRINT)
    second = join.answer(home, invite(), fingerprint=FINGERPRINT)
    join.install(home, welcome(first))
    join.install(home, welcome(second))


def test_a_renewal_is_signed_by_the_key_in_use_and_replaces_it(home: DaemonHome) -> None:
    join.install(home, welcome(join.answer(home, invite(), fingerprint=FINGERPRINT)))
    old = pki.load_certificate(home.client_certificate)
    request = join.renew(home)
    request.require_signature(old)
    assert client_context(home)  # the old one works until the new one is there
    join.install(home, welcome(request))
    assert pki.load_certificate(home.client_certificate).serial_number != old.serial_number
    assert client_context(home)
    with pytest.raises(MessageRefused):
        dataclasses.replace(request, node_key=pki.openssh(pki.new_key().public_key())).require_signature(old)


def test_what_is_there_is_never_made_again(home: DaemonHome) -> None:
    assert join.prepare(home)
    before = {path: (home.home / path).read_bytes() for path in files(home)}
    assert not join.prepare(home)
    assert {path: (home.home / path).read_bytes() for path in files(home)} == before


def test_the_loopback_authority_has_no_key_left(home: DaemonHome) -> None:
    join.prepare(home)
    assert {path.name for path in home.loopback.iterdir()} == {"ca.crt", "server.crt", "server.key"}
    server = pki.load_certificate(home.loopback / "server.crt")
    pki.require_issued(server, pki.load_certificate(home.loopback / "ca.crt"), what="loopback")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["127.0.0.1"]


def test_the_commands_say_what_to_do_next_and_refuse_a_wrong_fingerprint(tmp_path: Path) -> None:
    commands = {command.name: command for command in COMMANDS}
    init(tmp_path / "north", "north")
    invite().save(tmp_path / "north.invite.json")
    asked = ["north.invite.json", "--home", "north", "--json"]
    runner = CliRunner()
    with runner.isolated_filesystem(tmp_path):
        for name in ("north", "north.invite.json"):
            Path(name).symlink_to(tmp_path / name)
        wrong = runner.invoke(commands["join"], [*asked, "--fingerprint", "0" * 64])
        assert isinstance(wrong.exception, MessageRefused)
        typed = runner.invoke(commands["join"], asked, input=f"{FINGERPRINT}\n")
        assert typed.exit_code == 0, typed.output
        request = JoinRequest.load(Path("north.request.json"))
        welcome(request).save(Path("north.welcome.json"))
        done = runner.invoke(commands["join"], ["north.welcome.json", "--home", "north", "--json"])
        assert json.loads(done.stdout)["state"] == "joined"
        stopped = runner.invoke(commands["status"], ["--home", "north", "--json"])
        assert stopped.exit_code == StateError.exit_code
        assert json.loads(stopped.stdout)["running"] is False


def test_the_request_names_the_key_that_verdicts_are_signed_with_and_keeps_it(home: DaemonHome) -> None:
    first = join.answer(home, invite(), fingerprint=FINGERPRINT)
    assert first.verdict_key == Key.at(home.home / SIGNING_KEY).public
    join.install(home, welcome(first))
    assert join.renew(home).verdict_key == first.verdict_key


@pytest.fixture
def umask() -> Iterator[None]:
    """Put the umask back that `serve` sets for all that it starts."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_serve_refuses_a_copy_of_a_joined_home_and_changes_nothing_there(home: DaemonHome) -> None:
    join.install(home, welcome(join.answer(home, invite(), fingerprint=FINGERPRINT)))
    twin = Path(shutil.copytree(home.home, home.home.with_name("copy"), symlinks=True))
    (twin / "site.toml").chmod(0o640)
    with pytest.raises(HomeMoved, match="Nothing was changed"):
        serve.serve(twin)
    assert (twin / "site.toml").stat().st_mode & 0o777 == 0o640, "rights included"
