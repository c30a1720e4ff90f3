"""The `server` commands as an operator types them: results in words and in JSON, refusals by exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.errors import MessageRefused, OutputInUse, StateError
from common.secure.masks import new_private, public_of
from common.secure.roster import Member, Roster
from common.wire import pki
from common.wire.enrolment import Invite, Welcome
from common.wire.signing import Key
from deploy.cli import main
from server.study.release import SIGNING_KEY
from tests.server.coordinators import request


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert run("init", tmp_path / "home", "--host", "hub.example.org:9443", "--san", "10.1.2.3").exit_code == 0
    return tmp_path / "home"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["server", *map(str, arguments)])


def sites(root: Path) -> dict[str, Any]:
    """What `status --json` says of each site."""
    found: dict[str, Any] = json.loads(run("status", "--home", root, "--json").stdout)["sites"]
    return found


def test_init_says_the_fingerprint_that_invite_and_status_repeat(root: Path, tmp_path: Path) -> None:
    expected = pki.fingerprint(pki.load_certificate(root / "ca" / "ca.crt"))
    invited = run("invite", "north", "--home", root, "--out", tmp_path / "invite.json")
    assert expected in invited.output
    status = run("status", "--home", root)
    assert status.exit_code == StateError.exit_code
    assert "not running" in status.output
    assert expected in status.output
    assert "north: invited" in status.output
    assert pki.hosts(pki.load_certificate(root / "tls" / "gateway.crt")) == {"hub.example.org", "10.1.2.3"}


def test_a_gateway_for_the_world_listens_everywhere_and_one_for_loopback_on_loopback(tmp_path: Path) -> None:
    for host, expected in (("hub.example.org", "0.0.0.0:8443"), ("127.0.0.1:9000", "127.0.0.1:9000")):
        root = tmp_path / host.replace(":", "-")
        run("init", root, "--host", host)
        assert f'listen = "{expected}"' in (root / "server.toml").read_text()


def test_the_files_of_an_enrolment_are_written_where_they_were_asked_for(root: Path, tmp_path: Path) -> None:
    papers = {name: tmp_path / f"{name}.json" for name in ("invite", "request", "welcome")}
    run("invite", "north", "--home", root, "--out", papers["invite"])
    invite, key = Invite.load(papers["invite"]), pki.new_key()
    assert invite.address == "hub.example.org:9443"
    request(invite, pki.new_key(), key).save(papers["request"])
    done = run("enrol", papers["request"], "--home", root, "--out", papers["welcome"], "--json")
    assert json.loads(done.stdout) == {"site": "north", "welcome": str(papers["welcome"])}
    welcome = Welcome.load(papers["welcome"])
    assert pki.certificate_key(pki.read_certificate(welcome.certificate)) == key.public_key()
    again = run("enrol", papers["request"], "--home", root, "--json")
    assert again.exit_code == MessageRefused.exit_code
    assert json.loads(again.stdout)["error"] == "MessageRefused"
    assert sites(root)["north"] == {
        "state": "enrolled", "connection": "", "verdict_key": True, "flower": "", "two_places": "",
    }  # fmt: skip
    assert "  north: enrolled\n" in run("status", "--home", root).output
    record = root / "nodes" / "north.json"
    whole = record.read_text()
    record.write_text(json.dumps({**json.loads(whole), "verdict_key": ""}))
    assert sites(root)["north"] == {
        "state": "enrolled", "connection": "", "verdict_key": False, "flower": "", "two_places": "",
    }  # fmt: skip
    assert "north: enrolled (no verdict key: `wardround site renew` there)\n" in run("status", "--home", root).output
    record.write_text(whole[:-9])
    assert sites(root)["north"]["verdict_key"] is None
    assert "north: record damaged: restore it\n" in run("status", "--home", root).output
    record.write_text(whole)
    assert run("revoke", "north", "--home", root).output == "north is revoked\n"
    assert "north: revoked" in run("status", "--home", root).output


def test_a_file_that_cannot_be_written_is_told_before_anything_is_changed(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "file").write_text("")
    for place in (folder, tmp_path / "file" / "invite.json"):
        refused = run("invite", "north", "--home", root, "--out", place)
        assert refused.exit_code == StateError.exit_code
        assert "nothing was changed" in refused.output
    assert "north" not in sites(root)
    run("invite", "north", "--home", root, "--out", tmp_path / "invite.json")
    record = (root / "nodes" / "north.json").read_bytes()
    assert run("invite", "north", "--home", root, "--out", folder).exit_code == StateError.exit_code
    request(Invite.load(tmp_path / "invite.json"), pki.new_key(), pki.new_key()).save(tmp_path / "request.json")
    assert run("enrol", tmp_path / "request.json", "--home", root, "--out", folder).exit_code == StateError.exit_code
    assert (root / "nodes" / "north.json").read_bytes() == record, "the invite is as good as before"
    assert run("enrol", tmp_path / "request.json", "--home", root, "--out", tmp_path / "w.json").exit_code == 0


def test_an_invite_without_the_authority_leaves_the_older_invite_good(root: Path, tmp_path: Path) -> None:
    run("invite", "north", "--home", root, "--out", tmp_path / "invite.json")
    record = (root / "nodes" / "north.json").read_bytes()
    (root / "ca" / "ca.key").rename(tmp_path / "ca.key")
    assert run("invite", "north", "--home", root, "--out", tmp_path / "two.json").exit_code == StateError.exit_code
    assert (root / "nodes" / "north.json").read_bytes() == record


def test_a_study_that_is_refused_leaves_no_folder(root: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "one"\n[training]\nrounds = 1\nlocal_steps = 1\n[privacy]\nphases = ["sgd"]\n')
    (tmp_path / "images.npz").write_bytes(b"")
    refused = run("prepare", plan, "--home", root, "--warm-data", tmp_path / "images.npz")
    assert refused.exit_code == 3
    assert list((root / "studies").iterdir()) == []


def test_what_cannot_be_done_ends_with_its_exit_code_and_what_to_do(root: Path, tmp_path: Path) -> None:
    assert run("init", root, "--host", "x").exit_code == OutputInUse.exit_code
    nowhere = run("status", "--home", tmp_path / "nowhere")
    assert nowhere.exit_code == StateError.exit_code
    assert "wardround server init" in nowhere.output
    assert run("revoke", "nobody", "--home", root).exit_code == StateError.exit_code
    assert run("invite", "../etc", "--home", root).exit_code == StateError.exit_code
    unserved = run("resume", "nothing", "--home", root)
    assert unserved.exit_code == StateError.exit_code
    (root / "server.toml").write_text('address = "x"')
    assert run("status", "--home", root).exit_code == StateError.exit_code


def test_start_without_a_running_coordinator_says_so_and_keeps_the_prepared_study(root: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "one"\n[training]\nrounds = 1\nlocal_steps = 1\n[privacy]\nphases = ["sgd"]\n')
    done = run("start", plan, "--home", root)
    assert done.exit_code == StateError.exit_code
    assert "wardround server serve" in done.output
    prepared = run("prepare", plan, "--home", root)
    assert str(root.resolve() / "studies" / "one") in prepared.output
    assert "one: prepared, 0 rounds saved" in run("status", "--home", root).output
    assert Key.at(root / "studies" / "one" / SIGNING_KEY).public == Key.at(root / "signing" / "coordinator.key").public


def test_a_study_that_shares_its_noise_takes_the_roster_of_its_plan_and_no_other(root: Path, tmp_path: Path) -> None:
    rosters = []
    for names in (("east", "north", "south"), ("east", "north", "west")):
        members = []
        for name in names:
            key = Key.at(tmp_path / f"{name}.key")
            box = public_of(new_private()).hex()
            members.append(Member(site=name, legal=name, identity=key.public, box=box).signed(key))
        rosters.append(Roster.of(members))
        rosters[-1].save(tmp_path / f"{len(rosters)}.json")
    plan = tmp_path / "plan.toml"
    text = 'name = "one"\n[training]\nrounds = 0\n[privacy]\nphases = ["moments"]\n[aggregation]\nsecure = true\n'
    text += "hospitals = 3\ncolluding = 1\nmin_sites = 3\n"
    plan.write_text(text)
    assert run("prepare", plan, "--home", root, "--roster", tmp_path / "1.json").exit_code == 3
    plan.write_text(f'{text}roster = "{rosters[0].digest}"\n')
    for options, why in (((), "Give the roster"), (("--roster", tmp_path / "2.json"), "is not the roster")):
        refused = run("prepare", plan, "--home", root, *options)
        assert refused.exit_code == 3
        assert why in refused.output
    assert list((root / "studies").iterdir()) == []
    assert run("prepare", plan, "--home", root, "--roster", tmp_path / "1.json").exit_code == 0
    assert Roster.load(root / "studies" / "one" / "roster.json") == rosters[0]
    assert run("prepare", plan, "--home", root).exit_code == 0
