"""Every round ends, late answers count while it is open, and a site that lost its task is asked again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from common.errors import QuorumLost, StateError
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, Refused, TrainRequest
from server.coordinator import status
from server.model import scores
from server.protocol import exchange, rounds
from server.protocol.exchange import Exchange
from server.protocol.polling import MOST_ASKS
from server.protocol.roster import GRACE_S
from server.study import enrolled, progress
from server.study.study import Study
from tests.server.sites import PLAN, Fault, ScriptedExchange, ScriptedGrid

NAMES = ("hill", "north", "river")
PATIENT = PLAN.replace("deadline_s = 5", "deadline_s = 1000")


@pytest.fixture(autouse=True)
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a round is worth is not the subject here, and takes most of its time."""
    monkeypatch.setattr(scores, "utility", lambda _plan, _weights: 0.5)


def begin(folder: Path, plan: str = PLAN) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.toml").write_text(plan)
    return Study.begin(folder)


def in_round(number: int, what: object, *, times: int = 1) -> Fault:
    """A fault of the first `times` asks of one round; `what` may be a value or a function of the honest record."""
    seen = [0]

    def fault(question: Hello | TrainRequest, record: RecordDict) -> object:
        if isinstance(question, Hello) or question.round != number or seen[0] >= times:
            return record
        seen[0] += 1
        return what(record) if callable(what) else what

    return fault


def undisturbed(folder: Path) -> list[str]:
    study = begin(folder, PATIENT)
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    return [record.weights for record in study.records]


def test_a_site_whose_task_was_lost_is_asked_again_and_is_in_the_round(tmp_path: Path) -> None:
    study = begin(tmp_path / "run", PATIENT)
    sites = ScriptedExchange(study.plan, NAMES, {"hill": in_round(2, "lost", times=3)})
    rounds.run(study, sites)
    assert all(not record.missing for record in study.records)
    assert sites.asked.count(("hill", 2)) == 4
    assert sites.asked.count(("north", 2)) == 1
    assert [record.weights for record in study.records] == undisturbed(tmp_path / "other")


def test_a_site_that_went_away_with_its_task_is_asked_again_when_it_is_back(tmp_path: Path) -> None:
    """Flower keeps silent about it: the node is online again and never answers what it was asked before."""
    study = begin(tmp_path, PATIENT)
    slow = in_round(1, lambda record: (30.0, record))
    sites = ScriptedExchange(study.plan, NAMES, {"hill": slow}, away={"hill": [(10.0, 70.0)]})
    rounds.run(study, sites)
    assert all(not record.missing for record in study.records)
    assert sites.asked.count(("hill", 1)) == 2
    assert study.records[0].seconds < 90


def test_a_site_that_is_back_between_two_looks_is_asked_again_too(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    slow = in_round(1, lambda record: (30.0, record))
    sites = ScriptedExchange(study.plan, NAMES, {"hill": slow}, away={"hill": [(10.2, 10.3)]})
    rounds.run(study, sites)
    assert all(not record.missing for record in study.records)
    assert sites.asked.count(("hill", 1)) == 2


@pytest.mark.parametrize("reason", ["StateError", "DiskFull", "FileLocked", "DiskRefused"])
@pytest.mark.parametrize(("times", "lost"), [(2, False), (99, True)])
def test_a_site_whose_disk_was_full_for_a_moment_is_asked_again_but_not_for_ever(
    tmp_path: Path, times: int, lost: bool, reason: str
) -> None:
    study = begin(tmp_path, PATIENT)
    missing = {"hill": reason} if lost else {}
    full = Refused(plan="", site="hill", reason=reason).to_record()
    sites = ScriptedExchange(study.plan, NAMES, {"hill": in_round(2, lambda _: full, times=times)})
    rounds.run(study, sites)
    assert study.records[1].missing == missing
    assert sites.asked.count(("hill", 2)) == 3


@pytest.mark.parametrize("reason", ["BudgetExhausted", "DiskReadOnly", "NotPermitted", "NoLocks", "HomeMoved"])
def test_a_refusal_that_is_meant_is_not_asked_about_again(tmp_path: Path, reason: str) -> None:
    study = begin(tmp_path, PATIENT)
    no = Refused(plan="", site="hill", reason=reason).to_record()
    sites = ScriptedExchange(study.plan, NAMES, {"hill": in_round(2, lambda _: no, times=99)})
    rounds.run(study, sites)
    assert study.records[1].missing == {"hill": reason}
    assert sites.asked.count(("hill", 2)) == 1


def test_a_site_that_loses_every_task_is_given_up_and_the_round_goes_on(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    sites = ScriptedExchange(study.plan, NAMES, {"hill": in_round(2, "lost", times=10_000)})
    rounds.run(study, sites)
    assert study.records[1].missing == {"hill": "NodeFailed"}
    assert sites.asked.count(("hill", 2)) == MOST_ASKS
    assert not study.records[2].missing


def test_a_site_that_is_gone_for_good_costs_one_grace_and_no_deadline(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    slow = in_round(1, lambda record: (30.0, record))
    rounds.run(study, ScriptedExchange(study.plan, NAMES, {"hill": slow}, away={"hill": [(10.0, 1e9)]}))
    assert all(record.missing == {"hill": "NotConnected"} for record in study.records)
    assert study.records[0].seconds < GRACE_S + 20
    assert sum(record.seconds for record in study.records[1:]) < 10


def test_an_enrolled_site_that_never_connects_is_missing_from_every_round_and_holds_nobody_up(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    enrolled.save(tmp_path, [*NAMES, "marsh"])
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    assert all(record.missing == {"marsh": "NotConnected"} for record in study.records)
    assert study.records[0].seconds < 10
    assert (study.sites(), study.joined()) == ([*NAMES[:1], "marsh", *NAMES[1:]], set(NAMES))


def test_a_node_that_never_says_its_name_is_called_by_its_enrolled_site_unless_another_has_that_name(
    tmp_path: Path,
) -> None:
    study = begin(tmp_path, PATIENT)
    enrolled.save(tmp_path, NAMES)
    dumb = {"hill": lambda _q, _r: Refused(plan="", site="", reason="PlanRefused").to_record()}
    names = ("hill", "north", "river", "north")
    sites = ScriptedExchange(study.plan, names, dumb, enrolled=dict(enumerate(names, start=1)))
    rounds.run(study, sites)
    missing = {"hill": "PlanRefused", "node-4": "DuplicateName"}
    assert all(record.missing == missing for record in study.records)


def test_too_few_names_the_enrolled_sites_that_never_came(tmp_path: Path) -> None:
    study = begin(tmp_path)
    enrolled.save(tmp_path, ["hill", "marsh"])
    with pytest.raises(QuorumLost, match="marsh: NotConnected"):
        rounds.run(study, ScriptedExchange(study.plan, ["hill"]))


def test_a_list_of_enrolled_sites_that_cannot_be_read_stops_the_study_before_anybody_is_asked(tmp_path: Path) -> None:
    study = begin(tmp_path)
    (tmp_path / enrolled.FILE).write_text("{")
    sites = ScriptedExchange(study.plan, NAMES)
    with pytest.raises(StateError, match="Start the study again"):
        rounds.run(study, sites)
    assert not sites.asked


def test_below_quorum_even_a_site_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT.replace("min_sites = 2", "min_sites = 3"))
    slow = in_round(1, lambda record: (30.0, record))
    sites = ScriptedExchange(study.plan, NAMES, {"hill": slow}, away={"hill": [(10.0, 600.0)]})
    rounds.run(study, sites)
    assert all(not record.missing for record in study.records)
    assert study.records[0].seconds > 590


def test_a_late_answer_to_an_earlier_ask_of_the_same_round_counts(tmp_path: Path) -> None:
    study = begin(tmp_path, PLAN.replace("min_sites = 2", "min_sites = 3"))
    late = in_round(3, lambda record: (7.0, record))  # the deadline is 5 s; the second ask is never answered
    sites = ScriptedExchange(study.plan, NAMES, {"hill": both(late, in_round(3, "silent", times=99))})
    rounds.run(study, sites)
    assert all(not record.missing for record in study.records)
    assert sites.asked.count(("hill", 3)) == 2
    assert sites.asked.count(("north", 3)) == 1
    assert 5 < study.records[2].seconds < 8


def both(first: Fault, then: Fault) -> Fault:
    """The first fault while it changes anything, then the second."""

    def fault(question: Hello | TrainRequest, record: RecordDict) -> object:
        answer = first(question, record)
        return then(question, record) if answer is record else answer

    return fault


def test_an_answer_to_a_round_that_is_closed_counts_for_nothing(tmp_path: Path) -> None:
    study = begin(tmp_path)
    late = in_round(1, lambda record: (6.0, record))
    silent = in_round(2, lambda record: (20.0, record))
    rounds.run(study, ScriptedExchange(study.plan, NAMES, {"hill": both(late, silent)}))
    assert [record.missing for record in study.records] == [{"hill": "NoReply"}] * 2 + [{}] * 3


def test_a_site_that_connects_late_joins_in_the_next_round(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    slow = in_round(1, lambda record: (30.0, record))
    sites = ScriptedExchange(study.plan, NAMES, {"north": slow}, away={"hill": [(0.0, 15.0)]})
    rounds.run(study, sites)
    assert [sorted(record.replied) for record in study.records] == [["north", "river"]] + [list(NAMES)] * 4
    assert study.records[0].missing == {"hill": "JoinedLate"}


def test_a_site_that_has_mended_what_it_refused_for_joins_in_the_next_round(tmp_path: Path) -> None:
    study = begin(tmp_path)
    refusals = [Refused(plan="", site="hill", reason="PlanRefused").to_record()]

    def refuses_once(question: Hello | TrainRequest, record: RecordDict) -> object:
        return refusals.pop() if refusals and isinstance(question, Hello) else record

    rounds.run(study, ScriptedExchange(study.plan, NAMES, {"hill": refuses_once}))
    assert study.records[0].missing == {"hill": "JoinedLate"}
    assert all(not record.missing for record in study.records[1:])


def test_after_a_resume_a_site_that_is_no_longer_there_is_named(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)

    class Stop(Exception):
        pass

    def stop(_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        rounds.run(study, ScriptedExchange(study.plan, NAMES), on_round=stop)
    resumed = Study.resume(tmp_path)
    rounds.run(resumed, ScriptedExchange(study.plan, ("north", "river")))
    assert [record.missing for record in resumed.records] == [{}] + [{"hill": "NotConnected"}] * 4


def test_too_few_nodes_are_waited_for_until_the_deadline_and_no_longer(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    sites = ScriptedExchange(study.plan, NAMES, away={"hill": [(0, 1e9)], "north": [(0, 1e9)]})
    began = sites.now()
    with pytest.raises(QuorumLost, match="needs 2 sites; 1 of 1 connected"):
        rounds.run(study, sites)
    assert 1000 <= sites.now() - began < 1010
    assert sites.asked == []


def test_a_round_of_silent_sites_ends_at_its_deadline(tmp_path: Path) -> None:
    study = begin(tmp_path)
    silent = dict.fromkeys(("hill", "north"), in_round(1, "silent", times=99))
    sites = ScriptedExchange(study.plan, NAMES, silent)
    began = sites.now()
    with pytest.raises(QuorumLost, match=r"round 1 got 1 usable.*hill: NoReply, north: NoReply"):
        rounds.run(study, sites)
    assert 10 <= sites.now() - began < 12  # two attempts of 5 s


def test_a_node_cannot_take_the_name_of_another_enrolled_site(tmp_path: Path) -> None:
    study = begin(tmp_path)
    pretends = ScriptedExchange(
        study.plan, ("north", "river", "hill", "hill"), enrolled={1: "north", 2: "river", 3: "mallory", 4: "hill"}
    )
    rounds.run(study, pretends)
    for record in study.records:
        assert sorted(record.replied) == list(NAMES)
        assert record.missing == {"mallory": "WrongSite"}


def test_a_site_that_comes_back_under_a_new_key_keeps_its_name(tmp_path: Path) -> None:
    study = begin(tmp_path, PATIENT)
    slow = in_round(1, lambda record: (30.0, record))
    old, new = {"old": [(10.0, 1e9)]}, {"new": [(0.0, 15.0)]}
    sites = Renamed(study, ("old", "north", "river", "new"), {"north": slow}, {**old, **new})
    rounds.run(study, sites)
    assert [sorted(record.replied) for record in study.records[1:]] == [list(NAMES)] * 4


class Renamed(ScriptedExchange):
    """Nodes "old" and "new" are both the site "hill"."""

    def __init__(self, study: Study, names: tuple[str, ...], faults: dict[str, Fault], away: dict[str, Any]) -> None:
        aliases = {"old": as_hill, "new": as_hill}
        super().__init__(study.plan, names, {**faults, **aliases}, away=away)


def as_hill(_: object, record: RecordDict) -> RecordDict:
    record["message"]["site"] = "hill"
    return record


def test_an_outage_of_the_superlink_does_not_count_against_the_sites(tmp_path: Path) -> None:
    study = begin(tmp_path)
    sites = Outage(study)
    rounds.run(study, sites)
    assert all(not record.missing for record in study.records)
    assert sites.outages == 0


class Outage(ScriptedExchange):
    """The first look at round 2's answers takes 90 s, the deadline being 5; the answers come 3 s later."""

    def __init__(self, study: Study) -> None:
        slow = in_round(2, lambda record: (93.0, record))
        super().__init__(study.plan, NAMES, dict.fromkeys(NAMES[:2], slow))
        self.outages = 1
        honest = self.grid.pull_messages

        def pull(message_ids: Any) -> list[Message]:
            if self.outages and ("hill", 2) in self.asked:
                self.outages -= 1
                self.grid.clock.sleep(90)
            return honest(message_ids)

        self.grid.pull_messages = pull  # type: ignore[method-assign]


def test_large_answers_are_pulled_one_by_one_and_small_ones_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(tmp_path / "small")
    sites = ScriptedExchange(study.plan, NAMES)
    rounds.run(study, sites)
    assert sites.grid.most_pulled == 3
    monkeypatch.setattr(exchange, "_GROUP_BYTES", 1)
    study = begin(tmp_path / "large")
    inquiry = Exchange(grid := ScriptedGrid(study.plan, NAMES)).inquire()
    inquiry.ask(dict.fromkeys((1, 2, 3), request_of(study)), ttl_s=60)
    inquiry.look(lambda _node, _answer: None)
    assert grid.most_pulled == 1


def request_of(study: Study) -> TrainRequest:
    return TrainRequest(plan=study.plan.digest, round=1, arrays=study.weights)


def test_fifty_questions_share_one_copy_of_the_model(tmp_path: Path) -> None:
    study = begin(tmp_path)
    grid = ScriptedGrid(study.plan, NAMES)
    pushed: list[Message] = []
    honest = grid.push_messages

    def push(messages: Any) -> list[str]:
        pushed.extend(messages)
        return honest(messages)

    grid.push_messages = push  # type: ignore[method-assign]
    Exchange(grid).inquire().ask(dict.fromkeys((1, 2, 3), request_of(study)), ttl_s=60)
    assert len(pushed) == 3
    assert len({id(message.content["arrays"]) for message in pushed}) == 1
    for name, array in study.weights.items():
        np.testing.assert_array_equal(TrainRequest.from_record(pushed[0].content).arrays[name], array)


def no(plan: StudyPlan, site: str) -> RecordDict:
    return Refused(plan=plan.digest, site=site, reason="CohortTooSmall").to_record()


def test_who_refuses_a_study_and_why_is_to_be_read_while_it_waits_for_a_quorum(tmp_path: Path) -> None:
    """It used to say "running" and nothing else until its deadline."""
    study = begin(tmp_path)
    faults = {name: lambda *_, name=name: no(study.plan, name) for name in ("hill", "north")}
    waits: list[progress.Progress] = []

    class Watched(ScriptedExchange):
        def pause(self) -> None:
            waits.append(progress.read(tmp_path))
            super().pause()

    with progress.watched(tmp_path), pytest.raises(QuorumLost):
        rounds.run(study, Watched(study.plan, NAMES, faults))
    assert (waits[-1].state, waits[-1].refused) == ("running", dict.fromkeys(faults, "CohortTooSmall"))
    with progress.watched(tmp_path):
        assert progress.read(tmp_path).refused == {}, "another run has not heard of it yet"


def test_who_refuses_a_round_and_why_is_to_be_read_until_the_next(tmp_path: Path) -> None:
    study = begin(tmp_path)
    found: list[str] = []
    exchange = ScriptedExchange(study.plan, NAMES, {"hill": in_round(2, no(study.plan, "hill"))})
    with progress.watched(tmp_path):
        rounds.run(study, exchange, on_round=lambda _: found.append(status.study_line(tmp_path)))
    assert found[:3] == [
        "running, 1 rounds saved", "running, 2 rounds saved; hill says no: CohortTooSmall", "running, 3 rounds saved",
    ]  # fmt: skip
