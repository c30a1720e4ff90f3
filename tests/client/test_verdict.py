"""A site's word on a candidate: held-out patients never train, and one noised, booked, signed yes or no leaves."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import hospital
from client.approval import approvals
from client.approval.proposal import Proposal
from client.cohort.held_out import is_held_out, split
from client.cohort.identity import SIGNING_KEY, patient_key, site_secret
from client.egress import egress, spool
from client.evaluation import judge, votes
from client.evaluation.judge import candidate_of
from client.mechanism.randomness import SecureRandom
from client.site.site import Site
from common.accountant.accounting import epsilon
from common.errors import (
    BudgetExhausted,
    DataError,
    EgressRefused,
    GateFailed,
    MessageRefused,
    PlanRefused,
    StateError,
    by_name,
)
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.plan.schedule import schedule, verdict_event
from common.plan.study_plan import StudyPlan
from common.wire.messages import EvaluateRequest, Verdict, read_reply
from common.wire.signing import Key
from common.wire.verdicts import PASSED, signed, verified
from tests.client import hospitals

GATE = "[evaluation]\nheld_out_share = 0.4\nimages_per_label = 50\n"


def gated(name: str = "tiny", extra: str = "") -> StudyPlan:
    return hospitals.tiny_plan(GATE, extra, name=name)


def ask(plan: StudyPlan, *, shift: float = 0.0) -> EvaluateRequest:
    arrays = dict(hospitals.request(plan, shift=shift).arrays)
    random = np.random.default_rng(0)
    arrays["start.basis"] = random.normal(size=arrays["start.basis"].shape).astype(np.float32)
    arrays["start.factor"] = np.tile(np.eye(3, dtype=np.float32) * 0.2, (2, 1, 1))
    return EvaluateRequest(plan=plan.digest, arrays=arrays)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return hospitals.build_home(tmp_path / "site", gated(), patients=40)


def test_the_split_is_by_patient_disjoint_nested_and_nobody_elses_business(home: Path) -> None:
    site = Site.open(home)
    secret = site_secret(home)
    trained, held_out = site.cohorts(gated())
    assert not set(trained.patient_keys) & set(held_out.patient_keys)
    assert set(trained.patient_keys) | set(held_out.patient_keys) == set(site.cache.patient_keys)
    assert 0 < held_out.patients < 40
    wider = split(site.cache, secret, 0.5)[1]
    assert set(held_out.patient_keys) <= set(wider.patient_keys)
    keys = [f"{i:064x}" for i in range(2000)]
    assert 0.37 < np.mean([is_held_out(secret, key, 0.4) for key in keys]) < 0.43
    assert split(site.cache, secret, 0.0)[0] is site.cache


def test_no_image_of_a_held_out_patient_changes_what_a_round_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, real_image = gated(), hospitals.image
    answers = []
    for name in ("as it is", "held-out scans swapped"):
        home = tmp_path / name.replace(" ", "-")
        home.mkdir()
        (home / "secret.key").write_bytes(bytes(range(32)))
        keys = sorted(patient_key(bytes(range(32)), f"P{i}") for i in range(40))
        owner = [key for key in keys for _ in range(1 + int(key, 16) % 3)]
        out = {row for row, key in enumerate(owner) if is_held_out(bytes(range(32)), key, 0.4)}
        assert out

        def image(seed: int, size: int, swap: bool = name != "as it is", out: set[int] = out) -> NDArray[np.uint16]:
            return np.zeros((size, size), np.uint16) if swap and seed in out else real_image(seed, size)

        monkeypatch.setattr(hospitals, "image", image)
        hospitals.build_home(home, plan, patients=40)
        site = Site.open(home, simulation_seed=1)
        answers.append([hospital.train(site, hospitals.request(plan, number)).arrays for number in (1, 4)])
    for first, second in zip(*answers, strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_verdict_is_booked_once_signed_and_sent_again_for_nothing(home: Path) -> None:
    plan, site = gated(), Site.open(home)
    first = hospital.evaluate(site, ask(plan))
    events = site.ledger.events(plan=plan.digest)
    assert events == [verdict_event(plan)]
    assert first.epsilon == site.ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest) > 0
    assert verified(first, plan=plan.digest, candidate=Decoder.of(plan, ask(plan).arrays).digest) == first
    again = hospital.evaluate(Site.open(home), ask(plan))
    assert again == first
    assert Site.open(home).ledger.events(plan=plan.digest) == events
    lines = [json.loads(line) for line in (home / "egress.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["verdict", "verdict"]
    assert read_reply(first.to_record(), Verdict) == first


def test_a_verdict_is_given_where_a_class_has_nobody(tmp_path: Path) -> None:
    home = hospitals.build_home(tmp_path / "site", gated(), patients=40, labels=1)
    assert hospital.evaluate(Site.open(home), ask(gated())).outcome in (PASSED, *votes.CRITERIA)


def test_what_leaves_has_no_key_for_a_figure() -> None:
    assert {field.name for field in dataclasses.fields(Verdict)} == {
        "plan", "candidate", "site", "outcome", "epsilon", "delta", "ledger_head", "public", "signature",
    }  # fmt: skip


def test_the_stewards_page_and_figures_stay_inside_and_are_for_the_owner_alone(home: Path) -> None:
    verdict = hospital.evaluate(Site.open(home), ask(gated()))
    folder = home / "evaluation" / verdict.candidate[:32]
    assert {file.name for file in folder.iterdir()} == {"figures.json", "report.html"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
    page = (folder / "report.html").read_text()
    assert "must not leave the hospital" in page


@pytest.mark.parametrize("step", ["figures", "write_page"])
def test_no_fault_in_the_stewards_figures_holds_a_verdict_back(
    home: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are made of scans without noise, so whether a verdict is given must not turn on them."""

    def fails(*_: object) -> None:
        raise IndexError("of the patient 0815")

    monkeypatch.setattr(judge, step, fails)
    with caplog.at_level(logging.INFO):
        first = hospital.evaluate(Site.open(home), ask(gated()))
    assert "the steward's page could not be made: IndexError" in caplog.text
    assert "0815" not in caplog.text
    assert hospital.evaluate(Site.open(home), ask(gated())) == first
    assert len(Site.open(home).ledger.events()) == 1


def test_the_stewards_figures_come_once_the_verdict_is_stored_and_a_pause_meanwhile_still_holds_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan, plain, made = Site.open(home), gated(), judge.figures, []

    def watched(*arguments: Any) -> dict[str, Any]:
        made.append([row.kind for row in site.ledger.rows()].count("settle"))
        assert len(list((home / "verdicts").iterdir())) == 1
        assert list((home / "keys").glob("*.key")) == []
        approvals.pause(home, plan.digest, by="Dr. Steward")
        return plain(*arguments)

    monkeypatch.setattr(judge, "figures", watched)
    with pytest.raises(PlanRefused, match="paused"):
        hospital.evaluate(site, ask(plan))
    assert not (home / "egress.jsonl").exists()
    approvals.resume(home, plan.digest, by="Dr. Steward")
    hospital.evaluate(Site.open(home), ask(plan))
    assert made == [1]
    assert len(list((home / "evaluation").rglob("report.html"))) == 1


def test_a_plan_without_held_out_patients_gets_no_verdict_and_pays_nothing(tmp_path: Path) -> None:
    plan = hospitals.tiny_plan()
    site = Site.open(hospitals.build_home(tmp_path / "site", plan))
    with pytest.raises(PlanRefused, match="sets no patient aside"):
        hospital.evaluate(site, EvaluateRequest(plan=plan.digest, arrays=initial(plan).arrays()))
    assert site.ledger.events() == []


def test_a_verdict_past_the_limit_is_refused_before_a_scan_is_read(home: Path) -> None:
    hospitals.set_policy(home, study=0.5)
    with pytest.raises(BudgetExhausted):
        hospital.evaluate(Site.open(home), ask(gated()))
    assert Site.open(home).ledger.events() == []
    assert not (home / "evaluation").exists()


def test_a_second_candidate_is_a_second_booking_and_the_plan_pays_for_one_only(home: Path) -> None:
    plan = gated()
    hospital.evaluate(Site.open(home), ask(plan))
    for number in range(1, len(schedule(plan)) + 1):
        hospital.train(Site.open(home), hospitals.request(plan, number))
    spent = Site.open(home).ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest)
    assert 0.97 * plan.privacy.epsilon < spent <= plan.privacy.epsilon
    with pytest.raises(BudgetExhausted):
        hospital.evaluate(Site.open(home), ask(plan, shift=0.001))


def test_the_schedule_keeps_the_verdict_inside_the_plans_epsilon() -> None:
    for plan in (gated(), gated(extra='[privacy]\nphases = ["moments"]')):
        event = verdict_event(plan)
        assert event is not None
        whole = epsilon([*(step.event for step in schedule(plan)), event], delta=plan.privacy.delta)
        assert 0.9 * plan.privacy.epsilon < whole <= plan.privacy.epsilon


def test_a_model_that_draws_nothing_is_refused_before_anything_is_booked(home: Path) -> None:
    plan = gated()
    with pytest.raises(DataError, match="not fit for use"):
        hospital.evaluate(Site.open(home), EvaluateRequest(plan=plan.digest, arrays=initial(plan).arrays()))
    assert Site.open(home).ledger.events() == []


def test_a_server_that_skips_the_verdict_or_lies_about_the_weights_is_refused(home: Path) -> None:
    plan = gated()
    bad = {**ask(plan).arrays, "start.mean": np.full(28 * 28, np.nan, np.float32)}
    with pytest.raises(MessageRefused, match="not finite"):
        hospital.evaluate(Site.open(home), EvaluateRequest(plan=plan.digest, arrays=bad))
    with pytest.raises(MessageRefused, match="missing"):
        hospital.evaluate(Site.open(home), EvaluateRequest(plan=plan.digest, arrays={}))
    assert Site.open(home).ledger.events() == []


def test_an_altered_stored_verdict_never_leaves(home: Path) -> None:
    plan = gated()
    verdict = hospital.evaluate(Site.open(home), ask(plan))
    (file,) = (home / "verdicts").iterdir()
    other = "passed" if verdict.outcome != "passed" else "UtilityTooLow"
    file.write_text(file.read_text().replace(f'"outcome": "{verdict.outcome}"', f'"outcome": "{other}"'))
    with pytest.raises((EgressRefused, StateError)):
        hospital.evaluate(Site.open(home), ask(plan))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdict": {}, "entry": 1, "cohort": "c"}', "\xff"])
def test_a_stored_verdict_that_is_damaged_is_not_sent_and_costs_nothing(home: Path, content: str) -> None:
    verdict = hospital.evaluate(Site.open(home), ask(gated()))
    (file,) = (home / "verdicts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(StateError, match=r"is damaged .* Put this one file back .* remove it"):
        hospital.evaluate(Site.open(home), ask(gated()))
    assert len(Site.open(home).ledger.events()) == 1
    file.write_bytes(whole)
    assert hospital.evaluate(Site.open(home), ask(gated())) == verdict


def test_a_stored_verdict_that_names_another_ledgers_head_is_judged_anew(home: Path) -> None:
    plan = gated()
    verdict = hospital.evaluate(Site.open(home), ask(plan))
    finished = spool.find(home, ask(plan))
    assert finished is not None
    values = {name: value for name, value in vars(verdict).items() if name not in ("public", "signature")}
    planted = signed(Key.at(home / SIGNING_KEY), **{**values, "ledger_head": "f" * 64})
    spool.keep(home, ask(plan), dataclasses.replace(finished, answer=planted))
    again = hospital.evaluate(Site.open(home), ask(plan))
    assert again.ledger_head == egress.last_head(home) == Site.open(home).ledger.head()
    assert len(Site.open(home).ledger.events()) == 2


def test_one_patient_moves_the_votes_by_no_more_than_the_noise_is_made_for(tmp_path: Path) -> None:
    plan = gated()
    site = Site.open(hospitals.build_home(tmp_path / "site", plan, patients=20))
    request = ask(plan)
    candidate = candidate_of(plan, request.arrays)
    secret = site_secret(site.home)
    whole = votes.tally(plan, candidate, *split(site.cache, secret, 0.4))
    from client.cohort.consent import ConsentingCohort

    for gone in range(site.cache.patients):
        rest = ConsentingCohort(site.cache, [i for i in range(site.cache.patients) if i != gone], secret=secret)
        moved = whole - votes.tally(plan, candidate, *split(rest, secret, 0.4))
        assert np.abs(moved).max() <= 1 + 1e-9
        assert np.linalg.norm(moved) <= votes.SENSITIVITY


def test_the_verdict_is_noised_by_what_was_booked() -> None:
    far = np.array([-100.0, 5.0, 5.0])
    outcomes = [votes.decide(far, SecureRandom.from_os(), sigma=2.5, labelled=True) for _ in range(50)]
    assert set(outcomes) == {"FidelityTooLow"}
    at_the_edge = np.array([-votes.MARGIN * 2.5 * votes.SENSITIVITY, 100.0, 100.0])
    coin = [votes.decide(at_the_edge, SecureRandom.from_os(), sigma=2.5, labelled=True) == PASSED for _ in range(400)]
    assert 0.4 < np.mean(coin) < 0.6
    none = [votes.decide(np.zeros(3), SecureRandom.from_os(), sigma=2.5, labelled=True) == PASSED for _ in range(400)]
    assert np.mean(none) > 0.88
    unlabelled = votes.decide(np.array([9.0, -100.0, 9.0]), SecureRandom.from_os(), sigma=0.0, labelled=False)
    assert unlabelled == PASSED
    assert all(issubclass(by_name(name), GateFailed) for name in votes.CRITERIA)


def test_the_steward_reads_that_a_verdict_leaves_and_its_price_is_in_the_cost(home: Path) -> None:
    site = Site.open(home)
    proposal = Proposal.weigh(gated(), site.policy, site.ledger)
    assert "a signed verdict on the generator" in proposal.text()
    assert schedule(gated())[-1].epsilon_after < proposal.cost <= gated().privacy.epsilon
