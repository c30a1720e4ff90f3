"""A home is worked in by its owner alone, and a user whom the system cannot name is no traceback."""

import json
import os
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from client.admission import quarantine
from client.approval import approvals
from client.daemon import checks
from client.daemon.home import DaemonHome
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import LedgerStore
from common.errors import NotPermitted, StateError
from common.host.owner import require_owner, user_name
from deploy.cli import main
from deploy.doctor import hospital as doctor
from deploy.doctor.examine import require_fit
from server.coordinator.home import Home, free_ports
from tests.client.hospitals import build_home, set_policy, tiny_plan

PLAN = tiny_plan()
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
DAEMON = 54321
"""A user that no system knows."""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A home that belongs to another user than the one who runs this, as under sudo."""
    home = build_home(tmp_path / "home", PLAN)
    Ledger(home / "ledger.sqlite")
    for path in [home, *home.rglob("*")]:
        os.chown(path, DAEMON, DAEMON)
    return home


def owners(home: Path) -> dict[str, int]:
    return {str(path.relative_to(home)): path.stat().st_uid for path in home.rglob("*")}


@AS_ROOT
@pytest.mark.parametrize(
    "command",
    [
        ("budget",), ("pause", "--by", "a"), ("resume", "--by", "a"), ("leave", "tiny", "--by", "a"),
        ("withdraw", "P1"), ("withdrawn",), ("limit", "--total", "1"), ("renew",), ("serve",), ("adopt", "--yes"),
        ("quarantine", "list"), ("inspect",), ("ingest", "scans"), ("init", "--name", "north"),
    ],
)  # fmt: skip
def test_a_command_under_sudo_is_refused_and_makes_no_file(
    foreign: Path, command: tuple[str, ...], tmp_path: Path
) -> None:
    before = owners(foreign)
    run = CliRunner().invoke(main, ["site", *command, "--home", str(foreign)])
    assert run.exit_code == StateError.exit_code
    assert "sudo -u '#54321'" in run.output
    assert owners(foreign) == before


@AS_ROOT
def test_a_home_may_be_looked_at_by_others(foreign: Path) -> None:
    before = owners(foreign)
    run = CliRunner().invoke(main, ["site", "status", "--home", str(foreign), "--json"])
    assert json.loads(run.output)["running"] is False
    assert owners(foreign) == before


@AS_ROOT
def test_the_coordinators_home_is_its_owners_too(tmp_path: Path) -> None:
    home = Home.init(tmp_path / "server", host=f"127.0.0.1:{free_ports(1)[0]}")
    for path in [home.root, *home.root.rglob("*")]:
        os.chown(path, DAEMON, DAEMON)
    run = CliRunner().invoke(main, ["server", "invite", "north", "--home", str(home.root)])
    assert (run.exit_code, "sudo -u" in run.output) == (StateError.exit_code, True)
    assert list(home.nodes.iterdir()) == []


@AS_ROOT
def test_a_ledger_in_somebody_elses_home_is_not_even_opened(foreign: Path) -> None:
    with pytest.raises(NotPermitted):
        LedgerStore(foreign / "ledger.sqlite")
    require_owner(foreign.parent)


@AS_ROOT
def test_the_doctor_names_what_sudo_made_with_the_command_and_serve_waits_for_it(tmp_path: Path) -> None:
    home = build_home(tmp_path / "home", PLAN)
    Ledger(home / "ledger.sqlite")
    assert [f.level for f in doctor.own(home)] == ["ok"]
    os.chown(home / "ledger.sqlite", DAEMON, DAEMON)
    (found,) = doctor.own(home)
    assert (found.level, found.blocks) == ("failure", True)
    assert f"chown -R root {home}" in found.fix
    with pytest.raises(StateError, match="chown -R"):
        require_fit(home)


@AS_ROOT
def test_the_doctor_writes_nothing_into_somebody_elses_home(foreign: Path) -> None:
    before = owners(foreign)
    run = CliRunner().invoke(main, ["doctor", "--home", str(foreign), "--json"])
    found = json.loads(run.output)["findings"]
    assert any(f["check"] == "owner" and f["level"] == "failure" for f in found)
    assert owners(foreign) == before


@AS_ROOT
def test_health_truly_writes_and_so_sees_what_the_daemon_cannot_write(tmp_path: Path) -> None:
    from tests.common.test_disk import in_a_child, let_others_in

    home = DaemonHome(build_home(tmp_path / "home", PLAN))
    Ledger(home.home / "ledger.sqlite")
    assert checks.ledger(home) == ""
    assert not (home.home / "daemon" / checks.PROBE).exists()
    let_others_in(tmp_path)
    for path in [home.home, *home.home.rglob("*")]:
        os.chown(path, DAEMON, DAEMON)

    def look() -> None:
        os.setuid(DAEMON)
        raise StateError(checks.ledger(home))

    assert in_a_child(look) == "StateError: "
    os.chown(home.home / "ledger.sqlite", 0, 0)
    said = in_a_child(look)
    assert "NotPermitted" in said
    assert str(home.home) not in said
    os.chown(home.home / "ledger.sqlite", DAEMON, DAEMON)
    os.chown(home.home / "daemon", 0, 0)
    assert "NotPermitted" in in_a_child(look)


def nobody_knows(uid: int) -> object:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry and without a name in the environment, as OpenShift gives one."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody_knows)


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("command", [("approve", "plan.toml", "--yes"), ("pause",), ("resume",), ("leave", "tiny")])
def test_a_user_without_a_name_decides_by_number(tmp_path: Path, command: tuple[str, ...]) -> None:
    home = build_home(tmp_path / "home", PLAN)
    (tmp_path / "plan.toml").write_text('name = "new"\n[privacy]\nepsilon = 1.0\n')
    set_policy(home, total=1000.0)
    arguments = [str(tmp_path / part) if part == "plan.toml" else part for part in command]
    run = CliRunner().invoke(main, ["site", *arguments, "--home", str(home), "--json"])
    assert run.exit_code == 0, run.output
    assert f"uid-{os.getuid()}" in run.output


@pytest.mark.usefixtures("unknown")
def test_a_user_without_a_name_may_judge_the_quarantine(tmp_path: Path) -> None:
    quarantine.decide(tmp_path, ["a" * 64], "drop")
    assert f'"by": "uid-{os.getuid()}"' in (tmp_path / quarantine.QUARANTINE_FILE).read_text()
    assert user_name() == f"uid-{os.getuid()}"


def test_a_name_used_again_means_the_plan_that_was_not_left(tmp_path: Path) -> None:
    from client.daemon.status import Status

    again = tiny_plan("[release]\nimages_per_label = 1")
    home = build_home(tmp_path / "home", PLAN, again)
    for left, active in ((PLAN, again), (again, PLAN)):
        for plan in (left, active):
            approvals.approve(home, plan, approved_by="a")
        assert Status.of(home).studies == {
            f"tiny {PLAN.digest[:12]}": "active", f"tiny {again.digest[:12]}": "active",
        }  # fmt: skip
        approvals.leave(home, left.digest, by="a")
        assert Status.of(home).studies == {"tiny": "active"}
        for command, state in (("pause", "paused"), ("resume", "active")):
            run = CliRunner().invoke(main, ["site", command, "tiny", "--home", str(home)])
            assert run.exit_code == 0, run.output
            assert approvals.Approval.load(home, active.digest).state == state
        run = CliRunner().invoke(main, ["site", "pause", active.digest, "--home", str(home)])
        assert approvals.Approval.load(home, active.digest).state == "paused"
        assert approvals.Approval.load(home, left.digest).state == "left"
        approvals.resume(home, active.digest, by="a")
    approvals.leave(home, PLAN.digest, by="a")
    assert Status.of(home).studies == {"tiny": "left"}
