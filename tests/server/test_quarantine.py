"""Each fault of a reply, on its own, is named and keeps it out of the sum."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, RecordDict

from common.mechanism.moments import triangle
from common.model.study_model import initial
from common.plan.schedule import schedule
from common.wire.messages import TrainReply, TrainRequest, read_answer
from server.aggregation import quarantine
from server.aggregation.plain_sum import PlainSum
from server.aggregation.quarantine import Quarantined
from tests.server.sites import honest_reply, tiny_plan

PLAN = tiny_plan()
STEPS = schedule(PLAN)
WEIGHTS = initial(PLAN).arrays()
MEAN, SUBSPACE, PRIOR = 1, 2, 3


def honest(number: int) -> TrainReply:
    question = TrainRequest(plan=PLAN.digest, round=number, arrays=WEIGHTS)
    return honest_reply(PLAN, "north", question)


def read(record: RecordDict, number: int) -> str:
    """Reason for which the coordinator leaves this answer of north to round `number` out; "" where it counts."""
    try:
        reply = quarantine.counted(PLAN, STEPS[number - 1], "north", read_answer(record, TrainReply))
        if isinstance(reply, TrainReply):
            PlainSum(PLAN, STEPS[number - 1], WEIGHTS).check(reply)
    except Quarantined as error:
        return error.reason
    return ""


@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_an_honest_reply_counts_and_so_does_one_that_cost_next_to_nothing(number: int) -> None:
    assert read(honest(number).to_record(), number) == ""
    assert read(dataclasses.replace(honest(number), epsilon=0.0).to_record(), number) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"plan": "0" * 64}, "WrongRound"),
        ({"round": 1}, "WrongRound"),
        ({"phase": "prior"}, "WrongRound"),
        ({"site": "south"}, "WrongSite"),
        ({"delta": 1e-6}, "WrongCost"),
        ({"epsilon": 8.01}, "WrongCost"),
        ({"epsilon": -0.001}, "WrongCost"),
        ({"epsilon": float("inf")}, "WrongCost"),
    ],
)
def test_a_reply_that_says_something_else_than_it_was_asked_is_left_out(
    changes: dict[str, object], reason: str
) -> None:
    reply = dataclasses.replace(honest(SUBSPACE), **changes)  # type: ignore[arg-type]
    assert read(reply.to_record(), SUBSPACE) == reason


def test_a_reply_that_holds_more_than_its_release_is_left_out_by_name() -> None:
    for number in (SUBSPACE, len(STEPS)):
        reply = honest(number)
        more = dataclasses.replace(reply, arrays={**reply.arrays, "count": np.ones(1, np.float32)})
        assert read(more.to_record(), number) == "ExtraKey"
        other = {name: array.astype(np.uint64) for name, array in reply.arrays.items()}
        assert read(dataclasses.replace(reply, arrays=other).to_record(), number) == "WrongShape"
    for key in ("loss", "patients"):
        record = honest(SUBSPACE).to_record()
        record["message"] = ConfigRecord({**dict(record["message"]), key: 1.0})  # type: ignore[call-overload]
        assert read(record, SUBSPACE) == "ExtraKey"
    record = honest(SUBSPACE).to_record()
    record["metrics"] = ConfigRecord({"loss": 1.0})
    assert read(record, SUBSPACE) == "ExtraKey"


def fewer_than_none(values: np.ndarray) -> None:
    """One class counts fewer patients than none; both together count as many as before, and no moment is larger."""
    counts = values[PLAN.model.base**2 :]
    counts += np.array([-1000.0, 1000.0]) * PLAN.privacy.mean_clip


def negative_spread(values: np.ndarray) -> None:
    """The second moments of one class are of a negative size, and no larger than its count allows."""
    latent = PLAN.model.latent
    row = values.reshape(len(PLAN.data.labels), -1)[0]
    diagonal = np.cumsum([0, *range(latent, 1, -1)])
    row[:] = 0
    row[diagonal], row[-1] = -1000.0, 5000.0
    assert len(row) == triangle(latent) + latent + 1


@pytest.mark.parametrize(("harm", "number"), [(fewer_than_none, MEAN), (negative_spread, PRIOR)])
def test_a_release_that_no_cohorts_sums_could_be_is_left_out(harm: Callable[[np.ndarray], None], number: int) -> None:
    record = honest(number).to_record()
    values = record["arrays"]["release"].numpy().copy()  # type: ignore[index,call-overload]
    harm(values)
    record["arrays"]["release"] = Array(values.astype(np.float32))  # type: ignore[index,call-overload]
    assert read(record, number) == "NoCohort"
