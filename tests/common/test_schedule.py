"""A plan may keep rounds spare: whichever is computed twice, the study stays inside its epsilon."""

from pathlib import Path

import pytest

from common.accountant import privacy_loss
from common.accountant.accounting import GaussianEvent, epsilon
from common.errors import PlanError
from common.plan.schedule import EXACT, schedule, whole_cost
from common.plan.study_plan import StudyPlan

TEXT = 'name = "a"\n[training]\nrounds = 2\nlocal_steps = 2\n[privacy]\nepsilon = 3\n'


@pytest.mark.parametrize("phases", ['["moments", "sgd"]', '["sgd"]', '["moments"]'])
def test_any_round_computed_afresh_fits_inside_epsilon_where_one_is_spare(phases: str) -> None:
    plan = StudyPlan.parse(f"{TEXT}phases = {phases}\nspare_rounds = 1")
    rounds = [step.event for step in schedule(plan)]
    after = [epsilon([*rounds, again], delta=plan.privacy.delta) for again in rounds]
    assert max(after) <= 3
    assert max(after) > 2.9


def test_a_spare_round_is_paid_for_with_more_noise_and_none_is_the_default() -> None:
    plain, spare = (StudyPlan.parse(f'{TEXT}phases = ["moments"]\n{extra}') for extra in ("", "spare_rounds = 1"))
    assert plain.privacy.spare_rounds == 0
    for one, other in zip(schedule(plain), schedule(spare), strict=True):
        assert other.event.sigma > 1.1 * one.event.sigma
    assert epsilon([s.event for s in schedule(plain)] + [schedule(plain)[0].event], delta=plain.privacy.delta) > 3


@pytest.mark.parametrize("value", [-1, 11])
def test_an_impossible_number_of_spare_rounds_is_refused(value: int) -> None:
    with pytest.raises(PlanError, match=r"privacy\.spare_rounds"):
        StudyPlan.parse(f"{TEXT}spare_rounds = {value}")


EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
MOMENTS_8 = [2.2914160389110716, 1.0247524055476918, 1.1457080194555358]
NOISE = {
    "chest-phantoms": [*MOMENTS_8, 0.6708984375],
    "chest-phantoms-released": [*MOMENTS_8, 0.69140625],
    "ct-and-mr": [0.951171875],
    "hannover": [1.520147634978403, 0.6798306895294493, 0.7600738174892016, 1.0888671875],
    "mednist": [*MOMENTS_8, 0.64697265625],
    "pneumonia": [*MOMENTS_8, 1.0673828125],
    "pneumonia-released": [*MOMENTS_8, 1.1318359375],
}
"""The noise multipliers that the first version derived, by Opacus' PRV accountant."""


@pytest.mark.parametrize("name", sorted(NOISE))
def test_the_noise_of_a_plan_is_to_the_bit_what_ledgers_hold_of_it(name: str) -> None:
    rounds = schedule(StudyPlan.load(EXAMPLES / f"{name}.toml"))
    assert list(dict.fromkeys(step.event.sigma for step in rounds)) == NOISE[name]


def test_no_example_is_without_its_noise() -> None:
    assert sorted(NOISE) == sorted(path.stem for path in EXAMPLES.glob("*.toml"))


def test_a_plan_of_ten_thousand_rounds_asks_the_accountant_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, bound = [], privacy_loss.bound
    monkeypatch.setattr(privacy_loss, "bound", lambda steps, delta: asked.append(steps) or bound(steps, delta=delta))
    plan = StudyPlan.parse('name = "long"\n[training]\nrounds = 10000\nlocal_steps = 3\n[privacy]\nepsilon = 7.3\n')
    rounds = schedule(plan)
    assert len(rounds) == 10_003
    assert EXACT <= len(asked) <= EXACT + 40
    costs = [step.epsilon_after for step in rounds]
    assert costs == sorted(costs)
    assert 7.2 < whole_cost(plan) == costs[-1] <= 7.3
    for number in (4, 5, 60, 5_000, 9_999):
        spent = [step.event for step in rounds[:number]]
        assert epsilon(spent, delta=plan.privacy.delta) <= costs[number - 1] * (1 + 1e-9)


def test_of_a_few_rounds_each_has_its_own_cost() -> None:
    plan = StudyPlan.parse(f'name = "a"\n[training]\nrounds = {EXACT}\n[privacy]\nutility_share = 0.2\n')
    rounds, events = schedule(plan), list[GaussianEvent]()
    for step in rounds:
        events += step.events
        assert step.epsilon_after == epsilon(events, delta=plan.privacy.delta)
