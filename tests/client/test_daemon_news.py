"""The hospital's daemon says each message that left, in words of the steward's, and a torn line spoils nothing."""

import json
from pathlib import Path

from client.daemon.news import News
from client.egress import egress_log
from client.egress.egress_log import LOG
from client.hospital import train
from client.site.site import Site
from common.host.announcer import Announcer
from tests.client.hospitals import build_home, request, tiny_plan

PLAN = tiny_plan()


def test_each_message_that_left_is_said_once(tmp_path: Path) -> None:
    home, lines = build_home(tmp_path / "north", PLAN), list[str]()
    egress_log.record(home, kind="refusal", payload="PlanRefused", size=0, keys=["reason"], entry=0)
    news = News(home, Announcer(lines.append))
    news.look()
    assert lines == [], "what was before the start is not news"
    reply = train(Site.open(home), request(PLAN))
    size = sum(array.nbytes for array in reply.arrays.values())
    egress_log.record(home, kind="refusal", payload="BudgetExhausted", size=0, keys=["reason"], entry=0)
    news.look()
    news.look()
    assert [line[10:] for line in lines] == [
        f"{PLAN.name}, round 1: {size:,} bytes of noised sums left", "a request was refused: BudgetExhausted",
    ]  # fmt: skip


def test_a_line_that_is_still_written_waits_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    home, lines = build_home(tmp_path / "north", PLAN), list[str]()
    news = News(home, Announcer(lines.append))
    line = json.dumps({"kind": "refusal", "payload": "PlanRefused", "entry": 0, "bytes": 0}).encode()
    with (home / LOG).open("ab") as file:
        file.write(b"torn and worse\n" + line[:20])
        file.flush()
        news.look()
        assert lines == []
        file.write(line[20:] + b"\n")
    news.look()
    assert [said[10:] for said in lines] == ["a request was refused: PlanRefused"]


def test_a_log_that_was_put_away_is_followed_into_its_successor(tmp_path: Path) -> None:
    home, lines = build_home(tmp_path / "north", PLAN), list[str]()
    for _ in range(3):
        egress_log.record(home, kind="refusal", payload="PlanRefused", size=0, keys=["reason"], entry=0)
    news = News(home, Announcer(lines.append))
    (home / LOG).rename(home / "egress.00001.jsonl")
    egress_log.record(home, kind="refusal", payload="CohortTooSmall", size=0, keys=["reason"], entry=0)
    news.look()
    assert [said[10:] for said in lines] == ["a request was refused: CohortTooSmall"]
