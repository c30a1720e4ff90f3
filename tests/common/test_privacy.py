"""Epsilon is an upper bound, agrees with an independent accountant, and the schedule stays inside the plan."""

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant, privacy_loss_distribution
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import norm

from common.accountant import accounting, privacy_loss, renyi
from common.accountant.accounting import LEAST_LOSS_DELTA, GaussianEvent, epsilon, smallest_multiplier
from common.errors import PlanError
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan


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


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.0, 0.02, 300), (4.0, 0.25, 300), (0.6, 0.1, 20), (8.0, 0.9, 50)]
)
def test_both_directions_of_the_relation_agree_with_google(sigma: float, rate: float, steps: int) -> None:
    theirs = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=2e-4
    ).self_compose(steps)
    for direction, mass in (("removed", theirs._pmf_remove), ("added", theirs._pmf_add)):
        ours = privacy_loss._epsilon([(sigma, rate, steps)], 1e-5, direction, 1)
        assert ours == pytest.approx(mass.get_epsilon_for_delta(1e-5), abs=1e-3)
        coarse = privacy_loss._epsilon([(sigma, rate, steps)], 1e-5, direction, 8)
        assert ours <= coarse <= ours + 0.01


@pytest.mark.parametrize("direction", ["removed", "added"])
def test_the_worse_direction_counts(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"removed": 1.0, "added": 1.0, direction: 2.0}
    monkeypatch.setattr(privacy_loss, "_epsilon", lambda _steps, _delta, which, _coarser: costs[which])
    assert privacy_loss.bound([(1.0, 0.5, 1)], delta=1e-5) == 2.0


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning:opacus.*")  # PRV's mean; its result is right
def test_epsilon_is_what_the_accountant_of_earlier_versions_found() -> None:
    for events, delta in random_histories(12, seed=4):
        history = [(one.sigma, one.sample_rate, one.steps) for one in events]
        prv, rdp = PRVAccountant(), RDPAccountant()
        prv.history, rdp.history = list(history), list(history)
        with np.errstate(all="ignore"):
            before = min(prv.get_epsilon(delta), rdp.get_epsilon(delta, alphas=list(renyi.ORDERS)))
        assert epsilon(events, delta=delta) == pytest.approx(before, abs=3e-4)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.0, 0.02, 2000), (0.5, 0.05, 100), (50.0, 0.01, 100), (4.0, 1.0, 3)]
)
def test_the_cheap_bound_is_that_of_mironov(sigma: float, rate: float, steps: int) -> None:
    accountant = RDPAccountant()
    accountant.history = [(sigma, rate, steps)]
    with np.errstate(all="ignore"):
        theirs = accountant.get_epsilon(1e-5, alphas=list(renyi.ORDERS))
    assert renyi.bound([(sigma, rate, steps)], delta=1e-5) == pytest.approx(theirs, rel=1e-6)


def exact(sigma: float, eps: float) -> float:
    """Delta of one Gaussian mechanism (Balle & Wang 2018)."""
    return float(norm.cdf(0.5 / sigma - eps * sigma) - math.exp(eps) * norm.cdf(-0.5 / sigma - eps * sigma))


def test_runs_on_every_patient_are_one_run_exactly() -> None:
    apart = [event(5.0 + i / 7, 1.0, i) for i in range(1, 200)]
    sigma = 1 / math.sqrt(math.fsum(one.steps / one.sigma**2 for one in apart))
    cost = epsilon(apart, delta=1e-5)
    assert cost == epsilon([event(sigma, 1.0, 1)], delta=1e-5)
    assert exact(sigma, cost - accounting.STATED_ERROR) == pytest.approx(1e-5 * (1 - accounting.STATED_SHARE), rel=1e-6)
    assert epsilon([*apart, event(1.0, 0.1, 9)], delta=1e-5) == epsilon([event(1.0, 0.1, 9), *apart[::-1]], delta=1e-5)


@pytest.mark.parametrize("mechanism", [(100.0, 1e-4, 1), (1e9, 1.0, 1), (1e308, 0.5, 1), (1e3, 1e-300, 10)])
@pytest.mark.parametrize("delta", [1e-3, 0.5, 1e-12])
def test_epsilon_is_never_below_0(mechanism: tuple[float, float, int], delta: float) -> None:
    assert 0 <= epsilon([event(*mechanism)], delta=delta) < 0.1


def test_less_noise_than_can_be_squared_costs_everything() -> None:
    assert epsilon([event(1e-200, 1.0, 1)], delta=1e-5) == math.inf
    assert epsilon([event(1e-200, 0.5, 1), event(1.0, 1.0, 1)], delta=1e-5) == math.inf


def fifty_studies(count: int = 50) -> list[GaussianEvent]:
    """Studies of their own noise and rate, each with moments rounds and 200 rounds of 3 steps."""
    random = np.random.default_rng(0)
    studies = [(5 + random.random(), 0.05 + 0.001 * number) for number in range(count)]
    return [one for sigma, rate in studies for one in [event(4 * sigma, 1.0, 1), *[event(sigma, rate, 3)] * 200]]


def test_fifty_studies_cost_no_less_than_google_says() -> None:
    runs = Counter(fifty_studies())
    merged = [event(one.sigma, one.sample_rate, one.steps * count) for one, count in runs.items()]
    theirs = by_google(merged, 1e-5)
    assert theirs <= epsilon(fifty_studies(), delta=1e-5) <= theirs + 0.02


def test_fifty_studies_need_grids_of_bounded_size_and_little_memory() -> None:
    accounting._epsilon.cache_clear()
    privacy_loss._spectrum.cache_clear()
    tracemalloc.start()
    try:
        assert 12 < epsilon(fifty_studies(), delta=1e-5) < 14
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()
    for direction in ("removed", "added"):
        grid = privacy_loss._grid(
            [(one.sigma, one.sample_rate, 600) for one in fifty_studies()[1::201]], 1e-5, direction, 1
        )
        assert grid is not None
        assert grid.points <= privacy_loss.MOST_POINTS


def test_of_very_many_mechanisms_similar_ones_count_as_the_worst_of_them() -> None:
    random = np.random.default_rng(1)
    many = [event(20 + random.random(), 0.05 + 0.01 * random.random(), 3) for _ in range(2 * accounting.MOST_KINDS)]
    gathered = accounting._gathered([(one.sigma, one.sample_rate, one.steps) for one in many])
    assert len(gathered) <= accounting.MOST_KINDS
    assert sum(steps for _, _, steps in gathered) == 3 * len(many)
    assert min(sigma for sigma, _, _ in gathered) == min(one.sigma for one in many)
    assert max(rate for _, rate, _ in gathered) == max(one.sample_rate for one in many)
    assert all(any(sigma <= one.sigma and one.sample_rate <= rate for sigma, rate, _ in gathered) for one in many)
    apart = privacy_loss.bound([(one.sigma, one.sample_rate, one.steps) for one in many], delta=1e-5)
    assert apart < epsilon(many, delta=1e-5) < 1.05 * apart


def test_short_memory_is_an_error_and_never_another_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(privacy_loss, "_solve", short)
    with pytest.raises(MemoryError):
        epsilon([event(1.2345679, 0.1234568, 50)], delta=1e-5)  # nobody else's, as what it costs is kept


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
    monkeypatch.setattr(privacy_loss, "bound", lambda *_, **__: 0.25)
    mine = [event(1.2345678, 0.1234567, 50)]  # nobody else's, as what it costs is kept
    assert epsilon(mine, delta=LEAST_LOSS_DELTA) == 0.25 + accounting.STATED_ERROR
    assert epsilon(mine, delta=LEAST_LOSS_DELTA / 2) > 1
