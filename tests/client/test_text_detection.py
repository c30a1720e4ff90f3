"""Every summary says whether text was looked for in pictures, and a detector that does not work is no detector."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from client.admission.ingest import ingest
from client.admission.settings import IngestSettings
from client.dicom import text_finder
from client.site import rules_file
from common.errors import StateError
from deploy.cli import main
from deploy.doctor import hospital
from tests.client.scans import cohort

SETTINGS = IngestSettings(image_size=32)


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
