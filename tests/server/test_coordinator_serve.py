"""The coordinator's daemon: it keeps its processes and its node keys as they should be, and starts failed runs again.

It is also the contract test for the parts of Flower that `server.coordinator.control` uses.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from common.errors import StateError
from common.host.supervisor import Supervisor
from server.coordinator import invitations, studies
from server.coordinator.cli import COMMANDS, server
from server.coordinator.control import Run, SuperLink, flower_app
from server.coordinator.home import Home
from server.coordinator.serve import checks, serve
from server.coordinator.steward import Steward
from server.study import progress
from tests.deploy import hospitals
from tests.server.coordinators import Visitor, make_home

PLAN = hospitals.PLAN.replace("epsilon = 8", 'epsilon = 8\nphases = ["sgd"]')
COMMAND = [sys.executable, "-P", "-m", "deploy.cli", "server", "serve", "--home"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home that is served; afterwards nothing of it may be left running."""
    made = make_home(tmp_path_factory.mktemp("serve") / "coordinator")
    with (made.root.parent / "out").open("wb") as out:
        process = subprocess.Popen([*COMMAND, made.root], stdout=out, stderr=out, env=made.environment())
    wait(lambda: bool(status(made)["healthy"]))
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 3
    yield made
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(below, timeout=20)
    assert alive == []
    assert not made.is_served()


def call(home: Home, *arguments: str | Path, code: int = 0) -> dict[str, object]:
    """Run one command of the group and return its JSON."""
    done = CliRunner().invoke(server, [*map(str, arguments), "--home", str(home.root), "--json"])
    assert done.exit_code == code, done.output
    result: dict[str, object] = json.loads(done.stdout)
    return result


def status(home: Home) -> dict[str, dict[str, dict[str, object]]]:
    """What `server status` shows; it ends with 5 unless the coordinator is healthy."""
    done = CliRunner().invoke(server, ["status", "--home", str(home.root), "--json"])
    result: dict[str, dict[str, dict[str, object]]] = json.loads(done.stdout)
    assert done.exit_code == (0 if result["healthy"] else StateError.exit_code)
    return result


def wait(happened: Callable[[], object], patience_s: float = 150) -> None:
    end = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_served_home_is_healthy_and_is_served_once(home: Home) -> None:
    assert home.is_served()
    with pytest.raises(StateError, match="served already"):
        serve(home.root)
    assert set(status(home)["processes"]) == {"superlink", "superexec", "gateway"}


def test_an_enrolled_key_reaches_the_superlink_and_a_revoked_one_leaves_it_without_a_restart(home: Home) -> None:
    visitor = Visitor.enrolled(home, "north")

    def registered() -> bool:
        with SuperLink(home) as link:
            return visitor.public_key in {node.key for node in link.nodes()}

    wait(registered)
    wait(lambda: status(home)["sites"]["north"]["connection"] == "registered")
    call(home, "revoke", "north")
    wait(lambda: not registered())


@pytest.mark.parametrize("name", ["gateway", "superexec", "superlink"])
def test_a_process_that_is_killed_comes_back(home: Home, name: str) -> None:
    before = status(home)["processes"][name]["pid"]
    assert isinstance(before, int)
    os.kill(before, signal.SIGKILL)
    wait(lambda: status(home)["processes"][name]["pid"] not in (before, None))
    now = checks(home, Supervisor([]), Steward(home))  # what `status` shows is seconds old: it may be of before
    wait(lambda: not now["superlink"]() and not now["gateway"]())
    wait(lambda: status(home)["healthy"])


def test_a_study_is_started_pauses_without_sites_and_is_resumed_only_by_a_person(home: Home, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("deadline_s = 120", "deadline_s = 2"))
    run = call(home, "start", plan)["run"]
    folder = home.study("tiny-phantoms")
    wait(lambda: progress.read(folder).state == "paused")

    def last() -> Run:
        with SuperLink(home) as link:
            found = studies.last_run(link, folder)
            assert found is not None
            return found

    wait(lambda: last().ended)
    assert (last().state, last().run_id) == ("failed", run)
    with SuperLink(home) as link:
        Steward(home).resume_failed(link)
    assert last().run_id == run
    log = CliRunner().invoke(server, ["logs", "tiny-phantoms", "--home", str(home.root)])
    assert "QuorumLost" in log.output
    assert call(home, "resume", "tiny-phantoms")["run"] != run
    assert "Wait, or stop it first" in str(call(home, "resume", "tiny-phantoms", code=5)["message"])
    assert call(home, "stop", "tiny-phantoms")["stopped"] is True
    wait(lambda: last().ended)


def test_a_folder_of_another_plan_and_a_finished_study_are_not_touched(home: Home, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("tiny-phantoms", "other"))
    folder = studies.prepare(home, plan)
    assert studies.prepare(home, plan) == folder
    plan.write_text(PLAN.replace("tiny-phantoms", "other").replace("epsilon = 8", "epsilon = 7"))
    assert "another plan" in str(call(home, "start", plan, code=5)["message"])
    (folder / "card.json").write_text("{}")
    plan.write_text(PLAN.replace("tiny-phantoms", "other"))
    assert "finished" in str(call(home, "start", plan, code=5)["message"])
    assert "finished" in str(call(home, "resume", "other", code=5)["message"])
    shutil.rmtree(folder)


class Runs:
    """A SuperLink whose runs end as a test says; everything else of the steward is real."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.started = folder, "failed", 0

    def runs(self) -> list[Run]:
        return [Run(run_id=self.started, folder=self.folder, state=self.state, details="")]

    def start(self, folder: Path) -> int:
        assert folder == self.folder
        self.started += 1
        return self.started


def test_a_failed_run_is_started_again_with_pauses_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "coordinator")
    (tmp_path / "plan.toml").write_text(PLAN)
    folder = studies.prepare(home, tmp_path / "plan.toml")
    link, steward, now = Runs(folder), Steward(home), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def look(after_s: float) -> int:
        now[0] += after_s
        steward.resume_failed(link)  # type: ignore[arg-type]
        return link.started

    assert look(1) == 1
    assert look(1) == 1, "it pauses between tries"
    assert [look(400) for _ in range(8)][-1] == home.settings.resume_tries
    (folder / "checkpoints" / "00001").mkdir(parents=True)
    assert look(1) == home.settings.resume_tries + 1, "a round was saved, so the count starts afresh"
    link.state = "stopped"
    assert look(400) == home.settings.resume_tries + 1, "a person stopped it"
    link.state = "failed"
    (folder / progress.PAUSED).write_text("{}")
    assert look(400) == home.settings.resume_tries + 1, "it waits for a person"


def test_a_key_whose_record_is_lost_is_not_shut_out_for_ever(home: Home) -> None:
    visitor = Visitor.enrolled(home, "keeper")
    with SuperLink(home) as link:
        Steward(home).reconcile(link)
        record = (home.nodes / "keeper.json").read_bytes()
        (home.nodes / "keeper.json").write_text("{")
        Steward(home).reconcile(link)
        assert visitor.public_key in {node.key for node in link.nodes()}
    (home.nodes / "keeper.json").write_bytes(record)
    invitations.revoke(home, "keeper")


def test_what_flower_carries_is_the_two_shims() -> None:
    assert sorted(path.name for path in (flower_app() / "shims").glob("*.py")) == [
        "__init__.py", "client_app.py", "server_app.py",
    ]  # fmt: skip


def test_every_command_explains_itself() -> None:
    for command in COMMANDS:
        assert command.help
        assert CliRunner().invoke(command, ["--help"]).exit_code == 0
