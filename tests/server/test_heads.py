"""What the coordinator remembers of each site's ledger over all of its studies."""

import json
from pathlib import Path

import pytest

from common.errors import StateError
from server.study import heads, signers
from server.study.heads import Heads

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def studies(tmp_path: Path) -> dict[str, Heads]:
    """Two studies of one coordinator."""
    (tmp_path / "heads").mkdir()
    signers.save(tmp_path, {"north": "1" * 64})
    found = {}
    for name in ("long", "other"):
        folder = tmp_path / "studies" / name
        folder.mkdir(parents=True)
        (folder / heads.FOLDER).symlink_to(Path("..") / ".." / heads.FOLDER)
        (folder / signers.FILE).symlink_to(Path("..") / ".." / signers.FILE)
        found[name] = Heads(folder)
    return found


def test_a_site_is_asked_with_what_it_named_in_any_study(studies: dict[str, Heads]) -> None:
    assert studies["other"].to_send("north") == ""
    studies["long"].counted("north", A)
    assert studies["other"].to_send("north") == A
    assert studies["other"].to_send("hill") == ""
    studies["other"].counted("north", B)
    assert studies["long"].to_send("north") in (A, B)


def test_of_two_copies_each_is_soon_asked_for_what_only_the_other_knows_and_then_until_it_answers(
    studies: dict[str, Heads], tmp_path: Path
) -> None:
    knows = {"long": {A}, "other": {B}}  # one copy answers the one study, the other copy the other
    for name, head in (("long", A), ("other", B)):
        studies[name].counted("north", head)
    answered: dict[str, list[bool]] = {name: [] for name in knows}
    for _ in range(6):
        for name, known in knows.items():
            sent = studies[name].to_send("north")
            answered[name].append(sent in known)
            if sent in known:
                studies[name].counted("north", sent)
            else:
                studies[name].refused("north", sent=sent, reason="LedgerBehind")
    for said in answered.values():
        assert not any(said[2:])
    assert studies["long"].to_send("north") == B
    studies["long"].counted("north", C)  # one copy has booked what the other spent
    assert json.loads((tmp_path / "heads" / "north.json").read_text())["refused"] == {"other": A}


def test_a_refusal_for_any_other_reason_changes_nothing(studies: dict[str, Heads]) -> None:
    studies["long"].counted("north", A)
    studies["other"].counted("north", B)
    studies["long"].refused("north", sent=A, reason="BudgetExhausted")
    studies["long"].refused("north", sent="", reason="LedgerBehind")
    assert studies["long"].to_send("north") == B


def test_only_the_last_head_of_a_study_is_kept_and_the_newest_is_sent_every_second_time(
    studies: dict[str, Heads],
) -> None:
    studies["long"].counted("north", A)
    studies["other"].counted("north", B)
    studies["long"].counted("north", C)
    assert [studies["other"].to_send("north") for _ in range(4)] == [C, C, C, C]
    assert [studies["long"].to_send("north") for _ in range(4)] == [C, B, C, B]


def test_a_site_with_another_home_begins_anew_and_one_with_new_node_keys_alone_does_not(
    studies: dict[str, Heads], tmp_path: Path
) -> None:
    studies["long"].counted("north", A)
    signers.save(tmp_path, {"north": "1" * 64, "hill": "3" * 64})
    assert studies["long"].to_send("north") == A
    signers.save(tmp_path, {"north": "2" * 64})
    assert studies["long"].to_send("north") == ""


def test_a_study_of_a_simulation_remembers_nothing_here(tmp_path: Path) -> None:
    alone = Heads(tmp_path)
    alone.counted("north", A)
    assert alone.to_send("north") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_damaged_is_an_error_that_says_what_to_do(studies: dict[str, Heads], tmp_path: Path) -> None:
    for content in ("", "[]", '{"heads": 1}'):
        (tmp_path / "heads" / "north.json").write_text(content)
        with pytest.raises(StateError, match="Take it away, and call north"):
            studies["long"].to_send("north")
