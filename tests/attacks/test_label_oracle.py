"""No plan makes a Hello or a refusal tell whether a named person is in the archive, and the script would say so."""

from pathlib import Path

import pytest

from client import hospital
from common.errors import LabelsError
from tests.attacks import label_oracle


def test_no_plan_tells_whether_a_named_person_is_in_the_archive(capsys: pytest.CaptureFixture[str]) -> None:
    assert label_oracle.main() == 0
    said = capsys.readouterr().out
    assert said.count("nothing is told") == len(label_oracle.TRIES)
    assert said.count("PlanRefused") == 8  # two plans, two archives, two questions


def test_the_script_notices_a_hospital_that_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the check back that was there once, a class of nobody gives the absent patient away."""
    checked = hospital.check_cohort

    def tell_absent_labels(site: hospital.Site, plan: hospital.StudyPlan) -> None:
        checked(site, plan)
        if len(site.cohort(plan).label_counts()) < len(plan.data.labels):
            raise LabelsError("a label is absent")

    monkeypatch.setattr(hospital, "check_cohort", tell_absent_labels)
    monkeypatch.setattr(label_oracle, "TRIES", [t for t in label_oracle.TRIES if t.attribute == "PatientSex"])
    assert label_oracle.main() == 1
    assert "LabelsError" in capsys.readouterr().out


def test_the_folder_lists_its_scripts_and_each_has_a_test() -> None:
    folder = Path(__file__).parent
    scripts = {path.stem for path in folder.glob("*.py") if not path.stem.startswith(("test_", "__"))}
    readme = (folder / "README.md").read_text()
    assert {name for name in scripts if f"\n| `{name}` |" not in readme} == set()
    assert {name for name in scripts if not (folder / f"test_{name}.py").is_file()} == set()
