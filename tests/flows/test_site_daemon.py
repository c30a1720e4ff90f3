"""A hospital's daemon in a real deployment: attacked by its coordinator, killed part by part, told to leave."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from common.plan.study_plan import StudyPlan
from tests.client.daemon_lab import Lab, lab, plan_text, run, wait_until

PLAN = plan_text(rounds=3).replace("min_patients = 10", "min_patients = 300")
DIGEST = StudyPlan.parse(PLAN).digest
HOSTILE = Path(__file__).parent / "hostile_app"
NAME = "DOE"
pytestmark = [pytest.mark.flows, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("deployed"), "north", plans=(PLAN,)) as made:
        wait_until(lambda: made.serving("north"), "a serving hospital")
        yield made


def app(made: Lab, name: str) -> Path:
    """A copy of the hostile app, which writes a file wherever one of its modules is imported at a hospital."""
    folder = made.folder / name
    if not folder.exists():
        shutil.copytree(HOSTILE, folder)
        for path in folder.rglob("*.py.txt"):
            path.rename(path.with_suffix(""))
            text = path.with_suffix("").read_text().replace("@PWNED@", str(made.folder / "PWNED"))
            path.with_suffix("").write_text(text)
    return folder


def reserved(made: Lab) -> int:
    """Reservations in the hospital's ledger."""
    with closing(sqlite3.connect(made.site("north") / "ledger.sqlite")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        texts = [str(row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")]
    return sum("'reserve'" in text for text in texts)


def test_a_bundle_with_code_of_its_own_does_nothing_at_a_hospital(deployed: Lab) -> None:
    before = reserved(deployed)
    answers = deployed.attack(app(deployed, "hostile"), plan=DIGEST)
    # `flwr run` itself imports it, on the coordinator's side: the trap works. No process of the hospital is in it.
    assert [line for line in (deployed.folder / "PWNED").read_text().splitlines() if NAME in line] == []
    assert not list((deployed.site("north") / "daemon").rglob("apps"))
    assert not list(deployed.site("north").rglob("hostile*"))
    assert answers["hello"] == {"kind": "hello-reply", "plan": DIGEST, "schema": 1, "site": "north"}
    for kind in ("query", "train", "evaluate", "query.custom", "train.custom"):
        assert answers[kind] == {"kind": "refused", "plan": "", "schema": 1, "site": answers[kind]["site"],
                                 "reason": "MessageRefused"}  # fmt: skip
    assert reserved(deployed) == before
    assert deployed.serving("north")


def test_a_name_in_paths_and_exceptions_turns_up_nowhere(deployed: Lab) -> None:
    home = deployed.site("north")
    (home / "misbehave").write_text("name")
    try:
        answers = deployed.attack(app(deployed, "curious"), plan=DIGEST)
    finally:
        (home / "misbehave").unlink()
    assert answers["hello"]["reason"] == "WardroundError"
    assert NAME not in str(answers)
    assert NAME not in str(run("site", "status", "--home", home, cwd=deployed.folder))
    assert NAME not in (home / "daemon" / "state.json").read_text()
    assert NAME not in deployed.said("north")
    assert NAME not in "".join(path.read_text() for path in (deployed.coordinator / "logs").iterdir())
    assert NAME not in (home / "egress.jsonl").read_text()
    assert "request failed" in deployed.said("north") or '"failed"' in deployed.said("north")  # it was logged


def test_whatever_is_killed_comes_back_and_the_study_ends_with_nothing_paid_less(deployed: Lab) -> None:
    deployed.start(PLAN)
    before = reserved(deployed)
    for number, child in enumerate(("runner", "supernode", "forwarder", "zygote"), start=1):
        wait_until(lambda n=number: deployed.rounds() >= n, f"round {number}")
        pid = zygote(deployed) if child == "zygote" else deployed.pid("north", child)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: deployed.rounds() == 6, "the study's last round")
    assert reserved(deployed) - before >= 6
    wait_until(lambda: deployed.serving("north"), "a serving hospital again")


def zygote(made: Lab) -> int | None:
    runner = made.pid("north", "runner")
    children = psutil.Process(runner).children() if runner else []
    return next((child.pid for child in children if "client.daemon.zygote" in child.cmdline()), None)


def test_a_killed_daemon_leaves_no_process_and_a_new_one_serves(deployed: Lab) -> None:
    daemon = deployed.processes.pop()
    below = psutil.Process(daemon.pid).children(recursive=True)
    assert len(below) >= 4
    daemon.kill()
    daemon.wait()
    wait_until(lambda: not any(alive(process) for process in below), "the end of its processes")
    deployed.serve("site", deployed.site("north"))
    wait_until(lambda: deployed.state("north").get("pid") == deployed.processes[-1].pid, "the new daemon")
    wait_until(lambda: deployed.serving("north"), "a serving hospital")


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_one_home_is_served_once(deployed: Lab) -> None:
    second = deployed.serve("site", deployed.site("north"))
    deployed.processes.remove(second)
    assert second.wait(60) == 5


def test_status_shows_a_paused_site_and_what_is_served(deployed: Lab) -> None:
    home = deployed.site("north")
    run("site", "pause", "--home", home, cwd=deployed.folder)
    seen = run("site", "status", "--home", home, cwd=deployed.folder)
    run("site", "resume", "--home", home, cwd=deployed.folder)
    assert seen["serving"] is True
    assert seen["paused"]
    assert seen["studies"] == {"tiny": "active"}
    assert set(seen["health"]) == {
        "processes", "registered", "flower", "certificate", "certificate-end", "clock", "ledger", "cache",
    }  # fmt: skip
    assert seen["traffic"]["sent"] > 0
    assert seen["certificate_days"] > 700


def test_an_ill_daemon_says_why(deployed: Lab) -> None:
    cache = deployed.site("north") / "cache"
    cache.rename(cache.with_name("aside"))
    try:
        wait_until(lambda: not deployed.serving("north"), "the missing cache")
        seen = run("site", "status", "--home", deployed.site("north"), cwd=deployed.folder, check=False)
    finally:
        cache.with_name("aside").rename(cache)
    assert seen["serving"] is False
    assert "ingest" in seen["health"]["cache"]
    wait_until(lambda: deployed.serving("north"), "health again")


def test_sigterm_takes_leave_of_the_coordinator(deployed: Lab) -> None:
    daemon = deployed.processes[-1]
    below = psutil.Process(daemon.pid).children(recursive=True)
    daemon.terminate()
    assert daemon.wait(60) == 0
    wait_until(lambda: not any(alive(process) for process in below), "the end of its processes")
    assert not deployed.state("north")

    def left() -> bool:
        seen = run("server", "status", "--home", deployed.coordinator, cwd=deployed.folder, check=False)
        return bool(seen["sites"]["north"]["connection"] == "offline")

    wait_until(left, "the leave, well before its heartbeat is missed", within_s=25, every_s=1.0)
