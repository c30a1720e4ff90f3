"""The hospital's rules are read strictly, and a round passes only inside every one of them."""

import math
from pathlib import Path

import pytest

from client.site.policy import Limits, SitePolicy, Spent, inside, permit, round_of
from common.errors import BudgetExhausted, CohortTooSmall, PlanRefused, StateError
from common.plan.schedule import schedule
from tests.client.hospitals import tiny_plan

PLAN = tiny_plan()
POLICY = SitePolicy(
    name="north", limits=Limits(max_epsilon_per_study=5, max_epsilon_total=9, max_delta=1e-5, min_patients=100)
)
FINE = {
    "patients": 100,
    "spent": Spent(plan=0, study=0, site=0, alone=0),
    "after": Spent(plan=8, study=5, site=9, alone=9),
}


def test_a_round_on_every_limit_passes() -> None:
    permit(POLICY, PLAN, **FINE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"patients": 99}, CohortTooSmall, "100 patients or more"),
        (
            {"after": Spent(plan=8.01, study=5, site=9, alone=9)},
            BudgetExhausted,
            r"plan's epsilon from 0\.00 to 8\.01, past its "
            r"limit of 8\.00",
        ),
        (
            {"after": Spent(plan=5, study=5.01, site=9, alone=9)},
            BudgetExhausted,
            r"study's epsilon from 0\.00 to 5\.01, past its "
            r"limit of 5\.00",
        ),
        (
            {"after": Spent(plan=5, study=5, site=9.01, alone=9.01)},
            BudgetExhausted,
            r"site's epsilon from 0\.00 to 9\.01, past its "
            r"limit of 9\.00",
        ),
        ({"after": Spent(plan=math.inf, study=math.inf, site=math.inf, alone=math.inf)}, BudgetExhausted, "to inf"),
        ({"after": Spent(plan=math.nan, study=1, site=1, alone=1)}, BudgetExhausted, "to nan"),
        ({"after": Spent(plan=1, study=math.nan, site=1, alone=1)}, BudgetExhausted, "to nan"),
    ],
)
def test_a_round_past_a_limit_is_refused_with_the_numbers(
    change: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        permit(POLICY, PLAN, **{**FINE, **change})  # type: ignore[arg-type]


def test_the_plans_own_epsilon_is_a_limit_too() -> None:
    generous = SitePolicy(name="north", limits=Limits(min_patients=2))
    with pytest.raises(BudgetExhausted, match=r"past its limit of 8\.00"):
        permit(generous, PLAN, patients=50, spent=Spent(plan=7.9, study=7.9, site=7.9, alone=7.9),
               after=Spent(plan=8.1, study=8.1, site=8.1, alone=8.1))  # fmt: skip


def test_a_cohort_that_is_not_known_yet_is_not_judged() -> None:
    none, some = Spent(plan=0, study=0, site=0, alone=0), Spent(plan=1, study=1, site=1, alone=1)
    permit(POLICY, PLAN, patients=None, spent=none, after=some)


def test_a_plan_whose_delta_is_above_the_sites_is_refused() -> None:
    louder = tiny_plan("[privacy]\ndelta = 2e-5")
    for judge in (lambda: inside(POLICY, louder), lambda: permit(POLICY, louder, **FINE)):  # type: ignore[arg-type]
        with pytest.raises(PlanRefused, match="delta 2e-05 is above the site's 1e-05"):
            judge()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`name` is missing"),
        ('name = "North"', "lower-case"),
        ('name = "../n"', "lower-case"),
        ('name = "n"\nname = "m"', "not a readable TOML"),
        ('name = "n"\nmaximum = 1', "unknown key `maximum`"),
        ('name = "n"\n[limits]\nmax_epsilon_total = "9"', "limits.max_epsilon_total"),
        ('name = "n"\n[limits]\nmax_epsilon_total = nan', "limits.max_epsilon_total"),
        ('name = "n"\n[limits]\nmax_epsilon_total = 0', "above 0"),
        ('name = "n"\n[limits]\nmax_epsilon_per_study = -1', "above 0"),
        ('name = "n"\n[limits]\nmax_delta = 0.1', "at most 0.001"),
        ('name = "n"\n[limits]\nmin_patients = 0', "1 or more"),
        ('name = "n"\n[resources]\nthreads = -1', "negative"),
        ('name = "n"\n[resources]\ndevice = "tpu"', "auto or cpu or cuda"),
    ],
)
def test_a_site_file_with_anything_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(StateError, match=message):
        SitePolicy.load(tmp_path)


def test_an_absent_site_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="Create it"):
        SitePolicy.load(tmp_path)


def test_a_round_is_the_plans_own_or_refused() -> None:
    assert round_of(PLAN, 2) is schedule(PLAN)[1]
    for number in (0, -1, 6):
        with pytest.raises(PlanRefused, match="rounds 1 to 5"):
            round_of(PLAN, number)
