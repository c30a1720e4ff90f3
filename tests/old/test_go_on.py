"""What the code of before the rooms wrote, opens and goes on: homes, ledgers, approvals, runs, releases, coordinators.

The fixtures were made by that code (`scripts/make_old_fixtures.py`). `expected.json` says what it saw.
"""

import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from client import hospital
from client.approval.approvals import approved_plan
from client.ledger.ledger import Ledger
from client.site import layout
from client.site.site import Site
from common.errors import PlanRefused, SignatureInvalid
from common.model.weights import digest
from common.plan.schedule import schedule
from common.wire.messages import Hello
from common.wire.release_bundle import Bundle
from deploy.cli import main
from deploy.release.generate import generate
from deploy.simulation.simulate import start
from server.coordinator import invitations
from server.coordinator.home import Home
from server.coordinator.nodes import all_nodes
from server.gateway.admission import Admission
from server.study.study import Study
from tests.client.hospitals import PLAN as PLAN_TEXT
from tests.client.hospitals import request, tiny_plan
from tests.server.coordinators import Visitor

MADE = Path(__file__).parent / "b90add3"
EXPECTED: dict[str, Any] = json.loads((MADE / "expected.json").read_text())
PLAN, WAITING = tiny_plan(), tiny_plan(name="waiting")


def copied(name: str, place: Path) -> Path:
    """A fixture with the modes that its makers gave it: git keeps none."""
    shutil.copytree(MADE / name, place)
    for path in (place, *place.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return place


@pytest.fixture
def hospital_home(tmp_path: Path) -> Path:
    return copied("hospital", tmp_path / "north")


@pytest.fixture
def coordinator(tmp_path: Path) -> Home:
    return Home.open(copied("coordinator", tmp_path / "hub"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copied("run", tmp_path / "run")


def command(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def printed(*arguments: object) -> Any:
    return json.loads(command(*arguments, "--json").stdout)


def test_the_plans_keep_the_digests_they_were_approved_under(hospital_home: Path) -> None:
    found = {name: EXPECTED["hospital"][name] for name in ("plan", "waiting")}
    assert found == {"plan": PLAN.digest, "waiting": WAITING.digest}
    assert [approved_plan(hospital_home, name) for name in found.values()] == [PLAN, WAITING]
    assert hospital.greet(Site.open(hospital_home), Hello(plan=PLAN.digest)).site == "north"


def test_the_budget_is_what_the_old_accountant_said(hospital_home: Path) -> None:
    studies = {study["study"]: study for study in printed("site", "budget", "--home", hospital_home)["studies"]}
    assert {name: study["booked"] for name, study in studies.items()} == {"tiny": 5, "waiting": 0}
    assert studies["tiny"]["epsilon"] == pytest.approx(EXPECTED["hospital"]["epsilon"], rel=1e-3)
    assert studies["waiting"]["epsilon"] == 0
    assert EXPECTED["hospital"]["events"] == 5


def test_an_answer_in_the_spool_is_sent_again_as_it_was_and_costs_nothing(hospital_home: Path) -> None:
    before = Ledger(hospital_home / layout.LEDGER).events()
    for number, sent in enumerate(EXPECTED["hospital"]["replies"], start=1):
        assert digest(hospital.train(Site.open(hospital_home), request(PLAN, number)).arrays) == sent
    assert Ledger(hospital_home / layout.LEDGER).events() == before


def test_a_round_that_a_crash_cut_short_is_taken_up_under_its_old_booking(hospital_home: Path) -> None:
    before = Ledger(hospital_home / layout.LEDGER).events()
    reply = hospital.train(Site.open(hospital_home), request(PLAN, 5))
    assert Ledger(hospital_home / layout.LEDGER).events() == before
    assert reply.epsilon == pytest.approx(schedule(PLAN)[-1].epsilon_after, rel=1e-3)
    assert list((hospital_home / layout.KEYS).glob("*")) == []
    with pytest.raises(PlanRefused, match="6 was asked for"):
        hospital.train(Site.open(hospital_home), request(PLAN, 6))


def test_a_plan_that_was_only_approved_trains(hospital_home: Path) -> None:
    booked = len(Ledger(hospital_home / layout.LEDGER).events())
    reply = hospital.train(Site.open(hospital_home), request(WAITING, 1))
    assert reply.plan == EXPECTED["hospital"]["waiting"]
    assert len(Ledger(hospital_home / layout.LEDGER).events()) == booked + 1


def test_the_steward_pauses_resumes_and_approves_what_the_old_code_did_not_know(
    hospital_home: Path, tmp_path: Path
) -> None:
    of_home = ("--home", hospital_home, "--by", "Dr. Steward")
    command("site", "pause", "waiting", *of_home)
    with pytest.raises(PlanRefused, match="paused"):
        hospital.train(Site.open(hospital_home), request(WAITING, 1))
    command("site", "resume", "waiting", *of_home)
    file = tmp_path / "plan.toml"
    newer = PLAN_TEXT.replace("tiny", "newer").replace("latent = 3", 'latent = 3\ncovariance = "class"')
    file.write_text(newer + '[privacy]\nphases = ["moments"]\nepsilon = 1\n')
    command("site", "approve", file, *of_home, "--yes", "--over-budget", "--no-ingest")
    named = {study["study"]: study["state"] for study in printed("site", "budget", "--home", hospital_home)["studies"]}
    assert named == {"tiny": "active", "waiting": "active", "newer": "active"}


def test_a_patient_of_an_old_home_withdraws_and_its_sent_replies_are_found(hospital_home: Path) -> None:
    command("site", "withdraw", "P3", "--home", hospital_home)
    (patient,) = printed("site", "withdrawn", "--home", hospital_home)["patients"]
    assert [reply["round"] for reply in patient["releases"]] == [1, 2, 3, 4, 5]
    assert [reply["finished"] for reply in patient["releases"]] == [True] * 4 + [False]
    assert Site.open(hospital_home).cohort(PLAN).patients == 11


def test_a_half_done_run_goes_on_to_the_release_that_the_old_code_came_to(run: Path) -> None:
    assert Study.resume(run).completed == EXPECTED["run"]["saved"]
    start(run, workers=1)
    card = json.loads((run / "card.json").read_text())
    assert card["plan_digest"] == EXPECTED["run"]["plan"]
    assert [len(record["replied"]) for record in card["rounds"]] == [2] * 5
    told = EXPECTED["run"]["privacy"]["epsilon_by_site"]
    assert card["privacy"]["epsilon_by_site"] == {site: pytest.approx(value, rel=1e-3) for site, value in told.items()}
    for site in told:
        assert len(Ledger(run / "sites" / site / layout.LEDGER).events()) == 5
    assert_drawn_as_before(run)


def assert_drawn_as_before(folder: Path) -> None:
    """Two images are those that the old code drew from the old decoder."""
    drawn = torch.stack(list(Bundle.load(folder).decoder.draw("lesion", 2, seed=11))).flatten()[::37]
    np.testing.assert_allclose(drawn.numpy(), EXPECTED["run"]["drawn"], atol=2e-3)


def test_an_old_release_is_verified_and_draws_the_same_images(tmp_path: Path) -> None:
    released = copied("released", tmp_path / "released")
    assert Bundle.load(released).decoder.digest == EXPECTED["run"]["decoder"]
    assert_drawn_as_before(released)
    assert generate(released, tmp_path / "set", count=2)["images"] == {"normal": 2, "lesion": 2}
    card = released / "card.json"
    card.write_bytes(card.read_bytes() + b" ")
    with pytest.raises(SignatureInvalid):
        Bundle.load(released)


def test_an_old_coordinator_knows_its_sites_and_takes_in_the_one_that_was_invited(coordinator: Home) -> None:
    nodes, damaged = all_nodes(coordinator.nodes)
    assert {node.site: node.state for node in nodes} == {"gone": "revoked", "hill": "invited", "north": "enrolled"}
    assert damaged == []
    north = ssl.PEM_cert_to_DER_cert(EXPECTED["coordinator"]["north"])
    admitted = Admission(coordinator.nodes).of(north)
    assert admitted is not None
    assert admitted.site == "north"
    coordinator.complete()
    assert Visitor.enrolled(coordinator, "hill").welcome.site == "hill"
    invitations.revoke(coordinator, "north")
    assert Admission(coordinator.nodes).of(north) is None
