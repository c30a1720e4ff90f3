"""A hospital's files are its owner's alone, whatever was there before and whatever the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import hospital
from client.approval import approvals
from client.cohort import consent
from client.daemon import join
from client.daemon.home import DaemonHome
from client.daemon.meter import Link, Meter
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import Draft, LedgerStore
from client.site import private, rules_file
from client.site.site import Site
from common.plan.study_plan import StudyPlan
from deploy.doctor import hospital as doctor
from tests.client.hospitals import build_home, request

TEXT = """
name = "tiny"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 10
[model]
latent = 3
channels = [4, 8]
base = 4
[training]
rounds = 2
local_steps = 2
sample_rate = 0.5
federated = "decoder"
[privacy]
phases = ["sgd"]
"""


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(home: Path) -> list[str]:
    """Everything that others could read, but for certificates and public keys."""
    public = (".crt", ".pub")
    return [
        f"{stat.filemode(path.stat().st_mode)} {path.relative_to(home)}"
        for path in sorted(home.rglob("*"))
        if stat.S_IMODE(path.stat().st_mode) & 0o077 and path.suffix not in public and path.name != "coordinator.json"
    ]


def test_a_home_that_was_there_before_is_closed_by_init(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    rules_file.init(home, "north")
    join.prepare(DaemonHome(home))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert open_to_others(home) == []


def test_a_ledger_is_private_from_its_first_byte(tmp_path: Path) -> None:
    """Opened once: a second opening would close what the first had left open."""
    LedgerStore(tmp_path / "ledger.sqlite").append(lambda _: [Draft(kind="withdraw")])
    assert (tmp_path / "ledger.sqlite").exists()
    assert open_to_others(tmp_path) == []


def test_all_that_a_round_and_the_stewards_commands_write_is_private_under_a_permissive_umask(tmp_path: Path) -> None:
    plan = StudyPlan.parse(TEXT)
    home = tmp_path / "home"
    build_home(home, plan)
    (home / "site.toml").chmod(0o600)  # written by this test's helper, not by us
    hospital.train(Site.open(home), request(plan, 1))
    approvals.pause(home, None, by="a")
    consent.withdraw(home, Ledger(home / "ledger.sqlite"), "P1")
    Meter(DaemonHome(home).traffic).count(sent=1, received=1)
    Link(path=DaemonHome(home).link).saw_failure("ConnectError")
    names = {path.name for path in home.rglob("*")}
    assert {"ledger.sqlite", "ledger.seal", "egress.jsonl", "receipt.json", "paused.json", "encoder"} <= names
    assert open_to_others(home) == []


def test_what_an_older_version_left_open_is_closed_and_the_doctor_says_so_before(tmp_path: Path) -> None:
    plan = StudyPlan.parse(TEXT)
    home = build_home(tmp_path / "home", plan)
    hospital.train(Site.open(home), request(plan, 1))
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (secret,) = [home / "secret.key"]
    found = list(doctor.modes(home, [secret]))
    assert [(f.level, f.blocks) for f in found] == [("failure", True), ("warning", False)]
    assert private.close(home) > 10
    assert open_to_others(home) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [f.level for f in doctor.modes(home, [secret])] == ["ok"]


def test_a_ledger_and_a_log_that_lay_open_are_closed_when_they_are_opened(tmp_path: Path) -> None:
    plan = StudyPlan.parse(TEXT)
    home = build_home(tmp_path / "home", plan)
    hospital.train(Site.open(home), request(plan, 1))
    for name in ("ledger.sqlite", "ledger.seal", "ledger.lock", "egress.jsonl", "receipt.json"):
        (home / name).chmod(0o644)
    hospital.train(Site.open(home), request(plan, 1))
    assert [line for line in open_to_others(home) if "ledger" in line or "egress" in line or "receipt" in line] == []
