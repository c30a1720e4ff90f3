"""The doctor: each check is shown a planted fault and finds it, names the fix, and says nothing of any patient."""

import datetime
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from client.approval import approvals
from client.daemon import join
from client.daemon.home import DaemonHome
from client.egress import egress
from client.ledger.ledger import Ledger
from client.site import rules_file
from common.errors import StateError
from common.plan.study_plan import StudyPlan
from common.wire import pki
from deploy.cli import main
from deploy.doctor import Finding, coordinator, hospital, keys, machine, network, run_checks
from deploy.doctor.examine import require_fit
from server.coordinator import invitations
from server.coordinator.home import Home, free_ports

PLAN = StudyPlan.parse('name = "tiny"\n[data]\nimage_size = 28\n[model]\nlatent = 3\nchannels = [4, 8]\nbase = 4\n')


@pytest.fixture
def server(tmp_path: Path) -> Home:
    return Home.init(tmp_path / "server", host=f"127.0.0.1:{free_ports(1)[0]}")


@pytest.fixture
def site(tmp_path: Path, server: Home) -> Path:
    """A hospital that has joined, with a begun ledger and an approved study."""
    home = tmp_path / "site"
    rules_file.init(home, "north")
    daemon = DaemonHome(home)
    join.prepare(daemon)
    invite = invitations.invite(server, "north")
    fingerprint = pki.fingerprint(pki.load_certificate(server.ca_certificate))
    join.install(daemon, invitations.enrol(server, join.answer(daemon, invite, fingerprint=fingerprint)))
    Ledger(home / "ledger.sqlite")
    approvals.approve(home, PLAN, approved_by="steward")
    return home


def of(findings: Iterator[Finding] | list[Finding], check: str = "") -> tuple[str, str]:
    """The worst finding of one check, as (level, words)."""
    order = {"ok": 0, "warning": 1, "failure": 2}
    worst = max((f for f in findings if not check or f.check == check), key=lambda f: order[f.level])
    assert worst.level == "ok" or worst.fix
    return worst.level, worst.finding


def test_a_sound_coordinator_has_no_failure(server: Home) -> None:
    found = run_checks(server.root)
    assert [f for f in found if f.level == "failure" and f.check != "listeners"] == []
    require_fit(server.root)


def test_a_sound_hospital_fails_at_nothing_but_a_coordinator_that_is_down(site: Path) -> None:
    found = run_checks(site)
    assert {f.check for f in found if f.level == "failure"} - {"listeners"} == {"port"}
    require_fit(site)  # the daemon keeps trying, so it may start


def test_a_stranger_who_owns_one_of_our_names_is_found_and_stops_serve(tmp_path: Path) -> None:
    places = {name: machine._place(name) for name in machine.OURS}
    assert of(machine.packages({"common": ["wardround"]}, places))[0] == "ok"
    level, words = of(machine.packages({"common": ["wardround", "evil-utils"]}, places))
    assert (level, "evil-utils" in words) == ("failure", True)
    elsewhere = {**places, "client": tmp_path / "client" / "__init__.py"}
    assert of(machine.packages({}, elsewhere))[0] == "failure"


def test_a_package_that_shadows_ours_in_the_working_folder_stops_the_daemon(site: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow" / "server").mkdir(parents=True)
    (tmp_path / "shadow" / "server" / "__init__.py").write_text("")
    words = "from pathlib import Path; from deploy.doctor.examine import require_fit; require_fit(Path({!r}))"
    shadowed = os.pathsep.join((str(tmp_path / "shadow"), str(Path(__file__).parents[2])))
    done = subprocess.run(
        [sys.executable, "-P", "-c", words.format(str(site))],
        env={**os.environ, "PYTHONPATH": shadowed}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert "StateError: packages: `import server` finds" in done.stderr


def test_a_library_of_another_version_or_none_is_found() -> None:
    import importlib.metadata

    right = {name: importlib.metadata.version(name) for name in machine.CRITICAL}
    assert of(machine.versions(right))[0] == "ok"
    assert of(machine.versions({**right, "flwr": "1.43.0"}))[0] == "failure"
    assert of(machine.versions({name: v for name, v in right.items() if name != "opacus"}))[0] == "failure"


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "failure"), (2 << 30, "warning"), (50 << 30, "ok")])
def test_a_full_disk_is_found(tmp_path: Path, free: int, level: str) -> None:
    assert of(machine.disk(tmp_path, free=free))[0] == level


def test_a_listener_of_ray_or_flower_beyond_loopback_is_found_and_the_gateways_port_is_not(tmp_path: Path) -> None:
    listen = (
        "import socket, sys, time\ns = socket.socket()\ns.bind((sys.argv[2], 0))\ns.listen()\n"
        "print(s.getsockname()[1], flush=True)\ntime.sleep(300)"
    )

    def start(host: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", listen, "raylet", host], stdout=subprocess.PIPE, text=True)

    wide, narrow = start("0.0.0.0"), start("127.0.0.1")
    try:
        assert wide.stdout is not None
        assert narrow.stdout is not None
        with wide.stdout, narrow.stdout:
            port = int(wide.stdout.readline())
            narrow.stdout.readline()
            both = [psutil.Process(wide.pid), psutil.Process(narrow.pid)]
            level, words = of(machine.listeners(processes=both))
            assert (level, f":{port}," in words) == ("failure", True)
            assert of(machine.listeners([port], processes=both))[0] == "ok"
            assert of(machine.listeners(processes=both[1:]))[0] == "ok"
    finally:
        for process in (wide, narrow):
            process.kill()
            process.wait()


def test_a_key_that_others_can_read_and_a_home_that_others_can_write_stop_serve(site: Path) -> None:
    DaemonHome(site).client_key.chmod(0o640)
    level, words = of(run_checks(site), "file modes")
    assert (level, "client.key" in words) == ("failure", True)
    with pytest.raises(StateError, match=r"file modes.*chmod 600"):
        require_fit(site)
    DaemonHome(site).client_key.chmod(0o600)
    site.chmod(0o777)
    assert of(run_checks(site), "file modes")[0] == "failure"


def test_a_damaged_lost_or_rolled_back_ledger_stops_serve(site: Path) -> None:
    ledger = site / "ledger.sqlite"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert of(hospital.ledger(site))[0] == "failure"
    ledger.write_bytes(whole)
    assert of(hospital.ledger(site))[0] == "ok"
    (site / egress.RECEIPT).write_text(json.dumps({"head": "a" * 64}))
    level, words = of(hospital.ledger(site))
    assert (level, "older copy" in words) == ("failure", True)
    for file in site.glob("ledger.*"):
        file.unlink()
    level, words = of(hospital.ledger(site))
    assert (level, "gone" in words) == ("failure", True)
    with pytest.raises(StateError, match="ledger"):
        require_fit(site)


def test_a_torn_or_damaged_egress_log_is_found(site: Path) -> None:
    def write() -> None:
        egress.record(site, kind="hello", payload="0" * 64, size=0, keys=["site"], entry=0)

    write()
    assert of(run_checks(site), "egress log") == ("ok", "whole; 1 lines")
    log = site / egress.LOG
    log.write_bytes(log.read_bytes() + b'{"bytes": 0, "ent')
    level, words = of(hospital.egress(site))
    assert (level, "torn by a crash" in words, "line 2" in words) == ("warning", True, True)
    write()
    assert of(hospital.egress(site)) == (level, words)
    log.write_bytes(b'{"file": "egress.00001.jsonl", "kind": "continued"}\n')
    assert of(hospital.egress(site)) == ("warning", "egress.00001.jsonl and what came before are not here")
    log.write_bytes(b"damaged\n")
    assert of(hospital.egress(site)) == ("failure", "egress.jsonl line 1 cannot be read")


def test_approvals_that_are_missing_paused_or_unreadable_are_found(site: Path) -> None:
    assert of(hospital.approved(site)) == ("ok", "active: tiny")
    approvals.pause(site, None, by="steward")
    assert of(hospital.approved(site))[0] == "warning"
    approvals.resume(site, None, by="steward")
    approvals.leave(site, PLAN.digest, by="steward")
    assert of(hospital.approved(site))[0] == "warning"
    (site / "approved" / PLAN.digest / "approval.json").write_text("{")
    assert of(hospital.approved(site))[0] == "failure"


def test_an_approved_plan_that_the_policy_refuses_by_now_is_found(site: Path) -> None:
    plan = StudyPlan.parse('name = "described"\n[data]\nlabels = ["a", "b"]\nlabel_attribute = "StudyDescription"\n')
    approvals.approve(site, plan, approved_by="steward")
    refused, active = hospital.approved(site)
    assert (refused.level, active.level) == ("warning", "ok")
    assert "limits.label_attributes" in refused.finding


def test_too_little_memory_for_an_approved_plan_and_a_missing_gpu_are_found(site: Path) -> None:
    assert of(hospital.compute(site, memory_mb=100_000))[0] == "ok"
    level, words = of(hospital.compute(site, memory_mb=64))
    assert (level, "'tiny'" in words) == ("warning", True)
    rules = (site / "site.toml").read_text()
    (site / "site.toml").write_text(rules.replace('device = "auto"', 'device = "cuda"'))
    import torch

    if not torch.cuda.is_available():
        assert of(hospital.compute(site, memory_mb=100_000))[0] == "failure"


def test_a_certificate_that_is_foreign_expiring_or_for_another_key_is_found(site: Path, tmp_path: Path) -> None:
    home = DaemonHome(site)
    assert of(hospital.certificate(home))[0] == "ok"
    stranger = pki.make_authority("somebody else")
    request = pki.make_request(pki.load_key(home.client_key), "north")
    pki.save_certificate(home.client_certificate, pki.issue_client(stranger, request, "north"))
    level, _ = of(hospital.certificate(home))
    assert level == "failure"
    soon, root = tmp_path / "soon.crt", tmp_path / "root.crt"
    pki.save_certificate(root, stranger.certificate)
    pki.save_certificate(soon, pki.issue_client(stranger, request, "north", days=5))
    assert of(keys.certificate("certificate", soon, root, renew="renew", key=home.client_key))[0] == "warning"
    pki.save_key(tmp_path / "other.key", pki.new_key())
    assert of(keys.certificate("certificate", soon, root, renew="renew", key=tmp_path / "other.key"))[0] == "failure"


@pytest.mark.parametrize(
    ("skew", "level"), [(0.0, "ok"), (-30.0, "ok"), (90.0, "warning"), (-299.0, "warning"), (301.0, "failure")]
)
def test_a_clock_that_is_off_is_found_before_flower_refuses_the_node(skew: float, level: str) -> None:
    theirs = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    date = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert of(network.clock(date, now=lambda: theirs.timestamp() + skew))[0] == level


def test_an_ageing_authority_is_found(tmp_path: Path) -> None:
    for days, level in ((20, "warning"), (4000, "ok")):
        pki.save_certificate(tmp_path / "ca.crt", pki.make_authority("x", days=days).certificate)
        assert of(keys.authority(tmp_path / "ca.crt"))[0] == level


def test_a_taken_port_and_a_missing_or_foreign_gateway_certificate_stop_the_coordinator(server: Home) -> None:
    assert of(coordinator.ports(server))[0] == "ok"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.settings.superlink_port))
        taken.listen()
        level, words = of(coordinator.ports(server))
        assert (level, "SuperLink" in words) == ("failure", True)
        with pytest.raises(StateError, match="ports"):
            require_fit(server.root)
    other = pki.make_authority("somebody else")
    leaf = pki.issue_server(other, pki.load_key(server.root / "tls" / "gateway.key").public_key(), ["127.0.0.1"])
    pki.save_certificate(server.root / "tls" / "gateway.crt", leaf)
    assert of(run_checks(server.root), "gateway certificate")[0] == "failure"


def test_a_paused_or_broken_study_and_a_broken_record_are_found(server: Home) -> None:
    folder = server.study("tiny")
    (folder / "checkpoints" / "00001").mkdir(parents=True)
    (folder / "plan.toml").write_text('name = "tiny"\n')
    assert of(coordinator.studies(server))[0] == "failure"  # a checkpoint with nothing in it
    (folder / "paused.json").write_text('{"reason": "QuorumLost", "message": "round 2 got 1", "time": ""}')
    assert of(coordinator.studies(server)) == ("warning", "tiny is paused: round 2 got 1")
    (server.nodes / "north.json").write_text("{")
    assert of(coordinator.sites(server))[0] == "failure"


def test_the_command_prints_the_table_or_json_and_its_exit_code_tells_the_worst(site: Path, tmp_path: Path) -> None:
    server = Home.init(tmp_path / "new", host=f"127.0.0.1:{free_ports(1)[0]}")  # nobody is enrolled yet
    run = CliRunner().invoke(main, ["doctor", "--home", str(site)])
    assert run.exit_code == 9  # the coordinator is down
    assert "how to fix" in run.output
    told = CliRunner().invoke(main, ["doctor", "--home", str(server.root), "--json"])
    assert (told.exit_code, json.loads(told.output)["level"]) == (8, "warning")
    nothing = CliRunner().invoke(main, ["doctor", "--home", str(site.parent)])
    assert (nothing.exit_code, "neither" in nothing.output) == (5, True)


def test_serve_runs_the_doctor_first_on_both_sides(site: Path, server: Home) -> None:
    DaemonHome(site).node_key.chmod(0o644)
    (server.root / "ca" / "ca.key").chmod(0o644)
    for side, home in (("site", site), ("server", server.root)):
        refused = CliRunner().invoke(main, [side, "serve", "--home", str(home)])
        assert refused.exit_code == StateError.exit_code
        assert "file modes" in refused.output


def test_the_doctor_before_serve_loads_no_model_library(site: Path, server: Home) -> None:
    words = (
        "import sys; from pathlib import Path; from deploy.doctor.examine import require_fit\n"
        "require_fit(Path(sys.argv[1])); require_fit(Path(sys.argv[2])); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", words, site, server.root], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout == "False\n", done.stderr
