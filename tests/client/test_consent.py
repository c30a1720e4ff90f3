"""A patient who withdrew is in no later round, whatever ids and merges it came under; what left before is listed."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client import hospital
from client.admission.records import Admission, FileRecord
from client.cohort import cache, consent
from client.cohort.cache import Cache
from client.cohort.identity import patient_key, site_secret
from client.cohort.people import Person, remember
from client.ledger.ledger import Entry, Ledger
from client.site.site import Site
from common.errors import (
    BudgetExhausted,
    CacheCorrupt,
    CohortTooSmall,
    EgressRefused,
    IssuerNeeded,
    LedgerCorrupt,
    StateError,
)
from common.model.weights import digest
from common.plan.schedule import schedule
from common.wire.messages import Hello
from tests.client import test_verdict
from tests.client.hospitals import build_home, fill_cache, request, set_policy, tiny_plan

PLAN = tiny_plan()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN)


def ledger(home: Path) -> Ledger:
    return Ledger(home / "ledger.sqlite")


def key(home: Path, patient_id: str, issuer: str = "") -> str:
    return patient_key(site_secret(home), patient_id, issuer)


def record(home: Path, index: int, *, bare: str, full: str, generation: str = "") -> None:
    """Write the admission record of one file, which holds the first image of cached patient `index`."""
    whole = Cache.open(home)
    first = whole.patient_rows(index).start
    file = FileRecord(name="f", stamp=(1, 1, 1, 1), bare=bare, full=full, first=first, pictures=1)
    values = {field.name: "x" for field in dataclasses.fields(Admission)}
    values |= {"generation": generation or whole.generation, "patients": 12, "records": [file], "concerns": {}}  # type: ignore[dict-item]
    Admission(**values).save(home)  # type: ignore[arg-type]


def test_a_withdrawn_patient_is_not_in_the_cohort_and_everybody_else_is(home: Path) -> None:
    whole = Cache.open(home)
    out = whole.patient_keys.index(key(home, "P3"))
    assert consent.withdraw(home, ledger(home), "P3").known
    cohort = Site.open(home).cache
    assert cohort.patients == whole.patients - 1
    assert cohort.patient_keys == tuple(k for k in whole.patient_keys if k != key(home, "P3"))
    assert cohort.images == whole.images - len(whole.patient(out)[1])
    assert cohort.image_size == whole.image_size
    kept = [i for i in range(whole.patients) if i != out]
    for place, i in enumerate(kept):
        assert torch.equal(cohort.patient(place)[0], whole.patient(i)[0])
        assert cohort.patient_rows(place) == whole.patient_rows(i)
    draws = [torch.Generator().manual_seed(1) for _ in range(2)]
    mine = cohort.patients_images([0, 10, 3], 2, draws[0])
    theirs = whole.patients_images([kept[0], kept[10], kept[3]], 2, draws[1])
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))
    for i in (-1, 11):
        with pytest.raises(IndexError):
            cohort.patient(i)
    for label, count in enumerate(cohort.label_counts()):
        assert count == whole.label_counts()[label] - (label in whole.patient(out)[1].tolist())


def test_the_cohort_without_the_patient_is_another_data_set_and_the_budget_carries_over(home: Path) -> None:
    before = Site.open(home).cache.identity
    hospital.train(Site.open(home), request(PLAN, 1))
    consent.withdraw(home, ledger(home), "P3")
    assert Site.open(home).cache.identity != before
    reply = hospital.train(Site.open(home), request(PLAN, 2))
    assert reply.epsilon == pytest.approx(schedule(PLAN)[1].epsilon_after)
    first, second = ledger(home).cohorts().values()
    assert first - second == {key(home, "P3")}


def test_a_release_computed_before_the_withdrawal_is_not_sent_after_it(home: Path) -> None:
    before = hospital.train(Site.open(home), request(PLAN, 1))
    consent.withdraw(home, ledger(home), "nobody")
    assert digest(hospital.train(Site.open(home), request(PLAN, 1)).arrays) == digest(before.arrays)
    consent.withdraw(home, ledger(home), "P3")
    after = hospital.train(Site.open(home), request(PLAN, 1))
    assert digest(after.arrays) != digest(before.arrays)
    assert len(ledger(home).events()) == 2
    assert digest(hospital.train(Site.open(home), request(PLAN, 1)).arrays) == digest(after.arrays)


def test_a_round_to_compute_afresh_fits_where_the_plan_keeps_one_spare(tmp_path: Path) -> None:
    for spare in (0, 1):
        plan = tiny_plan(f'[privacy]\nphases = ["moments"]\nspare_rounds = {spare}')
        home = build_home(tmp_path / f"site-{spare}", plan)
        for step in schedule(plan):
            hospital.train(Site.open(home), request(plan, step.number))
        consent.withdraw(home, ledger(home), "P3")
        if spare:
            assert hospital.train(Site.open(home), request(plan, 2)).epsilon <= plan.privacy.epsilon
        else:
            with pytest.raises(BudgetExhausted):
                hospital.train(Site.open(home), request(plan, 2))


def test_releases_that_contain_the_patient_are_listed_and_no_others(home: Path) -> None:
    hospital.train(Site.open(home), request(PLAN, 1))
    fill_cache(home, PLAN, [f"P{i}" for i in range(13)])
    hospital.train(Site.open(home), request(PLAN, 2))
    consent.withdraw(home, ledger(home), "P3")
    hospital.train(Site.open(home), request(PLAN, 3))
    listed = {p: consent.releases_with(ledger(home), [key(home, p)]) for p in ("P3", "P12", "P5", "nobody")}
    rounds = {p: [release.round for release in releases] for p, releases in listed.items()}
    assert rounds == {"P3": [1, 2], "P12": [2, 3], "P5": [1, 2, 3], "nobody": []}
    assert all(release.finished and release.study == "tiny" for release in listed["P5"])


def test_an_unfinished_booking_is_listed_as_such(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hospital, "_compute", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hospital.train(Site.open(home), request(PLAN, 1))
    (release,) = consent.releases_with(ledger(home), [key(home, "P3")])
    assert not release.finished


def test_a_patient_who_comes_back_with_the_next_ingest_stays_out(home: Path) -> None:
    assert not consent.withdraw(home, ledger(home), "P12").known
    fill_cache(home, PLAN, [f"P{i}" for i in range(13)])
    assert Cache.open(home).patients == 13
    assert key(home, "P12") not in Site.open(home).cache.patient_keys


@pytest.mark.parametrize("how", ["issuer", "merge"])
def test_a_patient_is_found_by_its_id_whatever_key_the_cache_has_it_under(home: Path, how: str) -> None:
    bare = key(home, "A-77")
    full = key(home, "A-77", "clinic") if how == "issuer" else bare
    record(home, 4, bare=bare, full=full)
    kept_under = Cache.open(home).patient_keys[4]
    assert consent.withdraw(home, ledger(home), "A-77").known
    assert kept_under not in Site.open(home).cache.patient_keys
    assert {bare, kept_under} <= ledger(home).withdrawn()
    (home / "admission.json").unlink()  # the key it was cached under is remembered, too
    assert kept_under not in Site.open(home).cache.patient_keys


def test_only_the_issuers_own_patient_withdraws_where_the_issuer_is_given(home: Path) -> None:
    record(home, 4, bare=key(home, "A-77"), full=key(home, "A-77", "clinic"))
    assert not consent.withdraw(home, ledger(home), "A-77", issuer="other clinic").known
    assert Site.open(home).cache.patients == 12
    assert consent.withdraw(home, ledger(home), "A-77", issuer="clinic").known
    assert Site.open(home).cache.patients == 11


def put_aside(home: Path) -> dict[Path, bytes]:
    """The ledger and its seal as they are now."""
    return {home / name: (home / name).read_bytes() for name in ("ledger.sqlite", "ledger.seal")}


@pytest.mark.parametrize("before", ["a reply has left", "no reply has left"])
def test_a_ledger_put_back_as_it_was_before_a_withdrawal_stops_the_site(home: Path, before: str) -> None:
    if before == "a reply has left":
        hospital.train(Site.open(home), request(PLAN, 1))
    ledger(home)
    copy = put_aside(home)
    consent.withdraw(home, ledger(home), "P3")
    if before == "a reply has left":
        consent.withdraw(home, ledger(home), "nobody", issuer="")
    for path, content in copy.items():
        path.write_bytes(content)
    for use in (
        lambda: hospital.train(Site.open(home), request(PLAN, 2)),
        lambda: hospital.greet(Site.open(home), Hello(plan=PLAN.digest)),
        lambda: consent.withdraw(home, ledger(home), "P4"),  # a new mark does not make the lost one good
    ):
        with pytest.raises(LedgerCorrupt, match="withdrawal"):
            use()
    assert ledger(home).withdrawals() == []


def test_a_reply_sent_again_after_a_withdrawal_does_not_take_its_receipt_back(home: Path) -> None:
    hospital.train(Site.open(home), request(PLAN, 1))
    copy = put_aside(home)
    consent.withdraw(home, ledger(home), "nobody")
    hospital.train(Site.open(home), request(PLAN, 1))
    for path, content in copy.items():
        path.write_bytes(content)
    with pytest.raises(LedgerCorrupt):
        hospital.train(Site.open(home), request(PLAN, 2))


def test_an_id_alone_that_may_be_of_a_patient_who_left_the_cache_is_refused_and_asks_for_the_issuer(home: Path) -> None:
    left = key(home, "A-77", "clinic")
    booked = Entry(study="tiny", plan=PLAN.digest, round=1, phase="mean", event=schedule(PLAN)[0].event,
                   cohort="c" * 64, patients=(left,))  # fmt: skip
    ledger(home).reserve(booked, permit=lambda *_: None)
    with pytest.raises(IssuerNeeded, match="--issuer"):
        consent.withdraw(home, ledger(home), "A-77")
    assert ledger(home).withdrawals() == []
    assert consent.withdraw(home, ledger(home), "P3").known  # whoever is known by the id alone needs none
    assert consent.withdraw(home, ledger(home), "A-77", issuer="clinic").known
    assert [release.round for release in consent.releases_with(ledger(home), [left])] == [1]
    assert not consent.withdraw(home, ledger(home), "A-78").known  # nobody else has left


def test_a_record_of_another_cache_cannot_tell_who_withdrew_so_nothing_is_trained(home: Path) -> None:
    record(home, 4, bare="b", full="f", generation="0" * 32)
    hospital.train(Site.open(home), request(PLAN, 1))
    assert consent.withdraw(home, ledger(home), "P3").known
    with pytest.raises(CacheCorrupt, match="who withdrew"):
        hospital.train(Site.open(home), request(PLAN, 2))


def one_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a picture's bit": ("cache/*/images.npy", one_bit),
    "no labels": ("cache/*/labels.npy", Path.unlink),
    "half an index": ("cache/*/index.json", lambda path: path.write_bytes(path.read_bytes()[:40])),
    "no generation at all": ("cache/*", lambda path: path.name == "forms" or (path.is_dir() and shutil.rmtree(path))),
    "a pointer of a form": ("cache/forms/*", lambda path: path.write_text("{}")),
    "the pointer of the last ingest": ("cache/CURRENT", lambda path: path.write_text("../../etc")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_withdrawal_is_booked_whatever_state_a_cache_is_in_and_holds_for_the_next_one(
    home: Path, damage: str
) -> None:
    hospital.train(Site.open(home), request(PLAN, 1))
    pattern, spoil = DAMAGE[damage]
    for path in sorted(home.glob(pattern)):
        spoil(path)
    marked = consent.withdraw(home, ledger(home), "P3")
    assert (marked.known, marked.damaged > 0) == (True, True)
    fill_cache(home, PLAN, [f"P{i}" for i in range(12)])
    assert Site.open(home).cache.patients == 11
    assert key(home, "P3") not in Site.open(home).cache.patient_keys
    assert consent.withdraw(home, ledger(home), "P4", issuer="").damaged == 0


def test_an_id_alone_asks_for_the_issuer_where_no_record_tells_under_which_a_patient_was_kept(home: Path) -> None:
    """A cache from before there were records holds keys; the next ingest remembers them, and the patient is gone."""
    left = key(home, "A-77", "clinic")
    booked = Entry(study="tiny", plan=PLAN.digest, round=1, phase="mean", event=schedule(PLAN)[0].event,
                   cohort="c" * 64, patients=(left,))  # fmt: skip
    ledger(home).reserve(booked, permit=lambda *_: None)
    remember(home, consent.met_before(home), [Person(key=left, ids={left: ""})], expected=False)
    with pytest.raises(IssuerNeeded):
        consent.withdraw(home, ledger(home), "A-77")
    assert consent.withdraw(home, ledger(home), "A-77", issuer="clinic").known
    assert {person.ids[person.key] for person in consent.met_before(home)} == {""}


def test_a_patient_can_withdraw_before_anything_was_ingested(home: Path) -> None:
    shutil.rmtree(home / "cache")
    assert not consent.withdraw(home, ledger(home), "P3").known
    fill_cache(home, PLAN, [f"P{i}" for i in range(12)])
    assert Site.open(home).cache.patients == 11


def test_labels_are_counted_without_reading_a_pixel_of_anybody(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = test_verdict.gated()
    gated = build_home(tmp_path / "south", plan, patients=40)
    whole, cohort = Cache.open(gated), Site.open(gated).cohort(plan)
    kept = [i for i, name in enumerate(whole.patient_keys) if name in cohort.patient_keys]
    expected = [sum(label in whole.patient(i)[1].tolist() for i in kept) for label in (0, 1)]
    for where in (home, gated):
        consent.withdraw(where, ledger(where), "nobody")
    consent.withdraw(home, ledger(home), "P3")
    monkeypatch.setattr(cache, "_tensors", lambda *_: pytest.fail("pixels were read"))
    assert Site.open(gated).cohort(plan).label_counts() == expected
    assert 0 < cohort.patients < whole.patients
    assert hospital.greet(Site.open(home), Hello(plan=PLAN.digest)).site == "north"
    assert hospital.greet(Site.open(gated), Hello(plan=plan.digest)).site == "north"


def test_the_minimum_is_judged_without_those_who_withdrew_and_labels_are_not_judged(home: Path, tmp_path: Path) -> None:
    for i in range(3):
        consent.withdraw(home, ledger(home), f"P{i}")
    with pytest.raises(CohortTooSmall):
        hospital.train(Site.open(home), request(PLAN))
    other = build_home(tmp_path / "south", PLAN)
    whole = Cache.open(other)
    lesion = [k for i, k in enumerate(whole.patient_keys) if 1 in whole.patient(i)[1].tolist()]
    ledger(other).withdraw(lesion)
    set_policy(other, minimum=2)
    left = Site.open(other).cohort(PLAN)
    assert len(left.label_counts()) == 1
    hospital.check_cohort(Site.open(other), tiny_plan(minimum=2))


def withdrawing(home: Path, patient: str, function: Callable[..., object]) -> Callable[..., object]:
    """`function`, during which this patient withdraws."""

    def call(*args: object, **kwargs: object) -> object:
        consent.withdraw(home, ledger(home), patient)
        return function(*args, **kwargs)

    return call


def kinds(home: Path) -> list[str]:
    path = home / "egress.jsonl"
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_withdrawal_while_a_round_is_computed_stops_its_fresh_reply(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(hospital, "_compute", withdrawing(home, "P3", hospital._compute))
        with pytest.raises(EgressRefused, match="withdrawn"):
            hospital.train(Site.open(home), request(PLAN, 1))
    assert kinds(home) == []
    hospital.train(Site.open(home), request(PLAN, 1))
    assert len(ledger(home).events()) == 2
    assert key(home, "P3") not in list(ledger(home).cohorts().values())[-1]


def test_a_withdrawal_while_the_model_is_judged_stops_the_fresh_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = test_verdict.gated()
    home = build_home(tmp_path / "south", plan, patients=40)
    with monkeypatch.context() as patch:
        patch.setattr(hospital, "judge", withdrawing(home, "P3", hospital.judge))
        with pytest.raises(EgressRefused, match="withdrawn"):
            hospital.evaluate(Site.open(home), test_verdict.ask(plan))
    assert kinds(home) == []
    hospital.evaluate(Site.open(home), test_verdict.ask(plan))
    assert kinds(home) == ["verdict"]


def test_a_withdrawal_of_somebody_outside_the_cohort_stops_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hospital, "_compute", withdrawing(home, "nobody", hospital._compute))
    hospital.train(Site.open(home), request(PLAN, 1))
    assert kinds(home) == ["train"]


def test_a_withdrawal_after_the_cohort_was_read_lets_nothing_be_booked_for_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hospital, "check_cohort", lambda site, _: site.cache and consent.withdraw(home, ledger(home), "P3")
    )
    monkeypatch.setattr(hospital, "_compute", lambda *_: pytest.fail("a scan was about to be read"))
    with pytest.raises(EgressRefused, match="withdrawn"):
        hospital.train(Site.open(home), request(PLAN, 1))
    assert ledger(home).events() == []
    assert not (home / "keys").exists()


def test_a_round_cut_short_is_not_taken_up_with_a_patient_who_withdrew_since(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StateError("the power went")

    monkeypatch.setattr(hospital, "_compute", broken)
    with pytest.raises(StateError, match="the power went"):
        hospital.train(Site.open(home), request(PLAN, 1))
    monkeypatch.setattr(
        hospital, "check_cohort", lambda site, _: site.cache and consent.withdraw(home, ledger(home), "P3")
    )
    with pytest.raises(EgressRefused, match="withdrawn"):
        hospital.train(Site.open(home), request(PLAN, 1))
