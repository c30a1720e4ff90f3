"""A site speaks for no more patients than the plan says: one that lies about its size cannot outweigh all others."""

import dataclasses

import numpy as np
import pytest

from common.errors import PlanError
from common.mechanism import utility
from common.mechanism.moments import COUNT_WEIGHT, Array, detail_bands, pack_matrix
from common.mechanism.registry import sensitivity
from common.model.study_model import initial
from common.plan.schedule import Phase, Round, schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply, TrainRequest
from server.aggregation.plain_sum import PlainSum
from server.aggregation.quarantine import Quarantined
from tests.server.sites import PLAN, honest_reply

MOST = 120
TEXT = PLAN.replace("min_sites = 2\n", f"min_sites = 2\nmax_patients = {MOST}\n")
SMALL = StudyPlan.parse(TEXT + "[privacy]\nutility_share = 0.2\n")
BY_CLASS = StudyPlan.parse(TEXT.replace("base = 4\n", 'base = 4\ncovariance = "class"\n'))
WEIGHTS = initial(SMALL).arrays()


def one_patient(plan: StudyPlan, phase: Phase, random: np.random.Generator) -> Array:
    """A contribution at the very bound: no honest cohort's sum is longer than of such patients who all agree."""
    base = plan.model.base**2
    at = {"mean": base, "subspace": base, "means": 28**2, "scatters": base}.get(phase, plan.model.latent)
    clipped = random.normal(size=at)
    clipped /= np.linalg.norm(clipped)
    if phase == "mean":
        return plan.privacy.mean_clip * np.concatenate([clipped, [1.0, 0.0]])
    if phase == "means":
        row = plan.privacy.mean_clip * np.append(clipped, COUNT_WEIGHT)
        return np.concatenate([row, np.zeros_like(row)])
    scatter = pack_matrix(np.outer(clipped, clipped))
    if phase == "scatters":
        row = np.concatenate([scatter, np.zeros(detail_bands(28, plan.model.base).shape[1]), [COUNT_WEIGHT]])
        return np.concatenate([row, np.zeros_like(row)])
    if phase == "subspace":
        return np.append(scatter, COUNT_WEIGHT)
    row = np.concatenate([scatter, clipped, [COUNT_WEIGHT]])
    return np.concatenate([row, np.zeros_like(row)])


def release(plan: StudyPlan, step: Round, *, patients: int, seed: int) -> TrainReply:
    """A noised release of that many patients who all agree to the full."""
    random = np.random.default_rng(seed)
    reply = honest_reply(plan, "hill", TrainRequest(plan=plan.digest, round=step.number, arrays=WEIGHTS))
    if step.phase == "sgd":
        (ride,) = step.rides
        one, sigma, name = utility.SENSITIVITY * np.array([0.6, 0.8]), ride.event.sigma, utility.NAME
        bound = utility.SENSITIVITY
    else:
        one, bound = one_patient(plan, step.phase, random), sensitivity(plan, step.phase)
        assert np.linalg.norm(one) == pytest.approx(bound)
        sigma, name = step.event.sigma, "release"
    total = patients * one + random.normal(size=len(one)) * sigma * bound
    return dataclasses.replace(reply, arrays={**reply.arrays, name: total.astype(np.float32)})


@pytest.mark.parametrize(
    ("plan", "step"),
    [*((SMALL, step) for step in schedule(SMALL)[:4]), *((BY_CLASS, step) for step in schedule(BY_CLASS)[:2])],
    ids=lambda part: getattr(part, "phase", ""),
)
def test_the_largest_honest_cohort_passes_with_its_noise_and_a_larger_one_does_not(
    plan: StudyPlan, step: Round
) -> None:
    for seed in range(50):
        PlainSum(plan, step, WEIGHTS).check(release(plan, step, patients=MOST, seed=seed))
    with pytest.raises(Quarantined) as refused:
        PlainSum(plan, step, WEIGHTS).check(release(plan, step, patients=20 * MOST, seed=0))
    assert refused.value.reason == "NormOverBound"


@pytest.mark.parametrize(
    ("covariance", "number"), [("shared", 1), ("shared", 2), ("shared", 3), ("class", 1), ("class", 2)]
)
def test_without_noise_a_whole_cohort_that_agrees_to_the_full_passes_float32_and_all(
    covariance: str, number: int
) -> None:
    text = TEXT.replace("base = 4\n", f'base = 4\ncovariance = "{covariance}"\n')
    plan = StudyPlan.parse(text + "[privacy]\nenabled = false\n")
    step = schedule(plan)[number - 1]
    for seed in range(50):
        PlainSum(plan, step, WEIGHTS).check(release(plan, step, patients=MOST, seed=seed))


def test_without_a_word_in_the_plan_any_real_hospital_passes() -> None:
    plan = StudyPlan.parse(PLAN)
    step = schedule(plan)[0]
    PlainSum(plan, step, WEIGHTS).check(release(plan, step, patients=9_000_000, seed=0))


@pytest.mark.parametrize("most", [0, 9, 20_000_000])
def test_a_bound_below_the_smallest_cohort_or_beyond_all_hospitals_is_refused(most: int) -> None:
    with pytest.raises(PlanError, match=r"`aggregation\.max_patients`"):
        StudyPlan.parse(TEXT.replace(str(MOST), str(most)))
