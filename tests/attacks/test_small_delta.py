"""A plan of a tiny delta ends nobody's study unseen, and a study's next version does not begin at nothing spent."""

import pytest

from tests.attacks import small_delta


def test_no_plan_of_a_tiny_delta_ends_a_running_study_and_versions_of_one_study_add_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert small_delta.main() == 0
    said = capsys.readouterr().out
    assert said.count("as it should be") == len(small_delta.TRIES)
    assert "could not all finish" in said
    assert "running (" in said
