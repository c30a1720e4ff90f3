"""A roster's entries are their hospitals' own, each hospital is there once, and one content has one digest."""

import dataclasses
import json
from pathlib import Path

import pytest

from common.errors import MessageRefused, SignatureInvalid, StateError
from common.secure.masks import new_private, public_of
from common.secure.roster import MAX_BYTES, Member, Roster, in_groups
from common.wire.signing import Key


def entry(home: Path, site: str, legal: str = "", **changed: str) -> Member:
    key = Key.at(home / f"{site}.key")
    member = Member(
        site=site, legal=legal or f"Hospital {site}", identity=key.public, box=public_of(new_private()).hex()
    )
    return dataclasses.replace(member, **changed).signed(key)


@pytest.fixture
def members(tmp_path: Path) -> list[Member]:
    return [entry(tmp_path, site) for site in ("north", "east", "south")]


def test_a_roster_is_read_back_in_one_order_under_one_digest(tmp_path: Path, members: list[Member]) -> None:
    roster = Roster.of(members)
    assert roster.names == ("east", "north", "south")
    roster.save(tmp_path / "roster.json")
    assert Roster.load(tmp_path / "roster.json") == roster == Roster.of(members[::-1])
    assert [roster.place(name) for name in roster.names] == [0, 1, 2]
    assert "".join(in_groups(roster.digest).split()) == roster.digest
    assert any(in_groups(roster.digest) in line for line in roster.lines())
    with pytest.raises(MessageRefused, match="not in the roster"):
        roster.place("west")


def test_every_part_of_an_entry_is_in_the_digest(tmp_path: Path, members: list[Member]) -> None:
    digests = {Roster.of(members).digest}
    for name, value in (("legal", "Another"), ("box", public_of(new_private()).hex()), ("site", "new")):
        changed = dataclasses.replace(members[0], **{name: value}).signed(Key.at(tmp_path / "north.key"))
        digests.add(Roster.of([changed, *members[1:]]).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("name", ["site", "legal", "box", "identity"])
def test_an_entry_that_its_own_key_did_not_sign_is_refused(tmp_path: Path, members: list[Member], name: str) -> None:
    value = {"site": "west", "legal": "Somebody else", "box": "ab" * 32, "identity": members[1].identity}[name]
    forged = dataclasses.replace(members[0], **{name: value})
    with pytest.raises(SignatureInvalid, match="roster entry"):
        Roster.of([forged, members[2], entry(tmp_path, "other")])
    forged.save(tmp_path / "forged.json")
    with pytest.raises(SignatureInvalid, match="roster entry"):
        Member.load(tmp_path / "forged.json")


@pytest.mark.parametrize("name", ["site", "legal", "box", "identity"])
def test_a_hospital_that_stands_in_it_twice_is_refused(tmp_path: Path, members: list[Member], name: str) -> None:
    """A coordinator that lists one hospital under two names would have it count twice."""
    key = Key.at(tmp_path / ("north.key" if name == "identity" else "twin.key"))
    twin = Member(site="twin", legal="Twin", identity=key.public, box=public_of(new_private()).hex())
    twin = dataclasses.replace(twin, **{name: getattr(members[0], name)}).signed(key)
    with pytest.raises(MessageRefused, match="two hospitals have the same"):
        Roster.of([*members, twin])


def test_a_key_of_two_purposes_and_too_few_hospitals_are_refused(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(MessageRefused, match="two purposes"):
        Roster.of([*members, entry(tmp_path, "west", box=members[0].identity)])
    with pytest.raises(MessageRefused, match="3 to 100"):
        Roster.of(members[:2])


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{", b'{"schema": 2, "kind": "roster", "members": []}', b'{"schema": 1, "kind": "member"}',
    b'{"schema": 1, "kind": "roster", "members": {}}', b'{"schema": 1, "kind": "roster", "members": [1, 2, 3]}',
    b'{"schema": 1, "kind": "roster", "members": [{"site": "a"}, {}, {}]}',
    b'{"schema": 1, "kind": "roster", "members": [], "more": 1}', b" " * (MAX_BYTES + 1),
])  # fmt: skip
def test_a_file_that_is_no_roster_is_refused_by_type(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "roster.json").write_bytes(content)
    with pytest.raises(MessageRefused):
        Roster.load(tmp_path / "roster.json")
    with pytest.raises(StateError, match="cannot be read"):
        Roster.load(tmp_path / "absent.json")


@pytest.mark.parametrize(("name", "value"), [
    ("site", "Not A Name"), ("site", 7), ("legal", ""), ("legal", "two\nlines"), ("legal", " x"), ("legal", "x" * 201),
    ("identity", "AB" * 32), ("box", "ab"), ("box", None),
])  # fmt: skip
def test_an_entry_of_wrong_form_is_refused(tmp_path: Path, members: list[Member], name: str, value: object) -> None:
    members[0].save(tmp_path / "one.json")
    assert Member.load(tmp_path / "one.json") == members[0]
    table = json.loads((tmp_path / "one.json").read_text()) | {name: value}
    (tmp_path / "one.json").write_text(json.dumps(table))
    with pytest.raises(MessageRefused, match="roster"):
        Member.load(tmp_path / "one.json")
