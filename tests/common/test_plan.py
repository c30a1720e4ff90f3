"""A plan is checked on load, and its digest is its identity."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import PlanError
from common.plan.canonical import canonical, later, later_keys
from common.plan.study_plan import StudyPlan

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = {
    "deploy/examples/chest-phantoms-released.toml": "dcd323a9c0d67495d850a2a4165b0f3814886352869db9647eef6bf02f428b44",
    "deploy/examples/chest-phantoms.toml": "09fbdb820e9f4646296bf5ab873d7d09c595a0da97571a6acea854521edcdb8a",
    "deploy/examples/ct-and-mr.toml": "0b6034706db333bd4daffaf2ea4b96f3724069e618fcd8296be3baac8328f39b",
    "deploy/examples/hannover.toml": "71bde67727eeef66edab8d033824769e966987840f00cd1a6237717eb9a87bbd",
    "deploy/examples/mednist.toml": "54dca500c717baa7fa643ba4105fb85ee9dfe7a5e24dcc456c0e75ce0f0449fd",
    "deploy/examples/pneumonia-released.toml": "0c891cfcee3bc1c6eadeab940ef0a9b86d571f113e89d57028b8a6fceb0a5bee",
    "deploy/examples/pneumonia.toml": "e710da6e97ea277a2f117ee9e78e89b5a0a8a076a36db5cf48977572135dc84d",
    "tests/benchmarks/plans/fashion-mnist.toml": "a7a7404f377ebdaae63f696f70e5e187d260885ec2d858ada93ba99461a68af6",
    "tests/benchmarks/plans/generator-kermany.toml": "49b3859baafc406ba5c25a630b7a37941be0b925ee8dc5794eb085d2a0c54343",
    "tests/benchmarks/plans/generator-mednist.toml": "6d6dc1b4798f32f0b41f34c9620846c6571e8c26a03ff9b7d232a7062a1d335c",
    "tests/benchmarks/plans/mnist.toml": "b244fba56f05e03206ca5359e9b701d14f3a1aa1ac869bc944cf5c1146ed44fd",
}
"""Digests that hospitals' approvals and ledgers know; a line is added with a new plan, and none ever changes."""
LATER = {
    "model.hidden": ("0.1.0", ()),
    "model.covariance": ("0.1.0", "shared"),
    "model.denoiser": ("0.1.0", ()),
    "warm.studies": ("0.1.0", 0),
    "warm.patients": ("0.1.0", 0),
    "warm.named": ("0.1.0", ()),
    "aggregation.secure": ("0.1.0", False),
    "aggregation.hospitals": ("0.1.0", 0),
    "aggregation.colluding": ("0.1.0", 0),
    "aggregation.dropouts": ("0.1.0", 0),
    "aggregation.roster": ("0.1.0", ""),
    "warm.directions": ("0.1.0", 0),
}
"""Version and default of each later key; neither ever changes, or a digest would name another study."""

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


@pytest.mark.parametrize("name", DIGESTS)
def test_a_published_plan_keeps_its_digest(name: str) -> None:
    assert StudyPlan.load(ROOT / name).digest == DIGESTS[name]


def test_every_published_plan_has_its_digest_pinned() -> None:
    folders = (ROOT / "deploy/examples", ROOT / "tests/benchmarks/plans")
    assert {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.glob("*.toml")} == set(DIGESTS)


def test_a_later_key_keeps_its_version_and_its_default() -> None:
    assert later_keys(StudyPlan) == LATER


def test_a_plan_agreed_to_before_a_key_was_known_keeps_its_digest() -> None:
    plan = StudyPlan.parse(GOOD)
    assert "hidden" not in plan.to_dict()["model"]
    assert StudyPlan.parse(GOOD + "\n[model]\nhidden = []\n").digest == plan.digest
    dense = StudyPlan.parse(GOOD + "\n[model]\nchannels = []\nhidden = [64]\n")
    assert dense.to_dict()["model"]["hidden"] == [64]
    assert dense.digest != plan.digest


@dataclass(frozen=True, kw_only=True)
class Table:
    old: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True)
class NewTable:
    size: int = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    table: Table = field(default_factory=Table)


@dataclass(frozen=True, kw_only=True)
class TableOfNow(Table):
    new: str = later("as before", since="0.2.0")


@dataclass(frozen=True, kw_only=True)
class SettingsOfNow:
    table: TableOfNow = field(default_factory=TableOfNow)
    another: NewTable = later(NewTable(), since="0.2.0")


def test_keys_and_tables_of_a_later_version_show_in_the_canonical_form_only_where_they_are_used() -> None:
    assert canonical(SettingsOfNow()) == canonical(Settings()) == {"table": {"old": [1.0]}}
    used = SettingsOfNow(table=TableOfNow(new="otherwise"), another=NewTable(size=4))
    assert canonical(used) == {"table": {"old": [1.0], "new": "otherwise"}, "another": {"size": 4}}
    assert later_keys(SettingsOfNow) == {"table.new": ("0.2.0", "as before"), "another": ("0.2.0", NewTable())}


def test_every_key_that_is_not_later_is_written_out() -> None:
    plan = StudyPlan.parse(GOOD)
    whole = json.loads(json.dumps(dataclasses.asdict(plan)))
    for name in LATER:
        table, key = name.split(".")
        del whole[table][key]
    assert plan.to_dict() == whole


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
        ("[privacy]", '[model]\ncovariance = "each"\n[privacy]', "model.covariance"),
        ("[privacy]", '[model]\ncovariance = "class"\n[privacy]\nphases = ["sgd"]', "model.covariance"),
        ("[privacy]", '[model]\ncovariance = "class"\ncomponents = 2\n[privacy]', "model.components"),
        ('labels = ["normal", "lesion"]\nwindow = [40, 400]', '[model]\ncovariance = "class"', "model.covariance"),
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


@pytest.mark.parametrize(
    ("model", "key"), [("base = 32\nlatent = 8", "model.base"), ("base = 8\nlatent = 60", "model.latent")]
)
def test_covariances_of_so_many_classes_that_no_message_holds_them_are_refused(model: str, key: str) -> None:
    labels = ", ".join(f'"c{number}"' for number in range(32))
    text = GOOD.replace('"normal", "lesion"', labels).replace("image_size = 32", "image_size = 128")
    StudyPlan.parse(text + '[model]\ncovariance = "class"\nbase = 8\nlatent = 8\n')
    with pytest.raises(PlanError, match=f"`{key}`"):
        StudyPlan.parse(text + f'[model]\ncovariance = "class"\n{model}\n')


def test_absent_file_and_broken_toml_are_plan_errors(tmp_path: object) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        StudyPlan.load(tmp_path / "absent.toml")  # type: ignore[operator]
    with pytest.raises(PlanError, match="not valid TOML"):
        StudyPlan.parse("name = ")
