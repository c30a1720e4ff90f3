"""No archive's spelling of ids makes a hospital miscount silently, and the script would say so."""

from dataclasses import replace

import pytest

from tests.attacks import one_person_two_ids


def test_no_spelling_of_an_id_is_miscounted_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_person_two_ids.main() == 0
    assert capsys.readouterr().out.count("right, refused or told") == len(one_person_two_ids.ARCHIVES)


def test_the_script_notices_a_silent_miscount(capsys: pytest.CaptureFixture[str]) -> None:
    two_issuers = one_person_two_ids.ARCHIVES[8]
    assert one_person_two_ids.miscounted(replace(two_issuers, persons=1))
    assert "THE ATTACK WORKS" in capsys.readouterr().out
