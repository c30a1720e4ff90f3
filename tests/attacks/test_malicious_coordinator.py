"""A coordinator with the keys of one hospital opens no numbers but the whole sum."""

import pytest

from tests.attacks import malicious_coordinator


def test_a_coordinator_with_one_colluding_hospital_learns_nothing_but_refusals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert malicious_coordinator.main() == 0
    said = capsys.readouterr().out
    assert said.count("learnt nothing but refusals") == len(malicious_coordinator.TRIES)
    for words in ("another set", "4 hospitals, 5", "not signed", "other numbers were masked", "stays closed"):
        assert words in said
