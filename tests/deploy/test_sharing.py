"""`plan budget` says what shared noise is worth, and what it rests on."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.plan.study_plan import StudyPlan
from deploy.cli import main
from deploy.planning.sharing import advised, worth
from tests.deploy.secure_study import plan_text

MOMENTS = 'name = "m"\n[privacy]\nphases = ["moments"]\nepsilon = 1.0\n[training]\nrounds = 0\n'


@pytest.mark.parametrize(("h", "c", "d"), [(3, 1, 0), (4, 1, 1), (9, 1, 1), (10, 1, 2), (50, 8, 8), (100, 16, 16)])
def test_the_advised_numbers_carry_a_claim(h: int, c: int, d: int) -> None:
    terms = advised(h)
    terms.check()
    assert (terms.colluding, terms.dropouts) == (c, d)


def test_every_number_of_hospitals_has_numbers_that_carry_a_claim() -> None:
    for hospitals in range(3, 101):
        advised(hospitals).check()


def test_sharing_between_ten_is_worth_root_seven_and_its_price_is_told() -> None:
    found = worth(StudyPlan.parse(MOMENTS), sites=10)
    assert found is not None
    assert found.gain == pytest.approx(math.sqrt(7))
    assert found.epsilon <= 1.0
    assert found.alone == pytest.approx(2.93, abs=0.1)
    assert "2.65 times as much" in " ".join(found.lines())


@pytest.mark.parametrize(("text", "sites"), [
    (MOMENTS, 2), (MOMENTS, 101), (MOMENTS.replace('["moments"]', '["moments", "sgd"]').replace("= 0", "= 3"), 10),
    (MOMENTS.replace("epsilon = 1.0", "enabled = false"), 10),
])  # fmt: skip
def test_where_noise_cannot_be_shared_nothing_is_promised(text: str, sites: int) -> None:
    assert worth(StudyPlan.parse(text), sites=sites) is None


def test_the_command_prints_it_also_for_a_plan_that_shares_already(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text(4, 1, 1).replace("rounds = 0", "rounds = 5"))
    command = ["plan", "budget", str(plan), "--patients", "500", "--no-calibrate"]
    said = CliRunner().invoke(main, command)
    assert said.exit_code == 0, said.output
    assert "1.41 times as much (aggregation.secure, colluding = 1, dropouts = 1)" in said.output
    assert "gradient rounds cannot share noise" in said.output
    as_json = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert as_json["sharing"]["terms"] == {"hospitals": 4, "colluding": 1, "dropouts": 1}
