"""Averaging is plain, order-free arithmetic in double precision."""

import numpy as np

from common.messages import TrainRequest
from common.schedule import schedule
from common.vae import initial
from common.weights import digest
from server.aggregate import fed_avg, join
from tests.server.sites import honest_reply, tiny_plan


def test_average_is_the_mean_of_the_updates() -> None:
    rng = np.random.default_rng(0)
    updates = [{"w": rng.normal(size=(3, 4)).astype(np.float32)} for _ in range(5)]
    expected = np.mean([u["w"].astype(np.float64) for u in updates], axis=0)
    np.testing.assert_allclose(fed_avg(updates)["w"], expected, rtol=1e-6, atol=1e-7)
    assert fed_avg(updates)["w"].dtype == np.float32


def test_one_site_alone_is_taken_over_as_it_is() -> None:
    update = {"w": np.float32([[1.25, -7.5]])}
    np.testing.assert_array_equal(fed_avg([update])["w"], update["w"])


def test_order_of_arrival_does_not_change_a_bit() -> None:
    plan = tiny_plan()
    weights = initial(plan).arrays()
    for step in schedule(plan):
        request = TrainRequest(plan=plan.digest, round=step.number, arrays=weights)
        replies = {site: honest_reply(plan, site, request) for site in ("a", "b", "c")}
        forwards = join(plan, step, weights, replies)
        backwards = join(plan, step, weights, dict(reversed(replies.items())))
        assert digest(forwards) == digest(backwards)
        weights = forwards
