"""No change of ids moves who is set aside, who trained or who withdrew, and the script would say so."""

import pytest

from client.cohort.people import People
from tests.attacks import held_out_moves


def test_no_change_of_ids_moves_anybody(capsys: pytest.CaptureFixture[str]) -> None:
    assert held_out_moves.main() == 0
    assert capsys.readouterr().out.count("nobody moved") == len(held_out_moves.CHANGES)


def test_the_script_notices_a_site_that_remembers_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(People, "draws", lambda _, key: frozenset({key}))
    monkeypatch.setattr(held_out_moves, "CHANGES", dict(list(held_out_moves.CHANGES.items())[:1]))
    assert held_out_moves.main() == 1
    assert "THE ATTACK WORKS" in capsys.readouterr().out
