"""A phase is one object with three halves: none is missing, and none is found missing after hospitals have paid."""

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client import hospital
from client.approval.proposal import Proposal
from client.mechanism import half as at_the_site
from client.mechanism import moments
from client.mechanism.audit import audit
from client.mechanism.randomness import SecureRandom
from client.site.site import Site
from common.accountant.accounting import GaussianEvent
from common.errors import MessageRefused, PlanError
from common.mechanism import registry
from common.mechanism.mechanism import Mechanism, Rider
from common.mechanism.registry import MECHANISMS, RIDERS, STAGES, SUMS
from common.plan.schedule import Phase, schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello
from deploy.planning.calibration import calibrate
from server.aggregation import sums
from server.mechanism import half as at_the_server
from server.protocol import rounds
from server.report.page import render_report
from server.study.study import RoundRecord, Study
from tests.client.hospitals import build_home, tiny_plan
from tests.server.report_cases import Page, a_round, a_study
from tests.server.sites import COUNTS, ScriptedExchange


def plans() -> Iterator[StudyPlan]:
    """A plan of every kind of schedule there is."""
    for phases in ('["moments"]', '["sgd"]', '["moments", "sgd"]', '["warm", "moments", "sgd"]'):
        for share in (0.0, 0.1) if "sgd" in phases else (0.0,):
            plan = tiny_plan(f"[privacy]\nphases = {phases}\nutility_share = {share}")
            yield plan
            if "moments" in phases:
                yield dataclasses.replace(plan, model=dataclasses.replace(plan.model, components=2))
                yield dataclasses.replace(plan, model=dataclasses.replace(plan.model, covariance="class"))


KINDS = list(plans())


def test_every_phase_of_a_schedule_is_a_mechanism_and_every_mechanism_is_in_some_schedule() -> None:
    steps = [step for plan in KINDS for step in schedule(plan)]
    assert {step.phase for step in steps} == set(MECHANISMS)
    assert {ride.rider for step in steps for ride in step.rides} == set(RIDERS)
    names = [*MECHANISMS, *RIDERS, "verdict"]
    assert len(set(names)) == len(names), "ledger rows would be mistaken for each other"
    assert {name for plan in KINDS for name in plan.privacy.phases} == {*STAGES, "warm"}


@pytest.mark.parametrize("phase", MECHANISMS)
def test_a_mechanism_has_a_half_at_the_hospital_and_one_at_the_coordinator(phase: Phase) -> None:
    assert callable(at_the_site.half_of(phase).release)
    coordinator = at_the_server.half_of(phase)
    assert all(callable(getattr(coordinator, part)) for part in ("reach", "check", "absorb"))


def test_every_half_belongs_to_something_that_both_sides_know() -> None:
    declared: list[Mechanism | Rider] = [*MECHANISMS.values(), *RIDERS.values()]
    for module in {one.module for one in declared}:
        theirs = {one.name for one in declared if one.module == module}
        assert set(importlib.import_module(f"{at_the_site.SIDE}.{module}").HALVES) == theirs
    for module in {one.module for one in MECHANISMS.values()}:
        theirs = {one.name for one in MECHANISMS.values() if one.module == module}
        assert set(importlib.import_module(f"{at_the_server.SIDE}.{module}").HALVES) == theirs
    for one in SUMS.values():
        for side in (at_the_site.SIDE, sums.SIDE):
            assert one.name in importlib.import_module(f"{side}.{one.module}").HALVES
    at_the_site.load()


@pytest.mark.parametrize("phase", MECHANISMS)
def test_a_mechanism_knows_what_leaves_how_much_a_patient_moves_it_and_how_clear_it_is(phase: Phase) -> None:
    plan, step = next((plan, step) for plan in KINDS for step in schedule(plan) if step.phase == phase)
    one = MECHANISMS[phase]
    shapes = one.arrays(plan)
    assert shapes
    assert not set(shapes) & set(RIDERS)
    assert all(size > 0 for shape in shapes.values() for size in shape)
    assert 0 < one.sensitivity(plan) < np.inf
    few, many = (one.signal_to_noise(plan, step.event, patients) for patients in (100, 200))
    assert 0 < few < many
    assert min(map(len, (one.leaves, one.title, one.band))) > 0


@pytest.mark.parametrize("plan", KINDS, ids=lambda plan: f"{plan.model.covariance}-{plan.model.components}")
def test_a_steward_and_a_reader_are_told_of_every_phase_in_words(plan: StudyPlan, tmp_path: Path) -> None:
    site = Site.open(build_home(tmp_path / "north", plan))
    text = Proposal.weigh(plan, site.policy, site.ledger, over_budget=True).text()
    for phase in {step.phase for step in schedule(plan)}:
        assert f"{phase}: {MECHANISMS[phase].leaves}, " in text
    lines = [a_round(step.number, phase=step.phase) for step in schedule(plan)]
    page = Page(render_report(a_study(rounds=lines))).text
    assert all(MECHANISMS[line.phase].title in page for line in lines)


def spectral(monkeypatch: pytest.MonkeyPatch, *, known: bool) -> StudyPlan:
    """A plan whose last round has a phase that this installation does not have, or has no halves of."""
    event = GaussianEvent(sigma=2.0, sample_rate=1.0, steps=1)
    stage = dataclasses.replace(
        STAGES["moments"], rounds=lambda _plan, _multiplier: [("mean", event), ("spectrum", event)]
    )
    monkeypatch.setitem(STAGES, "moments", stage)
    if known:
        monkeypatch.setitem(MECHANISMS, "spectrum", dataclasses.replace(MECHANISMS["mean"], name="spectrum"))
    return tiny_plan('[privacy]\nphases = ["moments"]', name=f"spectral-{known}".lower())


def test_the_scripted_sites_of_tests_have_a_release_of_every_sum() -> None:
    assert set(COUNTS) == {name for name, one in MECHANISMS.items() if not one.trains}


def test_an_audit_and_a_calibration_refuse_a_phase_that_trains_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """They run the patient trainer, whose figures would say nothing of another mechanism."""
    other = dataclasses.replace(MECHANISMS["sgd"], name="other", module="moments")
    event = GaussianEvent(sigma=2.0, sample_rate=0.1, steps=1)
    monkeypatch.setitem(MECHANISMS, "other", other)
    monkeypatch.setitem(moments.HALVES, "other", moments.HALVES["mean"])
    stage = dataclasses.replace(STAGES["sgd"], rounds=lambda _plan, _multiplier: [("other", event)])
    monkeypatch.setitem(STAGES, "sgd", stage)
    plan = tiny_plan('[privacy]\nphases = ["sgd"]', name="trained-otherwise")
    with pytest.raises(PlanError, match="'other' does not train by the patient trainer"):
        audit(plan, random=SecureRandom.simulated(1), device=torch.device("cpu"))
    with pytest.raises(PlanError, match="does not train by the patient trainer"):
        calibrate(plan)


def test_an_unknown_phase_is_refused_as_soon_as_a_plan_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match="phase 'spectrum' is not one of this version"):
        schedule(spectral(monkeypatch, known=False))
    plan = tiny_plan(name="staged")
    monkeypatch.delitem(STAGES, "sgd")
    with pytest.raises(PlanError, match="has the phase 'sgd', which this version does not know"):
        schedule(plan)


def test_a_study_is_refused_before_its_first_round_where_the_coordinator_lacks_a_half_of_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = spectral(monkeypatch, known=True)
    (tmp_path / "plan.toml").write_text("")
    study = Study(tmp_path, plan, {})
    exchange = ScriptedExchange(plan, ("a", "b"))
    with pytest.raises(PlanError, match=r"'spectrum' has no half in server\.mechanism\.moments"):
        rounds.run(study, exchange)
    assert exchange.asked == []


def test_a_hospital_that_lacks_a_half_says_no_to_the_hello_and_books_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = spectral(monkeypatch, known=True)
    site = Site.open(build_home(tmp_path / "north", plan))
    with pytest.raises(PlanError, match=r"'spectrum' has no half in client\.mechanism\.moments"):
        hospital.greet(site, Hello(plan=plan.digest))
    assert site.ledger.events() == []


def test_a_record_of_before_riders_had_a_table_is_read_and_written_as_it_was() -> None:
    old = {
        "number": 4,
        "phase": "sgd",
        "replied": {"north": {"update": "a", "epsilon": 1.0, "ledger_head": "b"}},
        "missing": {},
        "utility": 0.3,
        "weights": "c",
        "seconds": 1.0,
        "site_error": 0.2,
        "site_error_std": 0.01,
    }
    record = RoundRecord.of(old)
    assert record.readings["utility"].value == 0.2
    assert list(record.plain().items()) == list(old.items())
    unpaid = {**old, "site_error": None, "site_error_std": None}
    assert RoundRecord.of(unpaid).readings == {}
    assert RoundRecord.of(unpaid).plain() == unpaid


def test_a_sum_names_the_type_of_what_it_sends_and_takes_no_other() -> None:
    plan = KINDS[0]
    chosen, shapes = registry.sum_of(plan), registry.leaving(plan, "mean")
    right = {name: np.zeros(shape, chosen.dtype) for name, shape in shapes.items()}
    chosen.check(right, shapes, what="reply")
    assert chosen.size(shapes) == sum(array.nbytes for array in right.values())
    for wrong in (
        {name: array.astype(np.uint64) for name, array in right.items()},
        {name: np.full_like(array, np.nan) for name, array in right.items()},
        {name: array[1:] for name, array in right.items()},
        {**right, "more": np.zeros(1, np.float32)},
        {},
    ):
        with pytest.raises(MessageRefused):
            chosen.check(wrong, shapes, what="reply")
