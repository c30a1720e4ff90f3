"""What `wardround site ingest` promises to a script and to a person."""

import json
from pathlib import Path

from click.testing import CliRunner

from client.cli.site import site
from tests.client.scans import cohort


def test_json_has_the_counts_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    cohort(tmp_path / "in")
    (tmp_path / "in" / "a.txt").write_text("a")
    result = CliRunner().invoke(site, ["ingest", str(tmp_path / "in"), "--home", str(tmp_path / "home"), "--json"])
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)
    assert {key: counts[key] for key in ("files", "admitted", "refused", "quarantined", "patients", "reasons")} == {
        "files": 7, "admitted": 6, "refused": 1, "quarantined": 0, "patients": 3, "reasons": {"not_dicom": 1},
    }  # fmt: skip
    assert "a.txt" not in result.stdout


def test_text_tells_each_reason_in_words(tmp_path: Path) -> None:
    cohort(tmp_path / "in")
    (tmp_path / "in" / "a.txt").write_text("a")
    result = CliRunner().invoke(site, ["ingest", str(tmp_path / "in"), "--home", str(tmp_path / "home"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "3 patients" in result.output
    assert "not_dicom" in result.output
    assert not (tmp_path / "home").exists()


def test_home_comes_from_the_environment_and_the_image_form_from_the_plan(tmp_path: Path) -> None:
    cohort(tmp_path / "in")
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "s"\n[data]\nimage_size = 32\nmodality = ["MR"]\n')
    result = CliRunner().invoke(
        site, ["ingest", str(tmp_path / "in"), "--plan", str(plan)], env={"WARDROUND_HOME": str(tmp_path / "home")}
    )
    assert result.exit_code == 4
    assert "wrong_modality 6" in result.output
