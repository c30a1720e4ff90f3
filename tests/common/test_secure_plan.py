"""A plan shares its noise with numbers that a claim follows from, or is refused by the key that is wrong."""

import pytest

from common.errors import PlanError
from common.mechanism.masked_sum import BOXES, COMMITMENT
from common.mechanism.registry import leaving, release_length, sum_of
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan

TEXT = """
name = "shared"
[model]
channels = [4, 8]
latent = 3
base = 4
[training]
rounds = 0
[privacy]
phases = ["moments"]
[aggregation]
secure = true
hospitals = 4
colluding = 1
dropouts = 1
min_sites = 3
"""


def test_a_plan_that_shares_its_noise_has_the_same_rounds_and_another_sum() -> None:
    shared, plain = StudyPlan.parse(TEXT), StudyPlan.parse(TEXT.partition("[aggregation]")[0])
    assert schedule(shared) == schedule(plain)
    assert shared.digest != plain.digest
    assert (sum_of(shared).name, sum_of(plain).name) == ("masked", "plain")
    length = release_length(shared, "mean")
    assert leaving(shared, "mean") == {"release": (length,), BOXES: (4, 8), COMMITMENT: (4,)}
    assert sum_of(shared).size(leaving(shared, "mean")) == 8 * (length + 32 + 4)
    assert shared.aggregation.share == pytest.approx(2**-0.5)
    assert plain.aggregation.share == 1.0


@pytest.mark.parametrize(("old", "new", "key"), [
    ("hospitals = 4", "hospitals = 2", "aggregation.hospitals"),
    ("hospitals = 4\n", "", "aggregation.hospitals"),
    ("colluding = 1", "colluding = 0", "aggregation.colluding"),
    ("colluding = 1", "colluding = 3", "aggregation.colluding"),
    ("dropouts = 1", "dropouts = 2", "aggregation.dropouts"),
    ("min_sites = 3", "min_sites = 2", "aggregation.min_sites"),
    ("min_sites = 3", "min_sites = 4", "aggregation.min_sites"),
    ("min_sites = 3", 'min_sites = 3\nroster = "ab"', "aggregation.roster"),
    ("min_sites = 3", 'min_sites = 3\nstrategy = "median"', "aggregation.strategy"),
    ("min_sites = 3", 'min_sites = 3\nstrategy = "trimmed_mean"\ntrim_share = 0.4', "aggregation.strategy"),
    ('["moments"]', '["moments", "sgd"]', "privacy.phases"),
    ('["moments"]', '["moments"]\nenabled = false', "privacy.enabled"),
    ("rounds = 0", 'rounds = 0\nfederated = "decoder"', "training.federated"),
    ("rounds = 0", "rounds = 0\nproximal = 0.1", "training.proximal"),
    ("secure = true", "secure = false", "aggregation.secure"),
    ("secure = true\n", "", "aggregation.secure"),
])  # fmt: skip
def test_a_plan_that_shares_noise_without_a_claim_is_refused_by_its_key(old: str, new: str, key: str) -> None:
    assert old in TEXT
    with pytest.raises(PlanError, match=f"`{key}`"):
        StudyPlan.parse(TEXT.replace(old, new))
