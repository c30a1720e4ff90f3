"""A key is used for the reservation it was made for and for no other: one booking, one draw, on one set of images."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client import hospital
from client.ledger import noise_key
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import LedgerStore
from client.site import policy
from client.site.site import Site
from common.accountant.accounting import GaussianEvent
from common.errors import StateError
from common.model.weights import digest
from common.plan.schedule import Round, schedule
from common.wire.messages import TrainReply
from tests.client import hospitals, test_verdict
from tests.client.hospitals import build_home, fill_cache, request, tiny_plan

PLAN = tiny_plan()
PAYING = tiny_plan("[privacy]\nutility_share = 0.1", name="paying")
FIRST_SGD = next(step.number for step in schedule(PAYING) if step.phase == "sgd")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN, PAYING)


def ask(home: Path) -> TrainReply:
    return hospital.train(Site.open(home), request(PLAN))


def booked(home: Path) -> int:
    return len(Ledger(home / "ledger.sqlite").events())


def settled(home: Path) -> dict[int, set[str]]:
    """Digests of what each reservation ended in."""
    found: dict[int, set[str]] = {}
    for row in Ledger(home / "ledger.sqlite").rows():
        if row.kind == "settle":
            number, _, reply = row.note.partition(":")
            found.setdefault(int(number), set()).add(reply)
    return found


def cut_short(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], where: tuple[object, str] = (hospital, "_compute")
) -> None:
    """Run `call` with this step of it broken; by default the round is booked then, and nothing is computed."""

    def broken(*_: object, **__: object) -> None:
        raise StateError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(*where, broken)
        with pytest.raises(StateError, match="the power went"):
            call()


def test_a_key_whose_booking_failed_makes_no_second_output_under_an_older_booking(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(home)
    shutil.rmtree(home / "spool")
    cut_short(monkeypatch, lambda: ask(home), (LedgerStore, "_insert"))
    assert len(list((home / "keys").iterdir())) == booked(home) == 1
    assert digest(ask(home).arrays) != digest(first.arrays)
    assert booked(home) == 2
    assert [len(replies) for replies in settled(home).values()] == [1, 1]


def test_a_verdicts_key_whose_booking_failed_makes_no_second_verdict_under_an_older_booking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = test_verdict.gated()
    home = build_home(tmp_path / "site", plan, patients=40)
    hospital.evaluate(Site.open(home), test_verdict.ask(plan))
    shutil.rmtree(home / "verdicts")
    cut_short(monkeypatch, lambda: hospital.evaluate(Site.open(home), test_verdict.ask(plan)), (LedgerStore, "_insert"))
    hospital.evaluate(Site.open(home), test_verdict.ask(plan))
    assert booked(home) == len(settled(home)) == 2


def test_a_verdict_that_was_cut_short_is_judged_under_its_own_booking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = test_verdict.gated()
    home = build_home(tmp_path / "site", plan, patients=40)
    cut_short(monkeypatch, lambda: hospital.evaluate(Site.open(home), test_verdict.ask(plan)), (hospital, "judge"))
    hospital.evaluate(Site.open(home), test_verdict.ask(plan))
    assert booked(home) == 1


@pytest.mark.parametrize("changed", ["nothing", "event", "rides"])
def test_a_round_cut_short_is_booked_anew_where_its_mechanism_is_another_by_now(
    home: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    asked, round_of = request(PAYING, FIRST_SGD), policy.round_of
    cut_short(monkeypatch, lambda: hospital.train(Site.open(home), asked))
    assert booked(home) == 2  # the round's own, and its utility release

    def louder(event: GaussianEvent) -> GaussianEvent:
        return dataclasses.replace(event, sigma=1.01 * event.sigma)

    def upgraded(*args: object) -> Round:
        step = round_of(*args)  # type: ignore[arg-type]
        if changed == "event":
            return dataclasses.replace(step, event=louder(step.event))
        if changed == "rides":
            rides = [dataclasses.replace(ride, event=louder(ride.event)) for ride in step.rides]
            return dataclasses.replace(step, rides=tuple(rides))
        return step

    monkeypatch.setattr(policy, "round_of", upgraded)
    hospital.train(Site.open(home), asked)
    assert booked(home) == (2 if changed == "nothing" else 4)


def test_other_images_of_the_same_patients_never_meet_the_same_noise(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(monkeypatch, lambda: ask(home))
    (path,) = (home / "keys").iterdir()
    first, identity = path.read_bytes(), Site.open(home).cache.identity
    picture = hospitals.image
    monkeypatch.setattr(hospitals, "image", lambda seed, size: np.uint16(65535) - picture(seed, size))
    fill_cache(home, PLAN, [f"P{i}" for i in range(12)])
    assert Site.open(home).cache.identity == identity
    cut_short(monkeypatch, lambda: ask(home))
    assert booked(home) == 2
    assert path.read_bytes() != first
    ask(home)
    assert booked(home) == 2


@pytest.mark.parametrize("changed", [{"entry": 1}, {"generation": "0" * 32}])
def test_a_key_of_another_reservation_or_of_other_images_is_not_computed_with(
    home: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    book = hospital._reserve

    def swap(site: Site, *rest: object) -> int:
        number = book(site, *rest)  # type: ignore[arg-type]
        (path,) = (home / "keys").iterdir()
        noise_key.make(home, path.stem, **{"entry": number, "generation": site.cache.generation, **changed})  # type: ignore[arg-type]
        return number

    monkeypatch.setattr(hospital, "_reserve", swap)
    with pytest.raises(StateError, match="key of round 1 is gone"):
        ask(home)
    assert not (home / "egress.jsonl").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"k" * 32,
        b"[]",
        b'{"entry": 1, "generation": "g"}',
        json.dumps({"key": "00", "entry": 1, "generation": "g"}).encode(),
        json.dumps({"key": 32 * "zz", "entry": 1, "generation": "g"}).encode(),
        json.dumps({"key": 32 * "00", "entry": "1", "generation": "g"}).encode(),
    ],
)
def test_a_key_that_does_not_say_what_it_is_for_counts_as_gone(tmp_path: Path, content: bytes) -> None:
    noise_key.make(tmp_path, "name", entry=1, generation="g")
    kept = noise_key.kept(tmp_path, "name")
    assert kept is not None
    assert (len(kept.key), kept.entry, kept.generation) == (32, 1, "g")
    (tmp_path / "keys" / "name.key").write_bytes(content)
    assert noise_key.kept(tmp_path, "name") is None
