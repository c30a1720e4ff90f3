"""Two copies of a home do not go on unnoticed, and the script would say so."""

import pytest

from client.ledger import ledger_merge
from client.site import adopt, place
from server.study.heads import Heads
from tests.attacks import twin_home


def test_no_copy_of_a_home_works_on_unnoticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert twin_home.main() == 0
    assert "no copy works on unnoticed" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["place", "heads", "merge"])
def test_the_script_notices_a_hospital_and_a_coordinator_as_they_once_were(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if part == "place":
        monkeypatch.setattr(place, "require", lambda _: None)
    elif part == "heads":
        monkeypatch.setattr(Heads, "to_send", lambda *_: "")
    else:
        monkeypatch.setattr(ledger_merge, "drafts_of", lambda *_, **__: [])
        monkeypatch.setattr(adopt.receipt, "keep", lambda *_, **__: None)
    assert twin_home.main() == 1
    assert "THE ATTACK WORKS" in capsys.readouterr().out
