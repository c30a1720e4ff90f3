"""A crash costs a patient nothing, a rollback stops the site, and nothing that was not settled is sent."""

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client import hospital
from client.approval import approvals
from client.egress import egress, spool
from client.ledger import noise_key
from client.ledger.ledger import GENESIS, Ledger
from client.ledger.ledger_store import LedgerStore
from client.mechanism.patient_sum import PatientSum
from client.site.site import Site
from common.errors import BudgetExhausted, LedgerCorrupt, MessageRefused, PlanRefused, StateError
from common.model.weights import digest
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply
from tests.benchmarks import crash_ledger
from tests.client.hospitals import build_home, request, set_policy, tiny_plan

PLAN = tiny_plan()
WHOLE = len(schedule(PLAN))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN)


def ask(home: Path, number: int = 1, **changes: float) -> TrainReply:
    return hospital.train(Site.open(home), request(PLAN, number, **changes))


def booked(home: Path) -> int:
    return len(Ledger(home / "ledger.sqlite").events())


def die(*_: object, **__: object) -> None:  # pragma: no cover - runs in the child
    os.kill(os.getpid(), signal.SIGKILL)


def and_die(function: Callable[..., object]) -> Callable[..., None]:
    def call(*args: object, **kwargs: object) -> None:  # pragma: no cover - runs in the child
        function(*args, **kwargs)
        die()

    return call


POINTS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "before the booking": (LedgerStore, "_insert", die),
    "with the key, before the booking": (noise_key, "make", and_die(noise_key.make)),
    "after the booking": (hospital, "_compute", die),
    "in the middle of training": (PatientSum, "total", die),
    "after training": (Ledger, "settle", die),
    "after settling": (Ledger, "settle", and_die(Ledger.settle)),
    "before the reply is stored": (spool, "keep", die),
    "after the reply is stored": (spool, "keep", and_die(spool.keep)),
    "after the key is gone": (noise_key, "destroy", and_die(noise_key.destroy)),
    "before it leaves": (egress, "release", die),
    "as it leaves": (egress, "release", and_die(egress.release)),
}


def killed(home: Path, number: int, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer a round in a child process that is killed at this point."""
    child = os.fork()
    if child == 0:  # pragma: no cover - the child never returns
        monkeypatch.setattr(*POINTS[point])
        try:
            ask(home, number)
        finally:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
def test_a_round_that_a_crash_cut_short_is_answered_without_a_second_booking(
    home: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    killed(home, 1, point, monkeypatch)
    reply = ask(home)
    assert booked(home) == 1
    assert reply.epsilon == pytest.approx(schedule(PLAN)[0].epsilon_after)
    assert not list((home / "keys").iterdir())
    assert digest(ask(home).arrays) == digest(reply.arrays)


def test_a_plan_calibrated_to_its_last_bit_survives_a_crash_in_every_round(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, WHOLE + 1):
        killed(home, number, "after training", monkeypatch)
        killed(home, number, "after the booking", monkeypatch)
        reply = ask(home, number)
    assert booked(home) == WHOLE
    assert reply.epsilon <= PLAN.privacy.epsilon


def test_a_round_taken_up_again_is_the_same_draw_of_noise(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    computed = hospital._compute

    def compute(*args: object) -> object:
        arrays = computed(*args)  # type: ignore[arg-type]
        drawn.append(arrays["release"].tobytes())
        if len(drawn) < 3:
            raise MemoryError
        return arrays

    monkeypatch.setattr(hospital, "_compute", compute)
    for _ in range(2):
        with pytest.raises(MemoryError):
            ask(home)
    ask(home)
    assert len(drawn) == 3
    assert len(set(drawn)) == 1
    monkeypatch.setattr(hospital, "_compute", computed)
    assert ask(home, shift=0.1).arrays["release"].tobytes() not in drawn


def test_the_key_is_gone_before_the_reply_leaves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[list[Path]] = []
    left = egress.release

    def release(where: Path, **rest: object) -> TrainReply:
        keys.append(list((where / "keys").iterdir()))
        return left(where, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(egress, "release", release)
    ask(home)
    assert keys == [[]]


def test_keys_are_for_the_owner_alone_and_never_twice_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(home, 1, "after the booking", monkeypatch)
    (first,) = (home / "keys").iterdir()
    assert first.stat().st_mode & 0o077 == 0
    key = noise_key.kept(home, first.stem)
    shutil.rmtree(home / "keys")
    with pytest.raises(StateError, match="key of round"):
        hospital._key(Site.open(home), PLAN, some_entry(home), first.stem, 2)
    ask(home, 1)
    assert booked(home) == 2  # without its key it is a new draw
    killed(home, 2, "after the booking", monkeypatch)
    (second,) = (home / "keys").iterdir()
    other = noise_key.kept(home, second.stem)
    assert key is not None
    assert other is not None
    assert other.key != key.key


def test_a_key_that_cannot_be_written_stops_the_round_before_it_is_booked(home: Path) -> None:
    (home / "keys").write_text("in the way")
    with pytest.raises(StateError, match="take away what is in its way"):
        ask(home)
    assert booked(home) == 0


def some_entry(home: Path) -> hospital.Entry:
    step = schedule(PLAN)[0]
    weights = digest(request(PLAN).arrays)
    cohort = Site.open(home).cache.identity
    return hospital.Entry(
        study="tiny", plan=PLAN.digest, round=1, phase="mean", event=step.event, cohort=cohort, request=weights
    )


def test_a_budget_lowered_after_a_crash_refuses_the_retry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(home, 1, "after the booking", monkeypatch)
    set_policy(home, total=0.5)
    with pytest.raises(BudgetExhausted):
        ask(home)
    set_policy(home)
    ask(home)
    assert booked(home) == 1


def test_a_study_paused_while_it_trains_sends_nothing_until_it_is_resumed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = hospital._compute

    def compute(*args: object) -> object:
        approvals.pause(home, PLAN.digest, by="Dr. Steward")
        return computed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(hospital, "_compute", compute)
    with pytest.raises(PlanRefused, match="paused"):
        ask(home)
    assert not (home / "egress.jsonl").exists()
    assert egress.last_head(home) == ""
    approvals.resume(home, PLAN.digest, by="Dr. Steward")
    ask(home)
    assert booked(home) == 1


def backup(home: Path, *names: str) -> Callable[[], None]:
    kept = {name: (home / name).read_bytes() for name in names}
    return lambda: [(home / name).write_bytes(content) for name, content in kept.items()] and None


@pytest.mark.parametrize("names", [("ledger.sqlite",), ("ledger.sqlite", "ledger.seal")])
def test_a_site_whose_ledger_is_an_older_copy_refuses_to_train(
    home: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(home, 1)
    restore = backup(home, *names)
    ask(home, 2)
    restore()
    monkeypatch.setattr(hospital, "_compute", lambda *_: pytest.fail("it trained"))
    for use in (lambda: ask(home, 3), lambda: hospital.greet(Site.open(home), hospital.Hello(plan=PLAN.digest))):
        with pytest.raises(LedgerCorrupt):
            use()


def test_a_site_restored_as_a_whole_is_told_by_the_server_and_refuses(home: Path) -> None:
    ask(home, 1)
    restore = backup(home, "ledger.sqlite", "ledger.seal", "receipt.json", "egress.jsonl")
    head = ask(home, 2).ledger_head
    hospital.train(Site.open(home), replace(request(PLAN, 3), last_head=head))
    restore()
    shutil.rmtree(home / "spool")
    with pytest.raises(LedgerCorrupt, match="behind the receipt"):
        hospital.train(Site.open(home), replace(request(PLAN, 3), last_head=head))
    assert len((home / "egress.jsonl").read_text().splitlines()) == 1


def test_a_head_that_is_none_is_refused(home: Path) -> None:
    for head in ("x", "A" * 64, "a" * 63, "a" * 64 + "\n", "../ledger"):
        with pytest.raises(MessageRefused, match="last_head"):
            hospital.train(Site.open(home), replace(request(PLAN), last_head=head))
    assert booked(home) == 0


def stored(home: Path) -> Path:
    (path,) = (home / "spool").rglob("*.safetensors")
    return path


def test_a_stored_reply_that_was_not_settled_is_not_sent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(home)
    site, asked = Site.open(home), request(PLAN)
    finished = spool.find(home, asked)
    assert finished is not None
    planted = replace(finished.answer, arrays={"release": np.full_like(finished.answer.arrays["release"], 0.5)})
    spool.keep(home, asked, replace(finished, answer=planted))
    computed: list[int] = []
    monkeypatch.setattr(hospital, "_compute", lambda *_: computed.append(1) or finished.answer.arrays)
    assert digest(hospital.train(site, asked).arrays) == digest(finished.answer.arrays)
    assert computed == [1]
    assert booked(home) == 2


@pytest.mark.parametrize("damage", ["foreign head", "no head", "head from before", "foreign cohort"])
def test_a_stored_reply_that_names_another_ledgers_head_or_cohort_is_not_sent(home: Path, damage: str) -> None:
    ask(home)
    finished = spool.find(home, request(PLAN))
    assert finished is not None
    heads = {
        "foreign head": "f" * 64,
        "no head": GENESIS,
        "head from before": Ledger(home / "ledger.sqlite").rows()[0].hash,
    }
    reply = replace(finished.answer, ledger_head=heads.get(damage, finished.answer.ledger_head))
    cohort = "c" * 64 if damage == "foreign cohort" else finished.cohort
    spool.keep(home, request(PLAN), replace(finished, answer=reply, cohort=cohort))
    again = ask(home)
    assert booked(home) == 2
    assert again.ledger_head == egress.last_head(home) == Ledger(home / "ledger.sqlite").head()
    ask(home, 2)


@pytest.mark.parametrize("content", ["cut", "altered", "empty"])
def test_a_stored_reply_that_is_damaged_is_not_sent_and_costs_nothing_until_a_person_removes_it(
    home: Path, content: str
) -> None:
    first = ask(home)
    whole = stored(home).read_bytes()
    spoiled = {"cut": whole[:-3], "altered": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[content]
    stored(home).write_bytes(spoiled)
    logged = (home / "egress.jsonl").read_bytes()
    with pytest.raises(StateError, match=r"is damaged .* Put this one file back .* remove it"):
        ask(home)
    assert booked(home) == 1
    assert (home / "egress.jsonl").read_bytes() == logged
    stored(home).write_bytes(whole)
    assert digest(ask(home).arrays) == digest(first.arrays)
    stored(home).unlink()
    ask(home)
    assert booked(home) == 2


def test_every_sending_is_logged_the_second_one_too(home: Path) -> None:
    ask(home)
    ask(home)
    lines = [json.loads(line) for line in (home / "egress.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert len({line["payload"] for line in lines}) == len({line["entry"] for line in lines}) == 1


def test_a_site_works_on_one_round_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, busy = hospital._compute, []

    def compute(*args: object) -> object:
        handle = os.open(home / "round.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        busy.append(True)
        return computed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(hospital, "_compute", compute)
    ask(home)
    assert busy == [True]


def test_two_requests_at_once_are_one_round(home: Path) -> None:
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:  # pragma: no cover - runs in the child
            try:
                ask(home)
                os._exit(0)
            finally:
                os._exit(3)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert booked(home) == 1


def test_two_studies_compose_and_a_third_is_refused_before_training_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [tiny_plan('[privacy]\nepsilon = 3\nphases = ["moments"]', name=f"study-{i}") for i in (1, 2, 3)]
    home = build_home(tmp_path / "north", *plans)
    set_policy(home, total=4.6)
    for plan in plans[:2]:
        for step in schedule(plan):
            reply = hospital.train(Site.open(home), request(plan, step.number))
        assert reply.epsilon == pytest.approx(3.0, abs=0.02)
    ledger = Ledger(home / "ledger.sqlite")
    spent, head = ledger.epsilon(delta=plans[0].privacy.delta), ledger.head()
    after = ledger.epsilon(delta=plans[0].privacy.delta, extra=(schedule(plans[2])[1].event,))
    assert 3.0 < spent < 4.6 < after
    monkeypatch.setattr(hospital, "_compute", die)
    numbers = rf"study 'study-3': .* site's epsilon from {spent:.2f} to {after:.2f}, past its limit of 4\.60"
    with pytest.raises(BudgetExhausted, match=numbers):
        hospital.train(Site.open(home), request(plans[2], 2))
    assert ledger.head() == head


def test_kills_at_random_moments_never_make_the_ledger_forget_nor_lose_a_reply(tmp_path: Path) -> None:
    figures = crash_ledger.run(kills=12, seed=3, folder=tmp_path)
    assert figures.sound
    assert figures.kills >= 12
    assert figures.extra_bookings == 0
    assert figures.released == 5 * figures.homes


def test_the_counting_of_kills_sees_a_hospital_that_forgets_to_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = hospital._reserve

    def forget(site: Site, plan: StudyPlan, step: Round, entry: hospital.Entry, name: str) -> int:
        if entry.round == 1:
            return book(site, plan, step, entry, name)
        noise_key.make(site.home, name, entry=2, generation=site.cache.generation)
        return 2

    monkeypatch.setattr(hospital, "_reserve", forget)
    figures = crash_ledger.run(kills=1, seed=4, folder=tmp_path)
    assert figures.ledger_below_released > 0
    assert not figures.sound
