"""Epsilon is an upper bound, agrees with an independent accountant, and the schedule stays inside the plan."""

import math

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from common.errors import PlanError
from common.plan import StudyPlan
from common.privacy import GaussianEvent, epsilon, smallest_multiplier
from common.schedule import schedule


def event(sigma: float, rate: float, steps: int) -> GaussianEvent:
    return GaussianEvent(sigma=sigma, sample_rate=rate, steps=steps)


def by_google(events: list[GaussianEvent], delta: float) -> float:
    accountant = pld_privacy_accountant.PLDAccountant()
    for one in events:
        gaussian = dp_event.GaussianDpEvent(one.sigma)
        sampled = gaussian if one.sample_rate == 1 else dp_event.PoissonSampledDpEvent(one.sample_rate, gaussian)
        accountant.compose(dp_event.SelfComposedDpEvent(sampled, one.steps))
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(
    "events",
    [
        [event(1.0, 0.02, 200)],
        [event(4.0, 0.25, 60)],
        [event(10.0, 1.0, 20)],
        [event(2.3, 1.0, 1), event(1.0, 1.0, 1), event(1.2, 1.0, 1), event(0.8, 0.05, 50)],
    ],
)
def test_epsilon_agrees_with_google_and_is_never_below_it(events: list[GaussianEvent]) -> None:
    ours, theirs = epsilon(events, delta=1e-5), by_google(events, 1e-5)
    assert theirs <= ours <= theirs + 0.02


def test_order_and_fragmentation_do_not_change_epsilon() -> None:
    whole = epsilon([event(1.0, 0.02, 100), event(2.0, 1.0, 1)], delta=1e-5)
    pieces = [event(1.0, 0.02, 40), event(2.0, 1.0, 1), event(1.0, 0.02, 60)]
    assert epsilon(pieces, delta=1e-5) == whole


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], delta=1e-5) == 0.0
    assert epsilon([event(1.0, 0.1, 1), event(0.0, 0.1, 1)], delta=1e-5) == math.inf


def test_found_multiplier_is_within_the_limit_and_barely() -> None:
    def cost(sigma: float) -> float:
        return epsilon([event(sigma, 0.1, 30)], delta=1e-5)

    found = smallest_multiplier(cost, limit=2.0, what="a test")
    assert cost(found) <= 2.0 < cost(found * 0.99)


def test_unreachable_epsilon_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="too small"):
        smallest_multiplier(lambda _: 1.0, limit=0.5, what="a test")


@pytest.mark.parametrize("phases", ['["moments", "sgd"]', '["sgd"]', '["moments"]'])
def test_the_whole_schedule_costs_what_the_plan_allows_and_hardly_less(phases: str) -> None:
    plan = StudyPlan.parse(f'name = "a"\n[training]\nrounds = 3\n[privacy]\nepsilon = 3\nphases = {phases}')
    rounds = schedule(plan)
    assert [r.number for r in rounds] == list(range(1, len(rounds) + 1))
    assert epsilon([r.event for r in rounds], delta=plan.privacy.delta) == rounds[-1].epsilon_after
    assert 2.98 < rounds[-1].epsilon_after <= 3.0
    spent = [r.epsilon_after for r in rounds]
    assert spent == sorted(spent)


def test_a_plan_without_privacy_has_no_noise_and_says_infinity() -> None:
    rounds = schedule(StudyPlan.parse('name = "a"\n[privacy]\nenabled = false'))
    assert all(r.event.sigma == 0 and r.epsilon_after == math.inf for r in rounds)
