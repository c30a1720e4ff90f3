"""A study that shares its noise, whole: exact sums, hospitals and coordinators that die, and who pays what."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.approval.proposal import Proposal
from client.cohort.identity import SIGNING_KEY
from client.hospital import train
from client.ledger import noise_key
from client.ledger.sharing import Sharing
from client.secure import legs
from client.secure.identity import accept
from client.secure.session import Session
from client.site import policy
from client.site.rules import SitePolicy
from common.errors import BudgetExhausted, MessageRefused, PlanError, PlanRefused, SecureSumWaits, StudyStopped
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from common.secure.attempt import pack
from common.secure.masks import Words
from common.secure.roster import Roster
from common.wire.messages import TrainReply, TrainRequest
from common.wire.secure_messages import ConfirmRequest, KeyRequest, MaskedRequest, RevealRequest
from common.wire.signing import Key
from deploy.simulation.simulate import make_roster, start
from server.aggregation.masked_sum import MaskedSum
from server.study import signers
from server.study.attempts import AttemptFiles
from server.study.study import Study
from tests.deploy.secure_study import World, plan_text

LEGS = {"keys": KeyRequest, "train": MaskedRequest, "confirm": ConfirmRequest, "reveal": RevealRequest}


def kind_of(message: Message) -> str:
    kind = message.content["message"]["kind"]
    return next((leg for leg, question in LEGS.items() if question.kind == kind), "")


def dead(places: set[int], leg: str, *, number: int = 1) -> Callable[[int, Message], None]:
    """These hospitals fail from this leg of this round on, for good."""
    order = list(LEGS)

    def fault(place: int, message: Message) -> None:
        if place not in places or not (kind := kind_of(message)):
            return
        at = (message.content["message"]["round"], order.index(kind))
        if at >= (number, order.index(leg)):
            raise RuntimeError("dead")

    return fault


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Words]]:
    """Every sum that the coordinator opened, with the number of hospitals in it."""
    found: list[tuple[int, Words]] = []
    take = MaskedSum.opened

    def noted(total: MaskedSum, clear: Words) -> None:
        found.append((total.sites, clear.copy()))
        take(total, clear)

    monkeypatch.setattr(MaskedSum, "opened", noted)
    return found


@pytest.mark.parametrize("leg", ["", "keys", "train", "confirm", "reveal"])
def test_the_opened_sum_is_the_members_to_the_bit_where_one_is_killed_for_good(
    tmp_path: Path, opened: list[tuple[int, Words]], leg: str
) -> None:
    world = World.make(tmp_path, plan_text(4, 1, 1))
    world.fault = dead({2}, leg) if leg else None
    start = Study.begin(tmp_path).weights
    study = world.run()
    assert len(study.records) == 3
    members = [0, 1, 2, 3] if leg in ("", "confirm", "reveal") else [0, 1, 3]
    sites, clear = opened[0]
    assert sites == len(members)
    np.testing.assert_array_equal(clear, world.expected(1, members, start))
    assert sorted(study.records[0].replied) == [world.homes[place].name for place in members]
    assert ("site-c" in study.records[1].missing) == bool(leg)


def test_what_is_booked_is_the_noise_of_the_sum_with_who_shares_it_and_both_epsilons_follow(tmp_path: Path) -> None:
    world = World.make(tmp_path, plan_text(4, 1, 1))
    world.run()
    booked = world.site(0).ledger.bookings()
    assert [row.sigma for row in booked.rows] == [step.event.sigma for step in schedule(world.plan)]
    assert all(Sharing.read(row.note) == Sharing.of(world.plan) for row in booked.rows)
    shares = [event.sigma for event in booked.events(alone=True)]
    assert shares == pytest.approx([row.sigma / 2**0.5 for row in booked.rows])
    spent = policy.Spent.of(world.homes[0], world.plan, booked)
    assert spent.plan <= 8.0
    assert 1.3 * spent.site < spent.alone < 2.2 * spent.site


@pytest.mark.parametrize("leg", list(LEGS))
def test_below_the_threshold_the_study_waits_by_name_and_goes_on_at_no_new_cost(
    tmp_path: Path, opened: list[tuple[int, Words]], leg: str
) -> None:
    world = World.make(tmp_path, plan_text(4, 1, 1))
    start = Study.begin(tmp_path).weights
    world.fault = dead({1, 2}, leg)
    with pytest.raises(SecureSumWaits, match=r"site-b: \w+, site-c: \w+"):
        world.run()
    assert not opened
    booked = [len(world.site(place).ledger.bookings().rows) for place in range(4)]
    world.fault = None
    assert len(world.run().records) == 3
    assert [len(world.site(place).ledger.bookings().rows) for place in range(4)] == [3] * 4 >= booked
    np.testing.assert_array_equal(opened[0][1], world.expected(1, [0, 1, 2, 3], start))


@pytest.mark.parametrize("name", ["book", "members", "signatures", "reveals"])
@pytest.mark.parametrize("written", [True, False])
def test_a_coordinator_that_dies_around_any_leg_goes_on_with_the_same_set(
    tmp_path: Path, opened: list[tuple[int, Words]], monkeypatch: pytest.MonkeyPatch, name: str, *, written: bool
) -> None:
    world = World.make(tmp_path, plan_text(3, 1, 0))
    start = Study.begin(tmp_path).weights
    keep = AttemptFiles.keep

    def dying(files: AttemptFiles, what: str, tables: dict[str, dict[int, bytes]]) -> None:
        if written or what != name:
            keep(files, what, tables)
        if what == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(AttemptFiles, "keep", dying)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    monkeypatch.setattr(AttemptFiles, "keep", keep)
    assert len(world.run().records) == 3
    np.testing.assert_array_equal(opened[0][1], world.expected(1, [0, 1, 2], start))
    assert [len(world.site(place).ledger.bookings().rows) for place in range(3)] == [3] * 3
    assert not list((tmp_path / "secure").glob("*"))


@pytest.mark.parametrize("leg", ["confirm", "reveal"])
def test_a_withdrawal_between_masks_and_reveal_keeps_the_sum_closed_until_a_new_attempt(
    tmp_path: Path, opened: list[tuple[int, Words]], leg: str
) -> None:
    world = World.make(tmp_path, plan_text(3, 1, 0, spare=1))
    key = world.site(1).cohort(world.plan).patient_keys[0]

    def withdrawing(place: int, message: Message) -> None:
        if place == 1 and kind_of(message) == leg:
            world.site(1).ledger.withdraw([key])

    world.fault = withdrawing
    with pytest.raises(SecureSumWaits, match=r"site-b: EgressRefused.*new attempt"):
        world.run()
    assert not opened
    world.fault = None
    assert len(world.run().records) == 3
    assert key not in world.site(1).cohort(world.plan).patient_keys
    rows = [row.round for row in world.site(1).ledger.bookings().rows]
    assert rows == [1, 1, 2, 3]


def ask_masked(world: World, attempt: int, weights: Weights) -> TrainReply:
    """Legs 1 and 2 of an attempt at round 1, the second at the first hospital alone."""
    question = KeyRequest(plan=world.plan.digest, round=1, attempt=attempt)
    keys = [legs.give_key(world.site(place), question) for place in range(len(world.homes))]
    book = pack({place: reply.public + reply.signature for place, reply in enumerate(keys)})
    return train(
        world.site(0),
        MaskedRequest(plan=world.plan.digest, round=1, attempt=attempt, book=book, boxes=b"", arrays=weights),
    )


def test_noise_that_may_have_left_in_one_attempt_is_never_used_again_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash leaves the stored answer and the key of its noise: another attempt pays, and draws its own."""
    world, weights = World.make(tmp_path, plan_text(spare=1)), Study.begin(tmp_path).weights

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(noise_key, "destroy", dies)
        with pytest.raises(KeyboardInterrupt):
            ask_masked(world, 1, weights)
    assert len(list((world.homes[0] / "keys").iterdir())) == 1
    ask_masked(world, 2, weights)
    ask_masked(world, 1, weights)  # what was stored leaves now
    assert [row.round for row in world.site(0).ledger.bookings().rows] == [1, 1]


def test_a_round_in_the_form_of_another_sum_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    world = World.make(tmp_path, plan_text())
    weights = Study.begin(tmp_path).weights
    plain = TrainRequest(plan=world.plan.digest, round=1, arrays=weights)
    with pytest.raises(MessageRefused, match="another way to add up"):
        train(world.site(0), plain)
    masked = MaskedRequest(plan=world.plan.digest, round=1, attempt=1, book=b"", boxes=b"", arrays=weights)
    with pytest.raises(MessageRefused, match="own key"):
        train(world.site(0), masked)
    assert not world.site(0).ledger.rows()


def test_a_site_that_set_no_limit_alone_or_a_lower_one_takes_no_part(tmp_path: Path) -> None:
    world = World.make(tmp_path, plan_text(), alone=9.0)
    study = Study.begin(tmp_path)
    with pytest.raises(SecureSumWaits, match="BudgetExhausted"):
        world.run()
    home = world.homes[0]
    rules = (home / "site.toml").read_text()
    (home / "site.toml").write_text(rules.replace("max_epsilon_alone = 9.0\n", ""))
    with pytest.raises(PlanRefused, match="max_epsilon_alone"):
        policy.inside(SitePolicy.load(home), study.plan)


def test_a_steward_is_told_who_shares_the_noise_and_what_is_left_without_them(tmp_path: Path) -> None:
    world = World.make(tmp_path, plan_text())
    roster = Roster.load(tmp_path / "roster.json")
    plan = StudyPlan.parse(plan_text() + f'roster = "{roster.digest}"\n')
    rules, ledger = SitePolicy.load(world.homes[0]), world.site(0).ledger
    with pytest.raises(PlanRefused, match="names no roster"):
        Proposal.weigh(world.plan, rules, ledger)
    with pytest.raises(PlanRefused, match="was not checked"):
        Proposal.weigh(plan, rules, ledger)
    accept(world.homes[0], roster)
    proposal = Proposal.weigh(plan, rules, ledger, over_budget=True)
    text = proposal.text()
    for words in ("only the sum of 3 hospitals or more, of the 4", roster.digest[:16], "telephone",
                  "coordinator and 1 of them work together", "counts as working with it", "names no hospital",
                  f"if all other hospitals worked together: {proposal.alone:.2f}"):  # fmt: skip
        assert words in text
    assert 10 < proposal.alone < 16
    tight = SitePolicy.load(world.homes[0])
    object.__setattr__(tight.limits, "max_epsilon_alone", proposal.alone - 0.01)
    with pytest.raises(BudgetExhausted, match="were all other hospitals to collude"):
        Proposal.weigh(plan, tight, ledger)


def test_a_simulation_makes_its_roster_and_runs_to_its_release(tmp_path: Path) -> None:
    world = World.make(tmp_path, plan_text(3, 1, 0))
    homes = world.homes
    for path in (tmp_path / "roster.json", *(home / "rosters" / "simulated.json" for home in homes)):
        path.unlink()
    with pytest.raises(PlanError, match=r"set `aggregation\.hospitals` to 2"):
        make_roster(world.plan, homes[:2], tmp_path)
    make_roster(world.plan, homes, tmp_path)
    signers.save(tmp_path, {home.name: Key.at(home / SIGNING_KEY).public for home in homes})
    start(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["plan"]["aggregation"]["secure"] is True
    assert (tmp_path / "decoder.safetensors").exists()
    assert not (tmp_path / "secure" / "00003-01").exists()


@pytest.mark.parametrize("spoilt", [1, 2])
def test_shares_that_do_not_fit_are_asked_for_again_and_then_a_new_attempt_is_begun(
    tmp_path: Path, opened: list[tuple[int, Words]], monkeypatch: pytest.MonkeyPatch, spoilt: int
) -> None:
    world = World.make(tmp_path, plan_text(3, 1, 0, spare=1), patients=60)
    reveal, left = Session.reveal, [spoilt]

    def spoiling(session: Session, signatures: bytes, boxes: bytes) -> tuple[bytes, bytes]:
        own, gone = reveal(session, signatures, boxes)
        if session._keys.place == 1 and left[0]:
            left[0] -= 1
            return own[:1] + bytes([own[1] ^ 1]) + own[2:], gone
        return own, gone

    monkeypatch.setattr(Session, "reveal", spoiling)
    for _ in range(spoilt):
        with pytest.raises(StudyStopped, match="asked for once more"):
            world.run()
    assert not opened
    assert len(world.run().records) == 3
    assert [row.round for row in world.site(0).ledger.bookings().rows] == [1] * spoilt + [2, 3]
