"""The road of a roster through its three commands, and each way in which it is not this hospital's."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.secure import identity
from client.secure.identity import accept, accepted, own_entry
from common.errors import PlanRefused, StateError
from common.secure.masks import new_private
from common.secure.roster import Member, Roster, in_groups
from deploy.cli import main


def home_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "site.toml").write_text(f'name = "{name}"\n')
    return folder / name


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    return [home_of(tmp_path, name) for name in ("north", "east", "south")]


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_entries_become_a_roster_that_each_hospital_checks_under_one_digest(tmp_path: Path, homes: list[Path]) -> None:
    entries = [tmp_path / f"{home.name}.member.json" for home in homes]
    for home, entry in zip(homes, entries, strict=True):
        made = run("site", "roster", "entry", "--home", home, "--legal", f"Hospital {home.name}", "--out", entry)
        assert made.exit_code == 0, made.output
        assert not any(private in entry.read_text() for private in (identity.box_key(home).hex(),))
    written = run("server", "roster", *entries, "--out", tmp_path / "roster.json", "--json")
    digest = json.loads(written.output)["digest"]
    for home in homes:
        checked = run("site", "roster", "check", tmp_path / "roster.json", "--home", home)
        assert checked.exit_code == 0, checked.output
        assert in_groups(digest) in checked.output
        assert f"this hospital is '{home.name}'" in checked.output
        assert accepted(home, digest).digest == digest
    as_json = json.loads(run("site", "roster", "check", tmp_path / "roster.json", "--home", homes[0], "--json").output)
    assert (as_json["digest"], as_json["own"], len(as_json["members"])) == (digest, "north", 3)


def test_a_hospital_that_is_absent_or_has_other_keys_refuses_the_roster(tmp_path: Path, homes: list[Path]) -> None:
    stranger = home_of(tmp_path, "west")
    roster = Roster.of([own_entry(home, legal=home.name) for home in homes])
    with pytest.raises(PlanRefused, match="no entry"):
        accept(stranger, roster)
    accept(homes[0], roster)
    (homes[0] / identity.BOX_KEY).unlink()
    with pytest.raises(PlanRefused, match="other keys"):
        accepted(homes[0], roster.digest)
    with pytest.raises(PlanRefused, match="other keys"):
        accept(homes[0], roster)


def test_an_impostor_under_this_hospitals_name_is_refused(tmp_path: Path, homes: list[Path]) -> None:
    """The coordinator makes keys of its own and lists them under the name of a hospital."""
    (tmp_path / "fake").mkdir()
    fake = home_of(tmp_path / "fake", "north")
    roster = Roster.of([own_entry(home, legal=home.name) for home in (fake, *homes[1:])])
    with pytest.raises(PlanRefused, match="other keys"):
        accept(homes[0], roster)
    accept(homes[1], roster)  # east cannot see it: the telephone can


def test_a_roster_that_was_not_checked_here_or_was_exchanged_on_disk_is_not_used(homes: list[Path]) -> None:
    members = [own_entry(home, legal=home.name) for home in homes]
    roster = Roster.of(members)
    with pytest.raises(PlanRefused, match="not checked at this site"):
        accepted(homes[0], roster.digest)
    with pytest.raises(PlanRefused, match="not checked at this site"):
        accepted(homes[0], "../" * 10)
    accept(homes[0], roster)
    renamed = own_entry(homes[1], legal="Another legal name")
    Roster.of([members[0], renamed, members[2]]).save(homes[0] / "rosters" / f"{roster.digest}.json")
    with pytest.raises(StateError, match="not the roster that was checked"):
        accepted(homes[0], roster.digest)


def test_the_box_key_stays_and_a_damaged_one_is_refused(homes: list[Path]) -> None:
    first = identity.box_key(homes[0])
    assert identity.box_key(homes[0]) == first != new_private()
    assert (homes[0] / identity.BOX_KEY).stat().st_mode & 0o777 == 0o600
    (homes[0] / identity.BOX_KEY).write_bytes(b"short")
    with pytest.raises(StateError, match="must hold 32 bytes"):
        identity.box_key(homes[0])


def test_an_entry_that_was_altered_on_its_way_makes_no_roster(tmp_path: Path, homes: list[Path]) -> None:
    files = []
    for home in homes:
        member = own_entry(home, legal=home.name)
        files.append(tmp_path / f"{home.name}.json")
        (dataclasses.replace(member, legal="Forged") if home is homes[0] else member).save(files[-1])
    assert run("server", "roster", *files, "--out", tmp_path / "roster.json").exit_code == 5
    assert not (tmp_path / "roster.json").exists()
    assert Member.load(files[1]).site == "east"
