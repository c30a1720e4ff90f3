"""A home is bound to its place; a copy of it does not serve, and what two copies spent is booked in one."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from client import hospital
from client.admission.quarantine import Decisions, decide
from client.approval import approvals
from client.cohort import consent
from client.cohort.people import Known, People
from client.daemon import serve
from client.daemon.home import DaemonHome
from client.ledger import ledger_store, noise_key
from client.ledger.bookings import Bookings
from client.ledger.ledger import Ledger
from client.site import adopt, place, policy
from client.site.site import Site
from common.accountant.accounting import epsilon
from common.errors import HomeMoved, LedgerBehind, StateError
from deploy.cli import main
from tests.client.hospitals import build_home, request, tiny_plan

PLAN = tiny_plan('[privacy]\nphases = ["moments"]\n')
OTHER = tiny_plan('[privacy]\nphases = ["moments"]\nepsilon = 2.0\ndelta = 1e-6\n', name="other")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "A", PLAN, OTHER)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has an id, which many containers lack."""
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(place, "_MACHINE", tmp_path / "machine-id")


def train(home: Path, plan: object = PLAN, *, head: str = "", shift: float = 0.0) -> str:
    asked = dataclasses.replace(request(plan, 1, shift=shift), last_head=head)  # type: ignore[arg-type]
    return hospital.train(Site.open(home), asked).ledger_head


def copy_of(home: Path, name: str = "B") -> Path:
    return Path(shutil.copytree(home, home.with_name(name), symlinks=True))


def as_cloned_machine(home: Path) -> Path:
    """A copy that cannot be told from the home by its folder, as on a machine that was cloned whole."""
    twin = copy_of(home)
    entry = json.loads((home / place.PLACE).read_text())[-1]
    here = dataclasses.asdict(place.Place.here(twin))
    (twin / place.PLACE).write_text(json.dumps([{**entry, **here}]))
    return twin


def content(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_copy_of_a_home_neither_greets_nor_trains_nor_serves_and_the_original_goes_on(home: Path) -> None:
    train(home)
    twin = copy_of(home)
    before = (twin / "ledger.sqlite").read_bytes()
    with pytest.raises(HomeMoved, match="wardround site adopt"):
        train(twin, OTHER)
    with pytest.raises(HomeMoved):
        hospital.greet(Site.open(twin), hospital.Hello(plan=PLAN.digest))
    with serve.alone(DaemonHome(twin)), pytest.raises(HomeMoved):
        place.require(twin)
    assert (twin / "ledger.sqlite").read_bytes() == before
    train(home, OTHER)


def test_a_daemon_on_a_copy_refuses_before_it_starts_anything(home: Path) -> None:
    train(home)
    twin = copy_of(home)
    run = CliRunner().invoke(main, ["site", "serve", "--home", str(twin)])
    assert (run.exit_code, "not where it was bound" in run.output) == (StateError.exit_code, True)
    assert not (twin / "daemon").exists()


@pytest.mark.usefixtures("named")
def test_a_home_that_was_renamed_or_whose_machine_was_booted_again_is_where_it_was(home: Path) -> None:
    train(home)
    moved = home.rename(home.with_name("renamed"))
    train(moved, shift=0.01)
    kept = json.loads((moved / place.PLACE).read_text())
    booted = [{**kept[0], "boot": "another", "device": kept[0]["device"] + 1}]
    (moved / place.PLACE).write_text(json.dumps(booted))
    place.require(moved)
    assert json.loads((moved / place.PLACE).read_text()) == kept  # bound anew, or a snapshot would go on unnoticed
    for change in ({"machine": "f" * 64}, {"inode": 1}, {"anchor": 1}):
        (moved / place.PLACE).write_text(json.dumps([{**booted[0], **change}]))
        with pytest.raises(HomeMoved):
            place.require(moved)
    (moved / place.PLACE).write_text(json.dumps([{**kept[0], "device": kept[0]["device"] + 1}]))
    with pytest.raises(HomeMoved):  # a snapshot that is mounted beside the original keeps every inode
        place.require(moved)


def test_a_copy_that_was_put_back_in_place_is_another_place_even_with_the_old_inode_numbers(home: Path) -> None:
    place.require(home)
    bound = place.Place.here(home)
    saved = copy_of(home, "saved")
    shutil.rmtree(home)
    saved.rename(home)
    with pytest.raises(HomeMoved):
        place.require(home)
    told = dataclasses.replace(bound, generations=(1, 2))
    assert told.is_still(dataclasses.replace(told, device=bound.device))
    assert not told.is_still(dataclasses.replace(told, generations=(1, 3)))
    assert told.is_still(dataclasses.replace(told, generations=()))  # the file system tells none


def test_machines_without_an_id_are_not_known_to_be_one_machine_after_a_boot(home: Path) -> None:
    nameless = dataclasses.replace(place.Place.here(home), machine="", boot="one")
    assert nameless.is_still(nameless)
    assert not nameless.is_still(dataclasses.replace(nameless, boot="two"))
    assert not dataclasses.replace(nameless, boot="").is_still(dataclasses.replace(nameless, boot=""))


def test_a_record_from_before_generations_were_kept_is_read_and_learns_them(home: Path) -> None:
    place.require(home)
    now = json.loads((home / place.PLACE).read_text())
    (home / place.PLACE).write_text(json.dumps([{k: v for k, v in now[0].items() if k != "generations"}]))
    place.require(home)
    assert json.loads((home / place.PLACE).read_text()) == now


@pytest.mark.usefixtures("named")
def test_the_doctor_says_where_a_home_is_and_writes_nothing(home: Path) -> None:
    place.require(home)
    now = json.loads((home / place.PLACE).read_text())
    (home / place.PLACE).write_text(json.dumps([{**now[0], "boot": "another"}]))
    before = content(home)
    place.examine(home)
    assert content(home) == before


@pytest.mark.parametrize("damage", ["", "[]", "[{}]", '{"device": 1}'])
def test_a_record_of_the_place_that_is_damaged_is_refused_and_not_replaced(home: Path, damage: str) -> None:
    place.require(home)
    (home / place.PLACE).write_text(damage)
    with pytest.raises(StateError, match=r"place\.json"):
        place.require(home)
    assert (home / place.PLACE).read_text() == damage


def test_a_home_that_was_moved_on_purpose_is_adopted_by_a_command_that_asks(home: Path) -> None:
    train(home)
    moved = copy_of(home, "new-machine")
    shutil.rmtree(home)
    refused = CliRunner().invoke(main, ["site", "adopt", "--home", str(moved)], input="n\n")
    assert "nothing was changed" in refused.output
    with pytest.raises(HomeMoved):
        train(moved, OTHER)
    run = CliRunner().invoke(main, ["site", "adopt", "--home", str(moved), "--by", "Dr. Steward", "--yes", "--json"])
    assert json.loads(run.output)["moved"] is True
    train(moved, OTHER)
    entries = json.loads((moved / place.PLACE).read_text())
    assert [entry["by"] for entry in entries] == ["", "Dr. Steward"]


def test_two_copies_that_both_went_on_each_refuse_the_head_of_the_other(home: Path) -> None:
    train(home)
    twin = as_cloned_machine(home)
    ours, theirs = train(home, shift=0.01), train(twin, OTHER)
    for mine, head in ((home, theirs), (twin, ours)):
        with pytest.raises(LedgerBehind, match="adopt --merge"):
            train(mine, shift=0.02, head=head)


def test_after_a_merge_the_union_of_both_copies_is_booked_and_both_heads_are_known(home: Path) -> None:
    begun = train(home)
    twin = as_cloned_machine(home)
    heads = [train(home, shift=0.01), train(twin, OTHER)]
    consent.withdraw(twin, Ledger(twin / "ledger.sqlite"), "P3")
    heads.append(train(twin, OTHER, shift=0.01))
    ledgers = [Ledger(each / "ledger.sqlite") for each in (home, twin)]
    truly = [*ledgers[0].events(), *ledgers[1].events()[1:]]
    found = adopt.adopt(home, by="Dr. Steward", other=twin)
    assert (found.booked, found.withdrawn, found.moved) == (2, 1, False)
    merged = Ledger(home / "ledger.sqlite")
    assert sorted(map(str, merged.events())) == sorted(map(str, truly))
    assert merged.epsilon(delta=1e-6) == epsilon(truly, delta=1e-6)
    assert merged.withdrawn() == ledgers[1].withdrawn()
    rows = ledgers[1].rows()
    for head in (begun, *heads, *(row.hash for row in rows)):
        merged.require(head)
    assert adopt.adopt(home, by="Dr. Steward", other=twin).booked == 0  # twice is as once
    train(home, shift=0.02, head=heads[-1])
    assert len(consent.releases_with(merged, merged.withdrawn())) == 3


def test_two_reservations_that_look_alike_in_both_copies_are_booked_as_two_where_both_sent_a_reply(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both copies were asked for one round within one second; each drew its own noise."""
    place.require(home)
    twin = as_cloned_machine(home)
    monkeypatch.setattr(ledger_store.time, "gmtime", lambda *_: time.struct_time((2026, 1, 1, 0, 0, 0, 3, 1, 0)))
    heads = [train(home), train(twin)]
    ours, theirs = (Ledger(each / "ledger.sqlite") for each in (home, twin))
    alike = [a.kind for a, b in zip(ours.rows(), theirs.rows(), strict=True) if a.hash == b.hash]
    assert "reserve" in alike
    assert heads[0] != heads[1]
    truly = [*ours.events(), *theirs.events()]
    assert adopt.adopt(home, by="a", other=twin).booked == 1
    merged = Ledger(home / "ledger.sqlite")
    assert sorted(map(str, merged.events())) == sorted(map(str, truly))
    for head in heads:
        merged.require(head)
    assert adopt.adopt(home, by="a", other=twin).booked == 0  # twice is as once


def test_what_was_merged_pays_for_no_request_and_a_withdrawn_patient_stays_out(home: Path) -> None:
    train(home)
    twin = as_cloned_machine(home)
    train(twin, shift=0.01)
    consent.withdraw(twin, Ledger(twin / "ledger.sqlite"), "P3")
    adopt.adopt(home, by="a", other=twin)
    weights = Bookings.among(Ledger(twin / "ledger.sqlite").rows()).rows[-1].note
    assert Ledger(twin / "ledger.sqlite").booked(PLAN.digest, 1, weights)
    assert not Ledger(home / "ledger.sqlite").booked(PLAN.digest, 1, weights)
    before = len(Ledger(home / "ledger.sqlite").events())
    train(home, shift=0.01)
    ledger = Ledger(home / "ledger.sqlite")
    assert len(ledger.events()) == before + 1
    assert ledger.withdrawn().isdisjoint(Site.open(home).cache.patient_keys)


def test_a_plan_that_was_approved_in_the_other_copy_alone_keeps_its_delta_in_the_total(home: Path) -> None:
    train(home)
    twin = as_cloned_machine(home)
    small = tiny_plan('[privacy]\nphases = ["moments"]\ndelta = 1e-9\n', name="small")
    policy.approve(twin, small, approved_by="a")
    train(twin, small)
    found = adopt.adopt(home, by="b", other=twin)
    assert found.plans == ("small",)
    assert approvals.find(home, "small").state == "left"
    booked = Bookings.among(Ledger(home / "ledger.sqlite").rows()).plans()
    assert approvals.smallest_delta(home, PLAN, booked) == 1e-9


def test_a_copy_that_was_made_before_the_first_booking_is_merged_too(home: Path) -> None:
    place.require(home)
    twin = as_cloned_machine(home)
    consent.withdraw(twin, Ledger(twin / "ledger.sqlite"), "P3")
    ours, theirs = train(home), train(twin, OTHER)
    assert {row.hash for row in Ledger(home / "ledger.sqlite").rows()}.isdisjoint(
        row.hash for row in Ledger(twin / "ledger.sqlite").rows()
    )
    truly = [event for each in (home, twin) for event in Ledger(each / "ledger.sqlite").events()]
    found = adopt.adopt(home, by="a", other=twin)
    assert (found.booked, found.withdrawn) == (1, 1)
    merged = Ledger(home / "ledger.sqlite")
    assert merged.events() == truly
    for head in (ours, theirs):
        merged.require(head)
    train(home, shift=0.02, head=theirs)


def with_a_small_plan(home: Path) -> tuple[Path, str]:
    """A copy that has booked for a plan of a small delta, whose record this version cannot build."""
    twin = as_cloned_machine(home)
    small = tiny_plan('[privacy]\nphases = ["moments"]\ndelta = 1e-9\n', name="small")
    policy.approve(twin, small, approved_by="a")
    train(twin, small)
    path = twin / "approved" / small.digest / "approval.json"
    record = json.loads(path.read_text())
    record["plan"]["of an older version"] = 1
    path.write_text(json.dumps(record))
    return twin, small.digest


def test_a_plan_of_the_other_copy_that_this_version_cannot_build_keeps_its_delta_in_the_total(home: Path) -> None:
    train(home)
    twin, digest = with_a_small_plan(home)
    adopt.adopt(home, by="b", other=twin)
    booked = Bookings.among(Ledger(home / "ledger.sqlite").rows()).plans()
    assert digest in booked
    assert approvals.smallest_delta(home, PLAN, booked) == 1e-9


@pytest.mark.parametrize("record", [None, "{}"])
def test_a_merge_whose_delta_nobody_can_tell_is_refused_before_anything_changes(home: Path, record: str | None) -> None:
    train(home)
    twin, digest = with_a_small_plan(home)
    policy.approve(twin, tiny_plan(name="unbooked"), approved_by="a")
    path = twin / "approved" / digest / "approval.json"
    path.unlink() if record is None else path.write_text(record)
    before = content(home)
    with pytest.raises(StateError, match=digest[:12]):
        adopt.adopt(home, by="b", other=twin)
    assert content(home) == before
    small = tiny_plan('[privacy]\nphases = ["moments"]\ndelta = 1e-9\n', name="small")
    policy.approve(home, small, approved_by="b")
    assert adopt.adopt(home, by="b", other=twin).booked == 1


@pytest.mark.parametrize("merged", [True, False])
def test_an_adopted_home_holds_no_key_of_a_round_under_way(home: Path, *, merged: bool) -> None:
    train(home)
    twin = as_cloned_machine(home)
    noise_key.make(home, "a" * 32, entry=1, generation="g")
    adopt.adopt(home, by="a", other=twin if merged else None)
    assert noise_key.kept(home, "a" * 32) is None
    train(home, shift=0.02)


def test_who_is_who_in_either_copy_is_known_after_a_merge(home: Path) -> None:
    train(home)
    twin = as_cloned_machine(home)
    a, b, c = ("a" * 32, "b" * 32, "c" * 32)

    def known(draw: str, *kin: str) -> Known:
        return Known(bare="", draws=frozenset({draw}), kin=frozenset(kin))

    People({a: known(a, a, b)}).save(home)
    People({a: known(c, a, c), c: known(c, a, c)}).save(twin)
    adopt.adopt(home, by="a", other=twin)
    people = People.load(home)
    assert (people.draws(a), people.kin(a)) == ({a, c}, {a, b, c})
    assert people.kin(c) == {a, c}


@pytest.mark.parametrize("name", ["people.json", "quarantine.json"])
def test_a_copy_whose_knowledge_cannot_be_read_is_refused_before_anything_changes(home: Path, name: str) -> None:
    train(home)
    twin = as_cloned_machine(home)
    train(twin, OTHER)
    policy.approve(twin, tiny_plan(name="unbooked"), approved_by="a")
    (twin / name).write_text("{")
    before = content(home)
    with pytest.raises(StateError, match=name):
        adopt.adopt(home, by="b", other=twin)
    assert content(home) == before


def test_the_stricter_decision_of_two_copies_holds_after_a_merge(home: Path) -> None:
    train(home)
    twin = as_cloned_machine(home)
    approvals.pause(home, PLAN.digest, by="a")
    approvals.leave(twin, PLAN.digest, by="b")
    approvals.leave(home, OTHER.digest, by="a")
    approvals.pause(twin, OTHER.digest, by="b")
    decide(home, ["1" * 64], "admit")
    decide(home, ["2" * 64], "drop")
    decide(twin, ["1" * 64], "drop")
    decide(twin, ["2" * 64, "3" * 64], "admit")
    adopt.adopt(home, by="c", other=twin)
    assert [approvals.Approval.load(home, plan.digest).state for plan in (PLAN, OTHER)] == ["left", "left"]
    assert [Decisions.load(home).of(digit * 64) for digit in "123"] == ["drop", "drop", None]


def test_a_merge_with_what_is_no_copy_or_is_served_changes_nothing(home: Path, tmp_path: Path) -> None:
    train(home)
    stranger = build_home(tmp_path / "stranger", PLAN)
    train(stranger)
    twin = as_cloned_machine(home)
    before = (home / "ledger.sqlite").read_bytes()
    for other, words in ((stranger, "another secret"), (home, "very home"), (tmp_path, "holds no ledger")):
        with pytest.raises(StateError, match=words):
            adopt.adopt(home, by="a", other=other)
    with serve.alone(DaemonHome(twin)), pytest.raises(StateError, match="being served"):
        adopt.adopt(home, by="a", other=twin)
    with serve.alone(DaemonHome(home)), pytest.raises(StateError, match="served already"):
        adopt.adopt(home, by="a", other=twin)
    assert (home / "ledger.sqlite").read_bytes() == before
    assert sorted(path.name for path in home.glob(".adopt*")) == []


def test_reading_the_other_copy_changes_nothing_in_it(home: Path) -> None:
    train(home)
    twin = as_cloned_machine(home)
    train(twin, OTHER)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in twin.rglob("*") if path.is_file()}
    adopt.adopt(home, by="a", other=twin)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in twin.rglob("*") if p.is_file()} == before
