"""Averaging is streaming and exact: each reply is added and dropped, and the order of arrival changes no bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.study_model import initial
from common.model.weights import Weights, digest
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply, TrainRequest
from server.aggregation.exact_sum import MOST_TERMS, ExactSum
from server.aggregation.plain_sum import PlainSum
from server.mechanism.half import Case, half_of
from tests.server.sites import honest_reply, tiny_plan


def joined(plan: StudyPlan, step: Round, weights: Weights, replies: list[TrainReply]) -> Weights:
    total = PlainSum(plan, step, weights)
    for reply in replies:
        total.add(reply)
    return half_of(step.phase).absorb(Case.of_site(plan, step, weights), total.join())


def test_order_of_arrival_does_not_change_a_bit_in_any_phase() -> None:
    plan = tiny_plan()
    weights = initial(plan).arrays()
    for step in schedule(plan):
        request = TrainRequest(plan=plan.digest, round=step.number, arrays=weights)
        replies = [honest_reply(plan, site, request) for site in ("a", "b", "c", "d")]
        digests = {digest(joined(plan, step, weights, list(order))) for order in itertools.permutations(replies)}
        assert len(digests) == 1
        weights = joined(plan, step, weights, replies)


def test_the_average_is_the_mean_of_the_updates_and_leaves_the_start_alone() -> None:
    plan = tiny_plan()
    weights = initial(plan).arrays()
    step = schedule(plan)[-1]
    request = TrainRequest(plan=plan.digest, round=step.number, arrays=weights)
    replies = [honest_reply(plan, site, request) for site in ("a", "b", "c")]
    after = joined(plan, step, weights, replies)
    assert set(after) == set(weights)
    for name in weights:
        if name in replies[0].arrays:
            expected = np.mean([reply.arrays[name].astype(np.float64) for reply in replies], axis=0)
            np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-9)
        else:
            assert after[name] is weights[name]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_a_sum_is_the_same_in_any_order_and_the_true_one_to_float32(values: list[float], random: object) -> None:
    def mean(terms: list[float]) -> float:
        total = ExactSum({"w": 100.0})
        for term in terms:
            total.add({"w": np.float32([term])})
        return float(total.mean(["w"])["w"][0])

    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert mean(values) == mean(shuffled)
    assert mean(values) == pytest.approx(np.mean(np.float64(values)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "term",
    [{"w": np.float32([3.0])}, {"w": np.float32([np.nan])}, {"v": np.float32([1.0])}, {"w": np.float32([np.inf])}],
)
def test_a_term_that_could_overflow_the_sum_is_never_added(term: Weights) -> None:
    total = ExactSum({"w": 2.0})
    with pytest.raises(ValueError, match=r"past its reach|cannot be added"):
        total.add(term)
    assert total.terms == 0


def test_as_many_terms_as_promised_fit_at_the_very_reach() -> None:
    total = ExactSum({"w": 2.0})
    total._sums["w"] = np.full(1, (MOST_TERMS - 1) * 2**48, np.int64)
    total.terms = MOST_TERMS - 1
    total.add({"w": np.float32([2.0])})
    assert total.total("w")[0] == 2.0 * MOST_TERMS
    with pytest.raises(ValueError, match="cannot be added"):
        total.add({"w": np.float32([0.0])})
