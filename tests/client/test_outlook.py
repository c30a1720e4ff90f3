"""A plan is weighed beside what other studies have yet to cost; versions of one study add up; who never trained is
forgotten."""

import json
from pathlib import Path

import pytest

from client import hospital
from client.approval import approvals
from client.approval.outlook import others, owed
from client.approval.proposal import Proposal
from client.ledger.budget import Account
from client.ledger.ledger import Ledger
from client.site.policy import SitePolicy
from client.site.site import Site
from common.accountant.accounting import epsilon
from common.errors import BudgetExhausted
from common.plan.schedule import schedule, whole_cost
from common.plan.study_plan import StudyPlan
from tests.client.hospitals import build_home, fill_cache, request, set_policy, tiny_plan
from tests.client.test_budget_cli import printed, run

MOMENTS = '[privacy]\nphases = ["moments"]\nepsilon = {epsilon}\ndelta = {delta}\n'
RUNNING = tiny_plan(name="running")
SMALL = tiny_plan(MOMENTS.format(epsilon=1, delta=1e-12), name="small")
GATE = "[evaluation]\nheld_out_share = 0.4\nimages_per_label = 50\n"


def version(number: int, *, delta: float = 1e-5, cost: float = 3) -> StudyPlan:
    release = f"[release]\nimages_per_label = {number}\n"
    return tiny_plan(MOMENTS.format(epsilon=cost, delta=delta), release, name="again")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A hospital whose one study has done its first round."""
    home = build_home(tmp_path / "north", RUNNING)
    hospital.train(Site.open(home), request(RUNNING, 1))
    return home


def ledger(home: Path) -> Ledger:
    return Ledger(home / "ledger.sqlite")


def weigh(home: Path, plan: StudyPlan, *, over_budget: bool = False) -> Proposal:
    return Proposal.weigh(plan, SitePolicy.load(home), ledger(home), over_budget=over_budget)


def events(plan: StudyPlan, first: int = 1) -> list[object]:
    return [event for step in schedule(plan)[first - 1 :] for event in step.events]


def test_a_plan_that_leaves_a_running_study_no_room_is_refused_unless_the_steward_says_so(home: Path) -> None:
    assert epsilon([*events(RUNNING), *events(SMALL)], delta=1e-5) < 10  # type: ignore[list-item]
    with pytest.raises(BudgetExhausted, match=r"could not all finish \(running \(.{12}\)\).*13\.\d\d at delta 1e-12"):
        weigh(home, SMALL)
    agreed = weigh(home, SMALL, over_budget=True)
    rest = epsilon(events(RUNNING, 2), delta=1e-12)  # type: ignore[arg-type]
    table = agreed.to_dict()
    assert table["others"] == [
        {"study": "running", "plan": RUNNING.digest, "state": "active", "rounds": 4, "epsilon": rest}
    ]
    assert table["site"]["all_after"] > 10 > table["site"]["after"]
    text = agreed.text()
    assert f"running ({RUNNING.digest[:12]}, active): 4 rounds to go, epsilon {rest:.2f} at delta 1e-12" in text
    assert "NOT ALL OF THEM CAN FINISH" in text
    spent = [ledger(home).epsilon(delta=delta) for delta in (1e-12, 1e-5)]
    assert "what is spent reads {:.2f} in place of {:.2f}".format(*spent) in text


def test_a_plan_offered_after_one_of_a_smaller_delta_is_weighed_at_that(home: Path) -> None:
    approvals.leave(home, RUNNING.digest, by="x")
    approvals.approve(home, SMALL, approved_by="x")
    later = tiny_plan(name="later")
    with pytest.raises(BudgetExhausted, match=r"could not all finish \(small \(.*at delta 1e-12"):
        weigh(home, later)
    assert weigh(home, later, over_budget=True).site.delta == 1e-5


def test_the_command_refuses_and_takes_a_flag(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(_as_toml(SMALL))
    assert StudyPlan.load(path) == SMALL
    refused = run("approve", path, "--home", home, "--yes")
    assert refused.exit_code == BudgetExhausted.exit_code
    assert not (home / "approved" / SMALL.digest).exists()
    assert printed("approve", path, "--home", home, "--yes", "--over-budget")["approved"]
    assert approvals.approved_plan(home, SMALL.digest) == SMALL


@pytest.mark.parametrize("state", ["active", "paused", "left"])
def test_a_plan_that_never_trained_makes_no_other_read_more(home: Path, state: str) -> None:
    approvals.approve(home, SMALL, approved_by="x")
    if state != "active":
        {"paused": approvals.pause, "left": approvals.leave}[state](home, SMALL.digest, by="x")
    for step in schedule(RUNNING):
        hospital.train(Site.open(home), request(RUNNING, step.number))
    assert Account.of(home).delta == 1e-5


def test_a_plan_that_trained_and_was_left_counts_at_its_delta_for_good(home: Path) -> None:
    approvals.approve(home, SMALL, approved_by="x")
    hospital.train(Site.open(home), request(SMALL, 1))
    approvals.leave(home, SMALL.digest, by="x")
    assert Account.of(home).delta == 1e-12
    hospital.train(Site.open(home), request(RUNNING, 2))
    with pytest.raises(BudgetExhausted, match="site's epsilon"):
        hospital.train(Site.open(home), request(RUNNING, 3))


@pytest.mark.parametrize(("state", "counted"), [("active", True), ("paused", True), ("left", False)])
def test_what_is_owed_is_by_whoever_may_still_run(home: Path, state: str, counted: bool) -> None:
    if state != "active":
        {"paused": approvals.pause, "left": approvals.leave}[state](home, RUNNING.digest, by="x")
    found = others(home, SMALL, ledger(home).bookings())
    assert [(other.plan.name, other.state) for other in found] == ([("running", state)] if counted else [])
    assert others(home, RUNNING, ledger(home).bookings()) == ()


def test_a_study_that_is_done_owes_nothing_and_a_verdict_is_owed_until_it_is_booked(home: Path, tmp_path: Path) -> None:
    for step in schedule(RUNNING):
        hospital.train(Site.open(home), request(RUNNING, step.number))
    assert others(home, SMALL, ledger(home).bookings()) == ()
    gated = tiny_plan(GATE)
    rest = owed(gated, ledger(home).bookings(), state="active")
    assert rest.rounds == len(schedule(gated)) + 1
    assert epsilon(rest.events, delta=1e-5) == pytest.approx(whole_cost(gated))


def test_versions_of_one_study_add_up_in_rounds_in_proposals_and_in_the_account(tmp_path: Path) -> None:
    first, second = version(1), version(2)
    home = build_home(tmp_path / "north", first)
    set_policy(home, study=4.0)
    for step in schedule(first):
        hospital.train(Site.open(home), request(first, step.number))
    with pytest.raises(BudgetExhausted, match=r"earlier plans of this name have cost epsilon 3\.00.*pass the 4\.00"):
        weigh(home, second, over_budget=True)
    small = version(3, cost=0.5)
    after = epsilon([*events(first), *events(small)], delta=1e-5)  # type: ignore[list-item]
    assert (
        f"all plans of this study's name: 3.00 spent, {after:.2f} after this one, of 4.00" in weigh(home, small).text()
    )
    approvals.approve(home, second, approved_by="x")
    hospital.train(Site.open(home), request(second, 1))
    hospital.train(Site.open(home), request(second, 2))
    with pytest.raises(BudgetExhausted, match=r"study's epsilon from 3\.\d\d to 4\.\d\d, past its limit of 4\.00"):
        hospital.train(Site.open(home), request(second, 3))
    named = epsilon([*events(first), *events(second)[:2]], delta=1e-5)  # type: ignore[list-item]
    for line in Account.of(home).studies:
        assert line.named == pytest.approx(named)
        assert line.left == pytest.approx(max(0.0, min(3 - line.epsilon, 4 - named)))
    other = tiny_plan(MOMENTS.format(epsilon=3, delta=1e-5), name="another")
    approvals.approve(home, other, approved_by="x")
    hospital.train(Site.open(home), request(other, 1))


def test_a_version_with_a_larger_delta_does_not_make_its_study_read_less(tmp_path: Path) -> None:
    strict, loose = version(1, delta=1e-9), version(2, delta=1e-4)
    home = build_home(tmp_path / "north", strict, loose)
    for step in schedule(strict):
        hospital.train(Site.open(home), request(strict, step.number))
    after = [epsilon([*events(strict), *events(loose)[:1]], delta=delta) for delta in (1e-9, 1e-4)]  # type: ignore[list-item]
    set_policy(home, study=sum(after) / 2)
    with pytest.raises(BudgetExhausted, match="study's epsilon"):
        hospital.train(Site.open(home), request(loose, 1))


def test_versions_that_may_all_still_run_are_weighed_by_their_study(tmp_path: Path) -> None:
    first, second = version(1), version(2)
    home = build_home(tmp_path / "north", first)
    set_policy(home, study=4.0)
    with pytest.raises(BudgetExhausted, match="all plans of study 'again' would cost epsilon 4"):
        weigh(home, second)
    approvals.leave(home, first.digest, by="x")
    assert weigh(home, second).others == ()


def test_a_record_that_cannot_be_read_of_a_plan_that_never_trained_stops_nobody(home: Path) -> None:
    approvals.approve(home, SMALL, approved_by="x")
    path = home / "approved" / SMALL.digest / "approval.json"
    path.write_text(json.dumps({"plan": {}}))
    hospital.train(Site.open(home), request(RUNNING, 2))
    fill_cache(home, RUNNING, [f"P{i}" for i in range(12)])


def _as_toml(plan: StudyPlan) -> str:
    from tests.client.hospitals import PLAN

    text = PLAN.replace('"tiny"', f'"{plan.name}"').replace("[data]", '[data]\nwindow = "dicom"')
    return text + MOMENTS.format(epsilon=1, delta=1e-12)
