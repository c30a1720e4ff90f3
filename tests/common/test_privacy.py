"""Epsilon is an upper bound, agrees with an independent accountant, and the schedule stays inside the plan."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from opacus.accountants import PRVAccountant

from common.errors import PlanError
from common.plan import StudyPlan
from common.privacy import LEAST_PRV_DELTA, GaussianEvent, epsilon, smallest_multiplier
from common.schedule import schedule


def event(sigma: float, rate: float, steps: int) -> GaussianEvent:
    return GaussianEvent(sigma=sigma, sample_rate=rate, steps=steps)


def by_google(events: list[GaussianEvent], delta: float, *, step: float = 1e-4) -> float:
    """Upper bound of an accountant that shares no code with ours; `step` is its discretisation of the privacy loss."""
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=step)
    for one in events:
        gaussian = dp_event.GaussianDpEvent(one.sigma)
        sampled = gaussian if one.sample_rate == 1 else dp_event.PoissonSampledDpEvent(one.sample_rate, gaussian)
        accountant.compose(dp_event.SelfComposedDpEvent(sampled, one.steps))
    return float(accountant.get_epsilon(delta))


PUBLISHED = [
    ([event(1.0, 0.02, 2000)], 5.6158),
    ([event(2.0, 0.1, 500)], 5.5555),
    ([event(4.0, 0.25, 300)], 4.9692),
    ([event(10.0, 1.0, 100)], 4.3772),
    ([event(0.5, 0.05, 100)], 18.1938),
    ([event(0.3, 0.05, 100)], 66.2144),
    ([event(50.0, 0.01, 100)], 0.0045),
    ([event(1.0, 0.01, 1)], 0.1995),
]
"""Histories at delta 1e-5 with Google's PLD epsilon as it was first measured (dp-accounting 0.6.0, step 1e-4)."""


@pytest.mark.parametrize(("events", "known"), PUBLISHED)
def test_epsilon_agrees_with_google_on_the_published_table_and_is_never_below_it(
    events: list[GaussianEvent], known: float
) -> None:
    ours = epsilon(events, delta=1e-5)
    theirs = by_google(events, 1e-5, step=1e-4 if known < 1 else 1e-3)
    assert theirs == pytest.approx(known, abs=1e-3)
    assert theirs <= ours <= theirs + 0.02


def random_histories(count: int, *, seed: int) -> list[tuple[list[GaussianEvent], float]]:
    """Histories of one to three different mechanisms and a delta, drawn until `count` of them cost 0.05 to 10.

    No plan may ask for more than 10; below 0.05 both accountants report their own discretisation.
    """
    random = np.random.default_rng(seed)
    histories: list[tuple[list[GaussianEvent], float]] = []
    while len(histories) < count:
        events = [
            event(
                float(np.exp(random.uniform(np.log(0.6), np.log(30)))),
                1.0 if random.random() < 0.3 else float(np.exp(random.uniform(np.log(1e-3), 0))),
                int(random.integers(1, 60)),
            )
            for _ in range(random.integers(1, 4))
        ]
        delta = 10.0 ** -float(random.integers(4, 9))
        if 0.05 < by_google(events, delta, step=1e-2) < 10:
            histories.append((events, delta))
    return histories


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning:opacus.*")  # PRV's mean; its result is right
def test_epsilon_agrees_with_google_on_a_hundred_random_histories_and_is_never_below_it() -> None:
    gaps = []
    for events, delta in random_histories(100, seed=3):
        ours, theirs = epsilon(events, delta=delta), by_google(events, delta, step=1e-3)
        if not theirs <= ours <= theirs + 0.02:  # a coarse step rounds up; only the fine one may accuse
            theirs = by_google(events, delta)
        assert theirs <= ours <= theirs + 0.02, (events, delta, ours, theirs)
        gaps.append(ours - theirs)
    assert len(gaps) == 100
    assert 0 <= min(gaps) <= max(gaps) <= 0.02


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


def test_below_the_deltas_that_were_compared_the_looser_bound_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PRVAccountant, "get_epsilon", lambda *_: 0.25)
    mine = [event(1.2345678, 0.1234567, 50)]  # nobody else's, as what it costs is kept
    assert epsilon(mine, delta=LEAST_PRV_DELTA) == 0.25
    assert epsilon(mine, delta=LEAST_PRV_DELTA / 2) > 1
