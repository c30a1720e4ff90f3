"""A home holds a training cache for each image form that an active plan needs; none breaks another."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from client import hospital
from client.admission import settings
from client.admission.ingest import IngestSettings, ingest
from client.admission.overview import look, write_page
from client.admission.records import Admission
from client.approval import approvals
from client.cli.budget import COMMANDS
from client.cli.site import site
from client.cohort import consent, forms
from client.cohort.cache import Cache
from client.cohort.forms import form_of
from client.daemon import checks
from client.daemon.home import DaemonHome
from client.daemon.status import Status
from client.ledger import noise_key
from client.ledger.ledger import Ledger
from client.site.site import Site
from common.errors import CacheCorrupt, CacheMissing, StateError
from common.plan.study_plan import StudyPlan
from deploy.doctor import hospital as doctor
from tests.client.hospitals import request, set_policy
from tests.client.scans import cohort, save, scan

TEXT = """
name = "{name}"
[data]
image_size = {size}
min_patients = 2
[model]
latent = 3
channels = [4, 8]
base = 4
[privacy]
phases = ["moments"]
"""
FIRST, SECOND = (StudyPlan.parse(TEXT.format(name=name, size=size)) for name, size in (("first", 28), ("second", 32)))


def command(name: str, *arguments: object, home: Path, answers: str | None = None) -> Any:
    """Run a command of the steward's; return what it printed, read as JSON unless it was asked."""
    group = {item.name: item for item in COMMANDS} | site.commands
    asked = [str(argument) for argument in arguments] + ["--home", str(home)]
    result = CliRunner().invoke(group[name], asked if answers is not None else [*asked, "--json"], input=answers,
                                standalone_mode=True)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if answers is None else result.output


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("forms")
    cohort(place / "in", patients=4, images=1)
    (place / "home").mkdir()
    set_policy(place / "home", minimum=1, total=40.0)
    for plan in (FIRST, SECOND):
        (place / f"{plan.name}.toml").write_text(TEXT.format(name=plan.name, size=plan.data.image_size))
    ingest(place / "in", place / "home", IngestSettings.from_plan(FIRST), workers=1, ocr=False)
    approvals.approve(place / "home", FIRST, approved_by="steward")
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    """A folder of scans, and a home that has approved the first plan and has its cache."""
    shutil.copytree(template, tmp_path / "place")
    for record in (tmp_path / "place" / "home" / "admission").glob("*.json"):
        plain = json.loads(record.read_bytes())
        record.write_text(json.dumps({**plain, "folder": str((tmp_path / "place" / "in").resolve())}))
    return tmp_path / "place"


@pytest.fixture
def home(place: Path) -> Path:
    return place / "home"


def second_ingest(place: Path) -> None:
    ingest(place / "in", place / "home", IngestSettings.from_plan(SECOND), workers=1, ocr=False)


def test_an_ingest_for_a_second_plan_leaves_the_first_as_it_was(place: Path, home: Path) -> None:
    before = Cache.open(home, plan=FIRST).generation
    second_ingest(place)
    approvals.approve(home, SECOND, approved_by="steward")
    assert Cache.open(home, plan=FIRST).generation == before
    assert Cache.open(home, plan=SECOND).image_size == 32
    for plan in (FIRST, SECOND):
        assert hospital.train(Site.open(home), request(plan)).epsilon > 0
        record = Admission.load(home, form_of(plan))
        assert record is not None
        assert record.generation == Cache.open(home, plan=plan).generation


def test_a_form_that_is_missing_is_told_by_a_type_of_its_own_that_names_the_cure(home: Path) -> None:
    approvals.approve(home, SECOND, approved_by="steward")
    with pytest.raises(CacheMissing, match=r"whole, but none has.*32 x 32 pixels.*site ingest") as caught:
        hospital.train(Site.open(home), request(SECOND))
    assert not isinstance(caught.value, CacheCorrupt)
    assert isinstance(caught.value, StateError)
    assert "check" not in str(caught.value)
    assert Ledger(home / "ledger.sqlite").events() == []
    shutil.rmtree(home / "cache")
    with pytest.raises(CacheMissing, match="no training cache"):
        hospital.train(Site.open(home), request(FIRST))


def test_approve_says_what_is_missing_and_makes_it_when_asked(place: Path, home: Path) -> None:
    said = command("approve", place / "second.toml", home=home, answers="y\nn\n")
    assert "NO training cache" in said
    assert "32 x 32" in said
    assert forms.missing(home, [FIRST, SECOND]) == [SECOND]
    command("approve", place / "second.toml", home=home, answers="y\ny\n")
    assert forms.missing(home, [FIRST, SECOND]) == []
    assert "there is a training cache" in command("approve", place / "second.toml", home=home, answers="y\n")


@pytest.mark.parametrize(("options", "there"), [(["--yes"], True), (["--yes", "--no-ingest"], False),
                                               (["--yes", "--ingest"], True), ([], False)])  # fmt: skip
def test_approve_by_a_script_makes_it_by_its_flags(place: Path, home: Path, options: list[str], there: bool) -> None:
    answer = command("approve", place / "second.toml", *options, home=home)
    assert answer["cache"]["there"] is there
    assert (forms.missing(home, [SECOND]) == []) is there


def test_the_order_of_the_handbook_works_ingest_without_a_plan_approve_train(place: Path) -> None:
    home = place / "other"
    home.mkdir()
    set_policy(home, minimum=1)
    command("ingest", place / "in", "--no-ocr", home=home)
    command("approve", place / "first.toml", "--yes", home=home)
    assert hospital.train(Site.open(home), request(FIRST)).epsilon > 0


def test_an_ingest_without_a_plan_makes_every_form_that_active_plans_need(place: Path, home: Path) -> None:
    approvals.approve(home, SECOND, approved_by="steward")
    save(scan(seed=901, patient="NEW"), place / "in" / "new.dcm")
    made = command("ingest", place / "in", "--no-ocr", home=home)
    assert len(made["forms"]) == 2
    assert [Cache.open(home, plan=plan).patients for plan in (FIRST, SECOND)] == [5, 5]


def test_a_form_that_was_made_from_another_folder_is_left_alone(place: Path, home: Path) -> None:
    approvals.approve(home, SECOND, approved_by="steward")
    cohort(place / "elsewhere", patients=7, images=1)
    command("ingest", place / "elsewhere", "--no-ocr", home=home)
    assert [Cache.open(home, plan=plan).patients for plan in (FIRST, SECOND)] == [4, 7]


def old_home(home: Path) -> None:
    """Make the home what an earlier version left: one cache, one pointer."""
    shutil.rmtree(home / "cache" / "forms")
    (record,) = (home / "admission").glob("*.json")
    record.rename(home / "admission.json")


def test_a_study_goes_on_with_images_that_an_earlier_version_read_until_the_next_ingest(
    place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Cache.open(home).generation
    monkeypatch.setattr(settings, "PIPELINE", settings.PIPELINE + 1)  # an upgrade that reads some pixels otherwise
    assert forms.missing(home, [FIRST, SECOND]) == [SECOND]
    assert [plan.name for plan in forms.outdated(home, [FIRST])] == ["first"]
    assert Cache.open(home, plan=FIRST).generation == before
    assert hospital.train(Site.open(home), request(FIRST)).epsilon > 0
    told = [finding.finding for finding in doctor.cache(home)]
    assert told == ["study 'first' goes on with images that an earlier version read"]
    assert command("forms", home=home)["forms"][0]["plans"] == ["first"]
    command("ingest", place / "in", "--no-ocr", home=home)
    assert Cache.open(home, plan=FIRST).generation != before
    assert forms.outdated(home, [FIRST]) == []
    assert len(forms.unneeded(home, [FIRST])) == 1


def test_an_old_home_with_one_cache_opens_as_it_is_and_keeps_it_beside_a_second(place: Path, home: Path) -> None:
    old_home(home)
    before = Cache.open(home).generation
    assert Cache.open(home, plan=FIRST).generation == before
    assert hospital.train(Site.open(home), request(FIRST)).epsilon > 0
    assert forms.missing(home, [FIRST, SECOND]) == [SECOND]
    second_ingest(place)
    assert Cache.open(home, plan=FIRST).generation == before
    assert Cache.open(home, plan=SECOND).image_size == 32
    ingest(place / "in", home, IngestSettings.from_plan(FIRST), workers=1, ocr=False)
    assert sorted(path.name for path in (home / "admission").iterdir()) == sorted(
        f"{form_of(plan)}.json" for plan in (FIRST, SECOND)
    )


def test_a_round_cut_short_is_taken_up_again_though_another_form_was_made_meanwhile(
    place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StateError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(hospital, "_compute", broken)
        with pytest.raises(StateError, match="the power went"):
            hospital.train(Site.open(home), request(FIRST))
    (kept,) = (home / "keys").glob("*.key")
    found = noise_key.kept(home, kept.stem)
    assert found is not None
    second_ingest(place)
    hospital.train(Site.open(home), request(FIRST))
    assert len(Ledger(home / "ledger.sqlite").events()) == 1
    assert found.generation == Cache.open(home, plan=FIRST).generation


def test_a_patient_who_withdrew_is_out_of_every_form(place: Path, home: Path) -> None:
    second_ingest(place)
    assert consent.withdraw(home, Ledger(home / "ledger.sqlite"), "P1").known
    assert [Site.open(home).admitted(plan).patients for plan in (FIRST, SECOND)] == [3, 3]


def test_a_kill_between_the_two_pointers_leaves_each_form_whole(
    place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Cache.open(home, plan=FIRST).generation
    written = forms.write_atomically

    def killed(path: Path, content: bytes, *, mode: int | None = None) -> None:
        if path.name == forms.CURRENT:
            raise KeyboardInterrupt
        written(path, content, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(forms, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            second_ingest(place)
    assert Cache.open(home, plan=FIRST).generation == first == Cache.open(home).generation
    assert Cache.open(home, plan=SECOND).image_size == 32
    second_ingest(place)
    assert Cache.open(home).image_size == 32
    assert Cache.open(home, plan=FIRST).generation == first


def test_what_no_active_plan_needs_is_said_and_removed_on_demand_only(place: Path, home: Path) -> None:
    second_ingest(place)
    rows = {row["digest"]: row for row in command("forms", home=home)["forms"]}
    assert rows[form_of(FIRST)]["plans"] == ["first"]
    assert rows[form_of(SECOND)]["plans"] == []
    assert [found.finding for found in doctor.cache(home) if "site forms" in found.finding]
    assert command("forms", "--prune", home=home)["removed"] == [form_of(SECOND)]
    assert Cache.open(home).generation == Cache.open(home, plan=FIRST).generation
    with pytest.raises(CacheMissing):
        Cache.open(home, plan=SECOND)
    assert len([path for path in (home / "cache").iterdir() if (path / "index.json").exists()]) == 1
    assert Admission.load(home, form_of(FIRST)) is not None
    assert len(list((home / "admission").iterdir())) == 1


def test_status_doctor_inspect_and_health_tell_which_study_has_no_cache(place: Path, home: Path) -> None:
    approvals.approve(home, SECOND, approved_by="steward")
    status = Status.of(home)
    assert status.caches["first"]
    assert status.caches["second"] == ""
    assert "NONE in its image form" in status.text()
    assert [found for found in doctor.cache(home) if "'second'" in found.finding]
    assert "second" in checks.cache(DaemonHome(home))
    assert command("forms", home=home)["missing"] == {"second": "32 x 32 pixels"}
    second_ingest(place)
    assert checks.cache(DaemonHome(home)) == ""
    view = look(home, FIRST)
    assert {row[2] for row in view.caches} == {"first", "second"}
    write_page(view, home, place / "page.html")
    assert "32 x 32 pixels" in (place / "page.html").read_text()
    assert all(demand.met for demand in view.demands if demand.asked == "the plan's image form")


def test_a_pointer_to_a_cache_of_another_form_is_damage(place: Path, home: Path) -> None:
    second_ingest(place)
    folder = home / "cache" / "forms"
    (folder / form_of(FIRST)).write_bytes((folder / form_of(SECOND)).read_bytes())
    with pytest.raises(CacheCorrupt, match="another image form"):
        Cache.open(home, plan=FIRST)


@pytest.mark.parametrize("which", ["last", "own"])
def test_a_damaged_pointer_is_told_and_mended_by_the_next_ingest(place: Path, home: Path, which: str) -> None:
    pointer = home / "cache" / ("CURRENT" if which == "last" else f"forms/{form_of(FIRST)}")
    pointer.write_bytes(b"\xff" + pointer.read_bytes()[1:])
    with pytest.raises(CacheCorrupt):
        forms.forms(home)
    assert "ingest" in checks.cache(DaemonHome(home))
    ingest(place / "in", home, IngestSettings.from_plan(FIRST), workers=1, ocr=False)
    assert Cache.open(home).generation == Cache.open(home, plan=FIRST).generation
    assert checks.cache(DaemonHome(home)) == ""
