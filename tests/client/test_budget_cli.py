"""The data steward's commands: plain words, one JSON object with --json, and refusals that record nothing."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from client import hospital
from client.approval.approvals import Approval, approved_plan
from client.approval.proposal import Proposal
from client.cli.budget import COMMANDS
from client.cohort import consent
from client.ledger.budget import Account
from client.ledger.ledger import Ledger
from client.site import rules_file
from client.site.policy import Limits, SitePolicy
from client.site.site import Site
from common.display.terminal import Commands
from common.errors import BudgetExhausted, PlanRefused, StateError
from common.model.weights import digest
from common.plan.canonical import canonical
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from tests.client.hospitals import PLAN as PLAN_TEXT
from tests.client.hospitals import build_home, request, set_policy, tiny_plan

MOMENTS = '\n[privacy]\nphases = ["moments"]\nepsilon = 3\n'
PLAN = tiny_plan(MOMENTS)
NAMED = 'name = "beyond"\n[data]\nlabels = ["normal", "lesion"]\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN_TEXT.replace("[data]", '[data]\nwindow = "dicom"') + MOMENTS)
    return path


def run(*arguments: object, answer: str | None = None) -> Result:
    group = Commands("site", commands=COMMANDS)
    return CliRunner().invoke(group, [str(argument) for argument in arguments], input=answer)


def printed(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_command_explains_itself_and_has_json() -> None:
    assert {command.name for command in COMMANDS} >= {"init", "approve", "budget", "withdraw", "withdrawn"}
    for command in COMMANDS:
        assert command.help
        assert "--json" in {name for option in command.params for name in option.opts}
        assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_init_writes_a_commented_file_that_is_the_default_policy_and_never_twice(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    assert printed("init", "--name", "north", "--home", home)["created"]
    assert SitePolicy.load(home) == SitePolicy(name="north")
    text = (home / "site.toml").read_text()
    assert text.count("\n#") >= 8
    assert home.stat().st_mode & 0o077 == 0
    (home / "site.toml").write_text(text + "\n# mine\n")
    assert not printed("init", "--name", "north", "--home", home)["created"]
    assert (home / "site.toml").read_text().endswith("# mine\n")
    assert run("init", "--name", "south", "--home", home).exit_code == StateError.exit_code
    assert run("init", "--name", "Not A Name", "--home", tmp_path / "b").exit_code == StateError.exit_code
    assert not (tmp_path / "b").exists()


def test_init_in_a_place_that_cannot_be_written_is_an_error_of_its_type(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"Not a directory.*Name another"):
        rules_file.init(tmp_path / "file" / "home", "north")


def test_approve_says_in_plain_words_what_would_happen_and_asks(home: Path, plan_file: Path) -> None:
    (home / "approved" / PLAN.digest / "approval.json").unlink()
    refused = run("approve", plan_file, "--home", home, "--by", "Dr. Steward", answer="n\n")
    assert refused.exit_code == 0
    assert "nothing was recorded" in refused.output
    with pytest.raises(PlanRefused):
        approved_plan(home, PLAN.digest)
    agreed = run("approve", plan_file, "--home", home, "--by", "Dr. Steward", answer="y\n")
    assert agreed.exit_code == 0
    assert Approval.load(home, PLAN.digest).decisions[0].by == "Dr. Steward"
    costs = [f"{step.epsilon_after:.2f}" for step in schedule(PLAN)]
    sigma = f"noise {schedule(PLAN)[0].event.sigma:.2f} times what one patient can add"
    for said in ("28 x 28", "normal, lesion", PLAN.digest, ", ".join(costs), sigma, "0.00 spent", "72 bytes", "never"):
        assert said in agreed.output


def test_approve_with_json_shows_and_takes_yes_to_record(home: Path, plan_file: Path) -> None:
    (home / "approved" / PLAN.digest / "approval.json").unlink()
    shown = printed("approve", plan_file, "--home", home)
    assert not shown["approved"]
    assert not (home / "approved" / PLAN.digest / "approval.json").exists()
    assert shown["digest"] == PLAN.digest
    assert [r["epsilon_after"] for r in shown["rounds"]] == [r.epsilon_after for r in schedule(PLAN)]
    assert shown["leaves"]["mean"] == {"arrays": 1, "bytes": 72}
    assert printed("approve", plan_file, "--home", home, "--yes")["approved"]
    assert approved_plan(home, PLAN.digest) == PLAN


@pytest.mark.parametrize(
    ("limits", "kind", "numbers"),
    [
        ({"study": 2.0}, BudgetExhausted, r"epsilon 3\.00|epsilon 2\.99"),
        ({"total": 2.5}, BudgetExhausted, r"0\.00 is spent, and [23]\.\d\d would pass the 2\.50"),
    ],
)
def test_a_plan_outside_the_policy_cannot_be_approved(
    home: Path, plan_file: Path, limits: dict[str, float], kind: type[Exception], numbers: str
) -> None:
    (home / "approved" / PLAN.digest / "approval.json").unlink()
    set_policy(home, **limits)  # type: ignore[arg-type]
    result = run("approve", plan_file, "--home", home, "--yes")
    assert result.exit_code == kind.exit_code  # type: ignore[attr-defined]
    assert not (home / "approved" / PLAN.digest / "approval.json").exists()
    with pytest.raises(kind, match=numbers):
        Proposal.weigh(PLAN, SitePolicy.load(home), Ledger(home / "ledger.sqlite"))


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (MOMENTS, ()),
        (
            '\n[privacy]\nphases = ["warm", "moments"]\n',
            ("public", "2,000 computed phantoms", "at no cost to a patient"),
        ),
        (
            f'\n[warm]\nsource = "{"ab" * 32}"\n[privacy]\nphases = ["warm", "sgd"]\n',
            ("public", f"SHA-256 {'ab' * 32}"),
        ),
        ("\n[model]\ncomponents = 3\n", ("as 3 groups", "centres: 3 rounds", "how each of those groups spreads")),
        (
            '\n[model]\ncovariance = "class"\n',
            ("are described on their own", "means: 1 round", "how the images of each class vary around it"),
        ),
        (
            '\n[model]\ncovariance = "class"\nchannels = []\ndenoiser = [8, 16]\n',
            ("are described on their own", "train a denoiser, which adds detail"),
        ),
        (
            '\n[model]\ncovariance = "class"\nchannels = []\ndenoiser = [8, 16]\n'
            '[warm]\nstudies = 9\ndirections = 20\nnamed = ["chests of Anytown, CC BY 4.0"]\n'
            '[privacy]\nphases = ["warm", "moments", "sgd"]\n',
            (
                "train a denoiser",
                "9 studies are rehearsed",
                "along 20 directions",
                "named as chests of Anytown, CC BY 4.0",
            ),
        ),
        ('\n[training]\nfederated = "decoder"\n', ("the encoder, which reads images, stays here",)),
        ("\n[aggregation]\nmax_patients = 2000\n", (" to 2,000 patients here",)),
    ],
)
def test_a_steward_is_told_what_a_plan_has_beyond_the_default_and_of_nothing_else(
    home: Path, tables: str, said: tuple[str, ...]
) -> None:
    plan = StudyPlan.parse(NAMED + tables)
    proposal = Proposal.weigh(plan, SitePolicy(name="north"), Ledger(home / "ledger.sqlite"))
    text, table = proposal.text(), proposal.to_dict()
    for words in said:
        assert words in text
    for word, there in {"public": "warm" in plan.privacy.phases, "groups": plan.model.components > 1,
                        "described on their own": plan.model.covariance == "class",
                        "denoiser": bool(plan.model.denoiser),
                        "encoder": plan.training.federated == "decoder"}.items():  # fmt: skip
        assert (word in text) == there
    assert table["warm"] == (canonical(plan.warm) if "warm" in plan.privacy.phases else None)
    assert (table["components"], table["covariance"]) == (plan.model.components, plan.model.covariance)
    assert table["federated"] == plan.training.federated
    assert table["data"]["max_patients"] == plan.aggregation.max_patients


def test_a_steward_sees_every_filter_where_labels_come_from_and_what_is_written(home: Path) -> None:
    text = """
name = "filtered"
[data]
modality = ["CR", "DX"]
body_part = "ARM"
body_parts = ["CHEST", "RIB"]
views = ["PA"]
min_side = 256
window = [40, 400]
min_patients = 20
labels = ["F", "M"]
label_attribute = "PatientSex"
"""
    ledger = Ledger(home / "ledger.sqlite")
    proposal = Proposal.weigh(StudyPlan.parse(text), SitePolicy(name="north"), ledger)
    said = proposal.text()
    for words in ("modality CR or DX", "body part CHEST or RIB", "view PA", "256 x 256 pixels or more",
                  "centre 40 and width 400", "F, M; from the DICOM attribute PatientSex", "any other value stay out",
                  "ARM as body part into synthetic images; this chooses no scan",
                  "at least 50 (the plan's minimum is 20, this site's 50)",
                  "and once, before a release: whether pictures were searched for text here"):  # fmt: skip
        assert words in said.replace("\n           ", " "), words
    table = proposal.to_dict()["data"]
    assert table == {
        "modality": ["CR", "DX"], "body_part": "ARM", "body_parts": ["CHEST", "RIB"], "views": ["PA"], "min_side": 256,
        "window": [40, 400], "labels": ["F", "M"], "label_attribute": "PatientSex", "image_size": 64,
        "min_patients": 20, "site_min_patients": 50, "max_patients": table["max_patients"],
    }  # fmt: skip
    plain = Proposal.weigh(StudyPlan(name="plain"), SitePolicy(name="north"), ledger).text()
    for words in ("modality any", "body part any", "view any", "as the file itself says", "none: one class",
                  "nothing as body part"):  # fmt: skip
        assert words in plain
    named = Proposal.weigh(StudyPlan.parse(NAMED), SitePolicy(name="north"), ledger).text()
    assert "normal, lesion; from labels.csv" in named
    theirs = StudyPlan.parse(NAMED + 'label_attribute = "StudyDescription"\n')
    with pytest.raises(PlanRefused, match="StudyDescription"):
        Proposal.weigh(theirs, SitePolicy(name="north"), ledger)
    allowing = SitePolicy(name="north", limits=Limits(label_attributes=("StudyDescription",)))
    assert "StudyDescription, which this site's site.toml allows" in Proposal.weigh(theirs, allowing, ledger).text()


def test_a_plan_without_noise_or_with_too_large_a_delta_cannot_be_approved(home: Path) -> None:
    ledger = Ledger(home / "ledger.sqlite")
    with pytest.raises(PlanRefused, match="without noise"):
        Proposal.weigh(tiny_plan("[privacy]\nenabled = false"), SitePolicy.load(home), ledger)
    strict = SitePolicy(name="north", limits=Limits(max_delta=1e-6))
    with pytest.raises(PlanRefused, match="delta"):
        Proposal.weigh(PLAN, strict, ledger)


def test_a_plan_with_a_larger_delta_does_not_make_the_total_read_lower(home: Path) -> None:
    strict, loose = (tiny_plan(MOMENTS + f"delta = {delta}\n", name=name) for name, delta in
                     (("strict", "1e-6"), ("loose", "1e-4")))  # fmt: skip
    for plan in (strict, loose):
        hospital.policy.approve(home, plan, approved_by="x")
    for step in schedule(strict):
        hospital.train(Site.open(home), request(strict, step.number))
    ledger, limits = Ledger(home / "ledger.sqlite"), {"a round": 3.1, "the whole": 4.5}
    first, whole = schedule(loose)[0].events, tuple(event for step in schedule(loose) for event in step.events)
    assert ledger.epsilon(delta=1e-4, extra=first) < limits["a round"] < ledger.epsilon(delta=1e-6, extra=first)
    assert ledger.epsilon(delta=1e-4, extra=whole) < limits["the whole"] < ledger.epsilon(delta=1e-6, extra=whole)
    set_policy(home, total=limits["a round"])
    with pytest.raises(BudgetExhausted, match="site's epsilon"):
        hospital.train(Site.open(home), request(loose, 1))
    assert len(ledger.events()) == len(schedule(strict))
    set_policy(home, total=limits["the whole"])
    with pytest.raises(BudgetExhausted, match="at delta 1e-06"):
        Proposal.weigh(loose, SitePolicy.load(home), ledger)
    path = home / "approved" / strict.digest / "approval.json"
    record = path.read_text()
    for spoilt in ("{}", record.replace("1e-06", "NaN"), record.replace("1e-06", "0.0")):
        path.write_text(spoilt)
        with pytest.raises(StateError, match="total cost of the studies is unknown"):
            hospital.train(Site.open(home), request(loose, 1))
    set_policy(home, total=10)
    Proposal.weigh(strict, SitePolicy.load(home), ledger)  # which is how its record is made whole


def test_a_study_under_way_is_weighed_by_the_rounds_that_are_missing(home: Path) -> None:
    weigh = lambda: Proposal.weigh(PLAN, SitePolicy.load(home), Ledger(home / "ledger.sqlite"))  # noqa: E731
    before = weigh()
    hospital.train(Site.open(home), request(PLAN, 1))
    after = weigh()
    assert before.site.after == after.site.after == pytest.approx(before.cost)
    assert (before.site.spent, after.site.spent) == (0.0, schedule(PLAN)[0].epsilon_after)


def test_pause_resume_and_leave_take_a_name_and_hold_from_the_next_request(home: Path) -> None:
    steps = [("pause", "tiny"), ("resume", "tiny"), ("pause",), ("resume",), ("leave", PLAN.digest[:10])]
    for command, *study in steps:
        assert printed(command, *study, "--home", home, "--by", "Jo")["by"] == "Jo"
        if command == "resume":
            assert approved_plan(home, PLAN.digest) == PLAN
        else:
            with pytest.raises(PlanRefused):
                hospital.train(Site.open(home), request(PLAN, 1))
    assert run("pause", "nothing", "--home", home).exit_code == PlanRefused.exit_code


def test_a_lower_budget_holds_from_the_next_request_and_cannot_be_raised_this_way(home: Path) -> None:
    text = (home / "site.toml").read_text()
    assert printed("limit", "--total", 0.5, "--home", home) == {"max_epsilon_per_study": 10.0, "max_epsilon_total": 0.5}
    assert (home / "site.toml").read_text() == text.replace("max_epsilon_total = 10.0", "max_epsilon_total = 0.5")
    with pytest.raises(BudgetExhausted, match=r"site's .* limit of 0\.50"):
        hospital.train(Site.open(home), request(PLAN, 1))
    for value in (0.6, 0, -1, "nan"):
        assert run("limit", "--total", value, "--home", home).exit_code == PlanRefused.exit_code
    assert SitePolicy.load(home).limits.max_epsilon_total == 0.5


def test_a_reply_that_was_booked_before_the_budget_was_lowered_is_still_sent(home: Path) -> None:
    before = hospital.train(Site.open(home), request(PLAN, 1))
    printed("limit", "--total", 0.1, "--home", home)
    assert digest(hospital.train(Site.open(home), request(PLAN, 1)).arrays) == digest(before.arrays)
    with pytest.raises(BudgetExhausted):
        hospital.train(Site.open(home), request(PLAN, 2))


@pytest.mark.parametrize("text", ['name = "n"\n', 'name = "n"\n[limits]\nmin_patients = 9\n', 'name = "n"\n[limits]'])
def test_a_limit_that_was_not_written_out_is_added(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    limits = rules_file.lower(tmp_path, study=2.0, total=3.0)
    assert (limits.max_epsilon_per_study, limits.max_epsilon_total) == (2.0, 3.0)
    assert SitePolicy.load(tmp_path).limits == limits


@pytest.mark.parametrize(
    "text", ['name = "n"\nlimits = {max_delta = 1e-5}\n', 'name = "n"\nlimits.max_epsilon_total = 9\n']
)
def test_a_layout_that_cannot_be_changed_safely_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(StateError, match="by hand"):
        rules_file.lower(tmp_path, study=None, total=3.0)
    assert (tmp_path / "site.toml").read_text() == text


def test_budget_shows_each_study_all_of_them_and_what_is_left(home: Path) -> None:
    other = tiny_plan(MOMENTS, name="other")
    hospital.policy.approve(home, other, approved_by="x")
    for plan in (PLAN, other):
        hospital.train(Site.open(home), request(plan, 1))
    consent.withdraw(home, Ledger(home / "ledger.sqlite"), "P3")
    hospital.train(Site.open(home), request(PLAN, 2))
    shown = printed("budget", "--home", home)
    ledger = Ledger(home / "ledger.sqlite")
    assert shown["epsilon"] == ledger.epsilon(delta=1e-5)
    assert shown["left"] == pytest.approx(10 - shown["epsilon"])
    assert shown["cohorts"] == [12, 11]
    assert shown["head"] == ledger.head()
    lines = {line["study"]: line for line in shown["studies"]}
    assert (lines["tiny"]["booked"], lines["other"]["booked"]) == (2, 1)
    assert lines["tiny"]["epsilon"] == schedule(PLAN)[1].epsilon_after
    assert lines["other"]["left"] == pytest.approx(3 - schedule(other)[0].epsilon_after)
    assert shown["epsilon"] > max(line["epsilon"] for line in lines.values())
    text = run("budget", "--home", home).output
    assert f"epsilon {shown['epsilon']:.2f} of 10.00" in text
    assert "12 -> 11" in text


def test_budget_of_a_study_whose_approval_is_gone_still_counts(home: Path) -> None:
    hospital.train(Site.open(home), request(PLAN, 1))
    (home / "approved" / PLAN.digest / "approval.json").unlink()
    (study,) = Account.of(home).studies
    assert (study.state, study.booked, study.delta) == ("unknown", 1, 1e-4)
    assert study.epsilon > 0


def test_withdraw_tells_an_unknown_id_and_withdrawn_lists_the_releases(home: Path) -> None:
    hospital.train(Site.open(home), request(PLAN, 1))
    assert printed("withdraw", "P3", "--home", home)["known"]
    assert "check the id" in run("withdraw", "P99", "--home", home).output
    known, unknown = printed("withdrawn", "--home", home)["patients"]
    assert [(r["study"], r["round"], r["finished"]) for r in known["releases"]] == [("tiny", 1, True)]
    assert unknown["releases"] == []
    text = run("withdrawn", "--home", home).output
    assert "2 withdrawn" in text
    assert "tiny round 1 (mean)" in text
    assert "P3" not in text.replace("P3 ", "P3")
