"""Every summary says whether text was looked for in pictures, and a detector that does not work is no detector."""

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from client import hospital as hospital_code
from client.admission.ingest import ingest
from client.admission.records import Admission
from client.admission.settings import IngestSettings, reading_of
from client.dicom import text_finder
from client.egress.refusals import reason_of
from client.site import rules_file
from client.site.site import Site
from common.errors import PlanRefused, StateError, WardroundError
from common.wire.messages import About
from deploy.cli import main
from deploy.doctor import hospital
from tests.client.hospitals import build_home, tiny_plan
from tests.client.scans import cohort

SETTINGS = IngestSettings(image_size=32)
PLAN = tiny_plan()


@pytest.fixture(autouse=True)
def asked_afresh() -> Iterator[None]:
    text_finder.why_not.cache_clear()
    yield
    text_finder.why_not.cache_clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    cohort(tmp_path / "in")
    rules_file.init(tmp_path / "home", "north")
    return tmp_path / "home"


def said(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["site", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(("option", "word"), [("--ocr", "yes"), ("--no-ocr", "no")])
def test_ingest_inspect_page_and_doctor_say_the_same(home: Path, tmp_path: Path, option: str, word: str) -> None:
    told = f"text was looked for: {word}"
    if option == "--ocr" and text_finder.why_not():
        pytest.skip("the extra `ocr` does not work here")
    assert told in said("ingest", tmp_path / "in", "--home", home, option)
    assert told in said("ingest", tmp_path / "in", "--home", home, option), "the same where no file had changed"
    assert told in said("inspect", "--home", home, "--html", tmp_path / "page.html")
    assert told in (tmp_path / "page.html").read_text()
    assert json.loads(said("inspect", "--home", home, "--json"))["looked_for_text"] is (word == "yes")
    assert told in [finding.finding for finding in hospital.text_detection(home)]
    assert {finding.level for finding in hospital.text_detection(home)} == {"ok" if word == "yes" else "warning"}


@pytest.mark.parametrize("word", ["yes", "no", "unknown"])
def test_a_site_says_so_to_a_study_that_it_approved_and_writes_it_down(tmp_path: Path, word: str) -> None:
    """It is a setting: the words are the same whoever the patients are, and before anything was ingested."""
    home = build_home(tmp_path / "north", PLAN)
    form = IngestSettings.from_plan(PLAN).digest
    if word != "unknown":
        reading = reading_of(form, ocr=word == "yes")
        Admission(folder="", generation="", reading=reading, judging="", patients=0, records=[], concerns={}).save(
            home, form
        )
    reply = hospital_code.about(Site.open(home), About(plan=PLAN.digest))
    assert (reply.site, reply.text_searched) == ("north", word)
    line = json.loads((home / "egress.jsonl").read_text().splitlines()[-1])
    assert (line["kind"], line["keys"], line["entry"]) == ("about", ["text_searched"], 0)
    with pytest.raises(PlanRefused):
        hospital_code.about(Site.open(home), About(plan="0" * 64))


def test_a_site_without_a_cohort_says_no_more_than_to_a_hello(tmp_path: Path) -> None:
    """Whether a cache is there tells whether anybody passes the plan's filters."""
    small, none = build_home(tmp_path / "small", PLAN, patients=2), build_home(tmp_path / "none", PLAN)
    shutil.rmtree(none / "cache")
    for home in (small, none):
        with pytest.raises(WardroundError) as caught:
            hospital_code.about(Site.open(home), About(plan=PLAN.digest))
        assert reason_of(caught.value) == "CohortTooSmall"
        assert not (home / "egress.jsonl").exists()


def test_a_detector_that_cannot_be_loaded_is_not_counted_on_and_its_library_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(text_finder, "installed", lambda: True)
    monkeypatch.setattr(importlib, "import_module", broken)
    assert ingest(tmp_path / "in", home, SETTINGS).looked_for_text is False
    with pytest.raises(StateError, match=r"libGL\.so\.1"):
        ingest(tmp_path / "in", home, SETTINGS, ocr=True)
    found = list(hospital.text_detection(home))
    assert "libGL.so.1" in found[0].finding
    assert "libgl1" in found[0].fix


def test_what_an_older_version_ingested_is_not_known(home: Path, tmp_path: Path) -> None:
    ingest(tmp_path / "in", home, SETTINGS, ocr=False)
    (record,) = (home / "admission").iterdir()
    table = json.loads(record.read_text())
    table["reading"] = "0" * 64
    record.write_text(json.dumps(table))
    assert "text was looked for: not known" in said("inspect", "--home", home)
