"""People write plans without reading source: keys explain themselves, a draft is a plan, every fault comes at once."""

import dataclasses
import itertools
import json
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.errors import PlanError
from common.plan.canonical import later_keys
from common.plan.keys import find, in_toml, keys, tables
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from deploy.cli import main
from deploy.planning.plan_draft import Wanted, draft

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_plan_doc

EXAMPLES = sorted((Path(__file__).parents[2] / "deploy" / "examples").glob("*.toml"))
CHEST = Wanted(
    name="chest", modality=("CR", "DX"), body_part="CHEST", labels=("normal", "ill"), image_size=64, patients=600,
    sites=4, epsilon=8.0,
)  # fmt: skip


def test_every_key_has_words_a_type_and_a_default_that_the_reader_takes() -> None:
    assert all(key.words.endswith((".", ")")) and key.type for key in keys()), "a key without words"
    table: dict[str, dict[str, str]] = {}
    for key in keys():
        if key.default is not None:
            where, _, name = key.name.rpartition(".")
            table.setdefault(where, {})[name] = key.default
    rows = [f"[{where}]\n" * bool(where) + "\n".join(map(" = ".join, row.items())) for where, row in table.items()]
    defaults = StudyPlan.parse('name = "all"\n' + "\n".join(rows))
    assert defaults == StudyPlan(name="all")


def test_the_keys_are_those_of_a_plan_and_no_others() -> None:
    def dotted(value: dict[str, object], prefix: str = "") -> set[str]:
        tables = {k: v for k, v in value.items() if isinstance(v, dict)}
        inner = set[str]().union(*(dotted(v, f"{prefix}{k}.") for k, v in tables.items()))
        return {prefix + k for k in value if k not in tables} | inner

    left_out = {key.name for key in keys()} - dotted(StudyPlan(name="all").to_dict())
    assert left_out == set(later_keys(StudyPlan))
    assert set(tables()) == {key.name.partition(".")[0] for key in keys() if "." in key.name}


def test_what_a_key_costs_is_said_of_a_key_that_there_is() -> None:
    for field in dataclasses.fields(StudyPlan):
        for key in getattr(field.type, "costs", {}):
            assert find(f"{field.name}.{key}")[0].costs != "nothing"


def test_a_key_is_found_by_its_name_its_table_and_its_last_word() -> None:
    assert [key.name for key in find("training.rounds")] == [key.name for key in find("rounds")] == ["training.rounds"]
    assert {key.name for key in find("images_per_label")} == {"release.images_per_label", "evaluation.images_per_label"}
    assert len(find("privacy")) > 8
    with pytest.raises(PlanError, match=r"Did you mean `rounds`"):
        find("roundz")


@pytest.mark.parametrize("value", [1, 0.5, 1e-5, 3.0, True, 'a"b', ("x", "y"), (-600.0, 1500.0), ()])
def test_values_stand_as_toml_reads_them(value: object) -> None:
    read = tomllib.loads(f"x = {in_toml(value)}")["x"]
    assert (tuple(read) if isinstance(value, tuple) else read) == value


@pytest.mark.parametrize(
    ("modality", "body_part", "labels", "size"),
    [
        *itertools.product([("CT",)], ["CHEST", "PELVIS"], [("a", "b")], [64]),
        *itertools.product([("MR",), ("MG",)], [""], [(), ("benign", "malignant", "none")], [28, 32, 60, 128]),
    ],
)
def test_a_draft_is_a_plan_of_what_was_asked_for(
    modality: tuple[str, ...], body_part: str, labels: tuple[str, ...], size: int
) -> None:
    made = draft(
        Wanted(name="drafted", modality=modality, body_part=body_part, labels=labels, image_size=size, patients=300,
               sites=3, epsilon=3.0)
    )  # fmt: skip
    plan = made.plan
    assert (plan.data.modality, plan.data.labels, plan.data.image_size) == (modality, labels, size)
    assert plan.privacy.epsilon == 3.0
    assert isinstance(plan.data.window, tuple) == ("CT" in modality)
    assert made.text.count("\n# ") > 12, "it has comments"


@pytest.mark.parametrize(("patients", "sites"), list(itertools.product([1, 30, 160, 170, 20_000], [1, 2, 10])))
def test_a_draft_fits_any_number_of_patients_and_sites(patients: int, sites: int) -> None:
    plan = draft(Wanted(**{**vars(CHEST), "image_size": 32, "patients": patients, "sites": sites})).plan
    assert plan.aggregation.min_sites <= sites
    assert plan.data.min_patients <= patients <= plan.aggregation.max_patients
    assert plan.privacy.delta < 1 / patients
    assert plan.evaluation.gated == (patients > 166), "a verdict of fewer is noise"


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 10.0])
def test_a_draft_can_pay_for_its_rounds_and_its_verdict(epsilon: float) -> None:
    plan = draft(Wanted(**{**vars(CHEST), "image_size": 32, "patients": 3000, "epsilon": epsilon})).plan
    assert schedule(plan)[-1].epsilon_after <= epsilon


def test_an_impossible_wish_is_refused_by_the_plans_own_rule() -> None:
    with pytest.raises(PlanError, match=r"`data.image_size` must be from 28 to 128"):
        draft(Wanted(**{**vars(CHEST), "image_size": 20}))


def test_new_writes_a_plan_that_check_takes_and_leaves_a_file_that_is_there_alone(tmp_path: Path) -> None:
    out = tmp_path / "breast.toml"
    given = ["plan", "new", str(out), "--modality", "US", "--body-part", "BREAST", "--label", "benign", "--label",
             "malignant", "--patients", "400", "--sites", "3", "--size", "32", "--json"]  # fmt: skip
    made = CliRunner().invoke(main, given)
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["digest"] == StudyPlan.load(out).digest
    assert StudyPlan.load(out).name == "breast"
    assert CliRunner().invoke(main, ["plan", "check", str(out)]).exit_code == 0
    before = out.read_bytes()
    assert CliRunner().invoke(main, given).exit_code == 5
    assert out.read_bytes() == before


def test_new_names_what_is_missing_where_nothing_can_be_asked(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["plan", "new", str(tmp_path / "x.toml"), "--modality", "CT", "--sites", "3"])
    assert done.exit_code == 2
    assert "give --body-part, --label or --no-labels, --patients" in done.output
    assert not list(tmp_path.iterdir())


def test_check_names_every_fault_of_every_plan(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('name = "one"\n[training]\nroundz = 3\nlearning_rate = 99\n')
    two.write_text('name = "TWO"\n')
    done = CliRunner().invoke(main, ["plan", "check", str(one), str(EXAMPLES[0]), str(two)])
    assert done.exit_code == 3
    assert all(word in done.output for word in ("roundz", "training.rounds", "learning_rate", "lower-case"))


def test_the_page_of_all_keys_is_up_to_date() -> None:
    assert make_plan_doc.PAGE.read_text(encoding="utf-8") == make_plan_doc.page(), "run scripts/make_plan_doc.py"
