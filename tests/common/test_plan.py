"""A plan is checked on load, and its digest is its identity."""

import pytest

from common.errors import PlanError
from common.plan import StudyPlan

GOOD = """
name = "chest"
[data]
image_size = 32
labels = ["normal", "lesion"]
window = [40, 400]
[privacy]
epsilon = 4
"""


def test_plan_is_read_with_every_default_written_out() -> None:
    plan = StudyPlan.parse(GOOD)
    assert plan.data.window == (40.0, 400.0)
    assert plan.privacy.epsilon == 4.0
    assert plan.to_dict()["training"]["local_steps"] == plan.training.local_steps


def test_digest_depends_on_content_and_not_on_layout_or_spelled_out_defaults() -> None:
    plan = StudyPlan.parse(GOOD)
    reordered = StudyPlan.parse(
        "schema = 1\n[privacy]\nepsilon = 4.0\n[data]\nwindow = [40.0, 400.0]\n"
        'labels = ["normal", "lesion"]\nimage_size = 32\n'.replace("schema = 1", 'name = "chest"')
    )
    assert plan.digest == reordered.digest
    assert plan.digest != StudyPlan.parse(GOOD.replace("epsilon = 4", "epsilon = 5")).digest


def test_a_plan_agreed_to_before_a_key_was_known_keeps_its_digest() -> None:
    plan = StudyPlan.parse(GOOD)
    assert "hidden" not in plan.to_dict()["model"]
    assert StudyPlan.parse(GOOD + "\n[model]\nhidden = []\n").digest == plan.digest
    dense = StudyPlan.parse(GOOD + "\n[model]\nchannels = []\nhidden = [64]\n")
    assert dense.to_dict()["model"]["hidden"] == [64]
    assert dense.digest != plan.digest


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[privacy]", "[privacy]\nsecret = 1", "privacy.secret"),
        ("[data]", "[extra]\n[data]", "extra"),
        ("image_size = 32", "image_size = 30", "data.image_size"),
        ("image_size = 32", 'image_size = "32"', "data.image_size"),
        ("image_size = 32", "image_size = true", "data.image_size"),
        ("image_size = 32", "image_size = 512", "data.image_size"),
        ("[privacy]", "[model]\ncomponents = 0\n[privacy]", "model.components"),
        ("[privacy]", '[model]\ncomponents = 2\n[privacy]\nphases = ["sgd"]', "model.components"),
        ("[privacy]", "[model]\nhidden = [64]\n[privacy]", "model.channels"),
        ("[privacy]", "[model]\nchannels = []\n[privacy]", "model.channels"),
        ("[privacy]", "[model]\nchannels = []\nhidden = [2]\n[privacy]", "model.hidden"),
        ("[privacy]", "[model]\nchannels = []\nhidden = [8, 8, 8, 8, 8]\n[privacy]", "model.hidden"),
        ("epsilon = 4", "mean_clip = 0.0001", "privacy.mean_clip"),
        ("epsilon = 4", "deviation_clip = 1e-15", "privacy.deviation_clip"),
        ("epsilon = 4", "epsilon = 0", "privacy.epsilon"),
        ("epsilon = 4", "epsilon = -1", "privacy.epsilon"),
        ("epsilon = 4", "epsilon = nan", "privacy.epsilon"),
        ("epsilon = 4", "epsilon = inf", "privacy.epsilon"),
        ("epsilon = 4", "epsilon = 11", "privacy.epsilon"),
        ("epsilon = 4", "delta = 0.02", "privacy.delta"),
        ("epsilon = 4", 'unit = "image"', "privacy.unit"),
        ("epsilon = 4", 'phases = ["sgd", "moments"]', "privacy.phases"),
        ("[40, 400]", "[40, 0]", "data.window"),
        ("image_size = 32", 'image_size = 32\nviews = ["../up"]', "data.views"),
        ("image_size = 32", 'image_size = 32\nbody_parts = ["chest"]', "data.body_parts"),
        ("image_size = 32", "image_size = 32\nmin_side = 0", "data.min_side"),
        ("image_size = 32", 'image_size = 32\nlabel_attribute = "0010,0040"', "data.label_attribute"),
        ("[40, 400]", "[40]", "data.window"),
        ('["normal", "lesion"]', '["normal", "normal"]', "data.labels"),
        ('["normal", "lesion"]', '["normal"]', "data.labels"),
        ('["normal", "lesion"]', '["../up", "b"]', "data.labels"),
        ('name = "chest"', 'name = "../chest"', "name"),
        ('name = "chest"', "", "name"),
    ],
)
def test_unusable_value_is_refused_by_its_dotted_name(old: str, new: str, key: str) -> None:
    assert old in GOOD
    with pytest.raises(PlanError, match=f"`{key}`"):
        StudyPlan.parse(GOOD.replace(old, new))


def test_absent_file_and_broken_toml_are_plan_errors(tmp_path: object) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        StudyPlan.load(tmp_path / "absent.toml")  # type: ignore[operator]
    with pytest.raises(PlanError, match="not valid TOML"):
        StudyPlan.parse("name = ")
