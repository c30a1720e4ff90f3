"""A hospital answers in one order - permit, reserve, train, settle, seal - and a refusal leaves no trace."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import hospital
from client.egress import egress, spool
from client.ledger.ledger import Ledger
from client.mechanism import sgd
from client.site import policy
from client.site.site import Site
from common.accountant.accounting import epsilon
from common.errors import (
    BudgetExhausted,
    CacheMissing,
    CohortTooSmall,
    EgressRefused,
    MessageRefused,
    PlanRefused,
    WardroundError,
)
from common.mechanism.registry import leaving
from common.model.weights import digest
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, TrainReply
from tests.client.hospitals import PLAN as PLAN_TEXT
from tests.client.hospitals import build_home, fill_cache, request, set_policy, tiny_plan

PLAN = tiny_plan()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN)


def traces(home: Path) -> dict[str, bytes]:
    """Bytes of everything a round may write."""
    kept = [home / "egress.jsonl", *(home / "spool").rglob("*")]
    found = {str(path): path.read_bytes() for path in kept if path.is_file()}
    return {**found, "ledger": repr(Ledger(home / "ledger.sqlite").events()).encode()}


def same(one: TrainReply, other: TrainReply) -> bool:
    scalars = [{f.name: getattr(r, f.name) for f in dataclasses.fields(r) if f.name != "arrays"} for r in (one, other)]
    return scalars[0] == scalars[1] and digest(one.arrays) == digest(other.arrays)


def test_every_round_of_the_plan_is_answered_at_the_cost_the_plan_states(home: Path) -> None:
    for step in schedule(PLAN):
        reply = hospital.train(Site.open(home), request(PLAN, step.number))
        assert (reply.site, reply.phase, reply.round) == ("north", step.phase, step.number)
        assert reply.epsilon == pytest.approx(step.epsilon_after)
        assert {n: a.shape for n, a in reply.arrays.items()} == leaving(PLAN, step.phase)
    assert reply.epsilon <= PLAN.privacy.epsilon


@pytest.mark.parametrize(("declared", "divisor"), [(0, 10), (40, 40)])
def test_the_divisor_is_what_is_declared_or_the_plans_minimum_and_never_the_cohorts_size(
    home: Path, declared: int, divisor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, trainer = [], sgd.PatientTrainer

    def made(*arguments: Any, divisor_patients: int, **options: Any) -> Any:
        used.append(divisor_patients)
        return trainer(*arguments, divisor_patients=divisor_patients, **options)

    monkeypatch.setattr(sgd, "PatientTrainer", made)
    rules = (home / "site.toml").read_text()
    (home / "site.toml").write_text(f"declared_patients = {declared}\n{rules}")
    site = Site.open(home)
    assert site.cohort(PLAN).patients == 12 != divisor
    hospital.train(site, request(PLAN, next(step.number for step in schedule(PLAN) if step.phase == "sgd")))
    assert used == [divisor]


def test_a_hello_says_the_name_and_spends_nothing(home: Path) -> None:
    assert hospital.greet(Site.open(home), Hello(plan=PLAN.digest)).site == "north"
    assert Ledger(home / "ledger.sqlite").events() == []


STEPS = {
    "approved": (policy, "approved_plan"),
    "permit": (policy, "permit"),
    "reserve": (Ledger, "reserve"),
    "train": (hospital, "_compute"),
    "settle": (Ledger, "settle"),
    "seal": (egress, "seal"),
    "spool": (spool, "keep"),
    "release": (egress, "release"),
}


def test_the_order_is_permit_reserve_train_settle_seal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    for name, (owner, attribute) in STEPS.items():
        monkeypatch.setattr(owner, attribute, noting(begun, name, getattr(owner, attribute)))
    hospital.train(Site.open(home), request(PLAN, 4))
    order = [name for i, name in enumerate(begun) if name not in begun[:i]]
    assert order == ["approved", "permit", "reserve", "train", "settle", "seal", "spool", "release"]
    assert (
        begun.index("reserve") < len(begun) - begun[::-1].index("permit") - 1 < begun.index("train")
    )  # under its lock
    assert begun[-2:] == ["approved", "release"]  # a study paused meanwhile sends nothing


def noting(begun: list[str], name: str, function: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        begun.append(name)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("step", ["approved", "permit", "reserve"])
def test_a_failure_before_the_booking_costs_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = traces(home)
    monkeypatch.setattr(*STEPS[step], failing)
    monkeypatch.setattr(hospital, "_compute", forbidden)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        hospital.train(Site.open(home), request(PLAN))
    assert traces(home) == before


@pytest.mark.parametrize("step", ["train", "settle", "seal", "spool"])
def test_a_failure_after_the_booking_stays_booked_and_lets_nothing_out(
    home: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = traces(home)
    monkeypatch.setattr(*STEPS[step], failing)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        hospital.train(Site.open(home), request(PLAN))
    after = traces(home)
    assert Ledger(home / "ledger.sqlite").events() == [schedule(PLAN)[0].event]
    assert after.keys() == before.keys()


def failing(*_: object, **__: object) -> None:
    raise RuntimeError("broken on purpose")


def forbidden(*_: object, **__: object) -> None:
    pytest.fail("a scan was about to be read")


def test_the_budget_is_what_it_was_after_a_restart(home: Path) -> None:
    first = hospital.train(Site.open(home), request(PLAN, 1))
    second = hospital.train(Site.open(home), request(PLAN, 2))
    events = [r.event for r in schedule(PLAN)[:2]]
    assert 0 < first.epsilon < second.epsilon == epsilon(events, delta=PLAN.privacy.delta)
    assert Ledger(home / "ledger.sqlite").events() == events


def test_the_same_request_again_gets_the_same_bytes_and_costs_nothing(home: Path) -> None:
    first = hospital.train(Site.open(home), request(PLAN))
    events = Ledger(home / "ledger.sqlite").events()
    assert same(hospital.train(Site.open(home), request(PLAN)), first)
    assert Ledger(home / "ledger.sqlite").events() == events


def test_the_same_round_on_other_weights_is_new_noise_and_refused_once_the_budget_is_short(home: Path) -> None:
    for number in range(1, len(schedule(PLAN)) + 1):
        hospital.train(Site.open(home), request(PLAN, number))
    before = traces(home)
    with pytest.raises(BudgetExhausted, match=r"plan's epsilon from \d\.\d\d to \d+\.\d\d, past its limit of 8\.00"):
        hospital.train(Site.open(home), request(PLAN, 2, shift=0.1))
    assert traces(home) == before


def test_noise_is_fresh_for_each_hospital_and_weights(home: Path, tmp_path: Path) -> None:
    other = build_home(tmp_path / "south", PLAN)
    for name in ("secret.key", "secret.check"):
        (other / name).write_bytes((home / name).read_bytes())
    fill_cache(other, PLAN, [f"P{i}" for i in range(12)])
    one, two = (hospital.train(Site.open(where), request(PLAN)).arrays["release"] for where in (home, other))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("how", ["absent label", "every label is there"])
def test_no_answer_depends_on_which_labels_the_cohort_has(home: Path, how: str) -> None:
    """The coordinator chose the labels' names: told by type, absence would answer a question about patients."""
    fill_cache(home, PLAN, [f"P{i}" for i in range(12)], labels=1 if how == "absent label" else 2)
    assert hospital.greet(Site.open(home), Hello(plan=PLAN.digest)).site == "north"
    for step in schedule(PLAN):
        reply = hospital.train(Site.open(home), request(PLAN, step.number))
        assert {n: a.shape for n, a in reply.arrays.items()} == leaving(PLAN, step.phase)


@pytest.mark.parametrize(("asked", "own"), [(1, 13), (13, 1)])
def test_the_larger_of_both_minima_counts_for_every_request(home: Path, asked: int, own: int) -> None:
    plan = tiny_plan(minimum=asked)
    policy.approve(home, plan, approved_by="x")
    set_policy(home, minimum=own)
    with pytest.raises(CohortTooSmall, match="13"):
        hospital.greet(Site.open(home), Hello(plan=plan.digest))
    with pytest.raises(CohortTooSmall, match="13"):
        hospital.train(Site.open(home), request(plan))
    fill_cache(home, plan, [f"P{i}" for i in range(13)])
    hospital.greet(Site.open(home), Hello(plan=plan.digest))
    hospital.train(Site.open(home), request(plan))


def test_labels_from_an_attribute_that_the_site_does_not_allow_are_refused_at_every_request(home: Path) -> None:
    text = PLAN_TEXT.replace("[data]", '[data]\nlabel_attribute = "StudyDescription"')
    plan = StudyPlan.parse(text)
    fill_cache(home, plan, [f"P{i}" for i in range(12)])
    policy.approve(home, plan, approved_by="x")
    for ask in (
        lambda site: hospital.greet(site, Hello(plan=plan.digest)),
        lambda site: hospital.train(site, request(plan)),
    ):
        with pytest.raises(PlanRefused, match="does not allow"):
            ask(Site.open(home))
    assert Ledger(home / "ledger.sqlite").events() == []
    site_toml = (home / "site.toml").read_text()
    (home / "site.toml").write_text(site_toml.replace("[limits]", '[limits]\nlabel_attributes = ["StudyDescription"]'))
    assert hospital.greet(Site.open(home), Hello(plan=plan.digest)).site == "north"


def spoilt(home: Path, how: str) -> None:
    if how == "unapproved":
        (home / "approved" / PLAN.digest / "approval.json").unlink()
    elif how == "altered approval":
        path = home / "approved" / PLAN.digest / "approval.json"
        path.write_text(path.read_text().replace('"epsilon": 8.0', '"epsilon": 9.0'))
    elif how == "cohort under the site's minimum":
        set_policy(home, minimum=13)
    elif how == "cohort under the plan's minimum":
        fill_cache(home, PLAN, [f"P{i}" for i in range(9)])
    elif how == "cache of other settings":
        other = tiny_plan(window="percentile")
        shutil.rmtree(home / "cache")
        fill_cache(home, other, [f"P{i}" for i in range(12)])
    elif how == "no cache":
        shutil.rmtree(home / "cache")
    elif how == "study budget short":
        set_policy(home, study=0.1)
    elif how == "site budget short":
        set_policy(home, total=0.1)
    elif how == "delta outside the policy":
        (home / "site.toml").write_text('name = "north"\n[limits]\nmin_patients = 10\nmax_delta = 1e-6\n')


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("unapproved", PlanRefused),
        ("altered approval", PlanRefused),
        ("cohort under the site's minimum", CohortTooSmall),
        ("cohort under the plan's minimum", CohortTooSmall),
        ("cache of other settings", CacheMissing),
        ("no cache", CacheMissing),
        ("study budget short", BudgetExhausted),
        ("site budget short", BudgetExhausted),
        ("delta outside the policy", PlanRefused),
    ],
)
def test_a_refused_round_leaves_ledger_spool_and_egress_untouched(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: str, kind: type[WardroundError]
) -> None:
    spoilt(home, how)
    before = traces(home)
    monkeypatch.setattr(hospital, "_compute", forbidden)
    with pytest.raises(kind):
        hospital.train(Site.open(home), request(PLAN))
    assert traces(home) == before


def test_a_plan_of_another_digest_is_refused(home: Path) -> None:
    with pytest.raises(PlanRefused, match="not approved"):
        hospital.train(Site.open(home), request(tiny_plan("[privacy]\nclip_norm = 2")))
    with pytest.raises(PlanRefused, match="not approved"):
        hospital.greet(Site.open(home), Hello(plan=tiny_plan(name="other").digest))


@pytest.mark.parametrize("number", [-1, 0, 6, 10_000_000_000])
def test_a_round_the_plan_does_not_have_is_refused(home: Path, number: int) -> None:
    before = traces(home)
    with pytest.raises(PlanRefused, match="rounds 1 to 5"):
        hospital.train(Site.open(home), request(PLAN, number))
    assert traces(home) == before


def test_a_plan_without_noise_is_refused_outside_simulation(tmp_path: Path) -> None:
    plan = tiny_plan("[privacy]\nenabled = false")
    home = build_home(tmp_path / "north", plan)
    for ask in (
        lambda site: hospital.greet(site, Hello(plan=plan.digest)),
        lambda site: hospital.train(site, request(plan)),
    ):
        with pytest.raises(PlanRefused, match="without noise"):
            ask(Site.open(home))
    assert hospital.train(Site.open(home, simulation_seed=1), request(plan)).epsilon == float("inf")


def test_weights_of_another_shape_are_refused_before_anything_is_booked(home: Path) -> None:
    asked = request(PLAN)
    asked.arrays["start.mean"] = np.zeros(3, np.float32)
    before = traces(home)
    with pytest.raises(MessageRefused):
        hospital.train(Site.open(home), asked)
    assert traces(home) == before


def test_what_has_no_right_to_leave_does_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hospital, "_compute", lambda *_: {"pixels": np.zeros(784, np.float32)})
    with pytest.raises(EgressRefused, match="nothing was sent"):
        hospital.train(Site.open(home), request(PLAN))
    assert not (home / "egress.jsonl").exists()
    assert not list((home / "spool").rglob("*.safetensors"))
