"""A plan may keep rounds spare: whichever is computed twice, the study stays inside its epsilon."""

import pytest

from common.errors import PlanError
from common.plan import StudyPlan
from common.privacy import epsilon
from common.schedule import schedule

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
