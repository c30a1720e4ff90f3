"""Nothing runs that this hospital has not approved, by digest; it can pause, resume and leave at any time."""

import json
from pathlib import Path

import pytest

from client.approval import approvals
from client.approval.approvals import Approval, approve, approved_plan
from common.errors import PlanRefused
from tests.client.hospitals import tiny_plan

PLAN, OTHER = tiny_plan(), tiny_plan(name="other")


def record(home: Path) -> Path:
    return home / "approved" / PLAN.digest / "approval.json"


def test_an_approval_holds_the_plan_and_says_who_and_when(tmp_path: Path) -> None:
    approve(tmp_path, PLAN, approved_by="Dr. Steward")
    assert approved_plan(tmp_path, PLAN.digest) == PLAN
    (decision,) = Approval.load(tmp_path, PLAN.digest).decisions
    assert (decision.state, decision.by) == ("active", "Dr. Steward")
    assert decision.at.endswith("Z")


def test_approving_twice_is_as_once(tmp_path: Path) -> None:
    approve(tmp_path, PLAN, approved_by="a")
    before = record(tmp_path).read_bytes()
    approve(tmp_path, PLAN, approved_by="b")
    assert record(tmp_path).read_bytes() == before


@pytest.mark.parametrize(
    "digest", ["", "x", "../" * 21 + "x", "A" * 64, "0" * 63, "0" * 65, f"{PLAN.digest}\n", PLAN.digest.upper()]
)
def test_what_is_no_digest_is_refused_before_any_file_is_touched(tmp_path: Path, digest: str) -> None:
    with pytest.raises(PlanRefused, match="names no plan digest"):
        approved_plan(tmp_path, digest)


def test_a_plan_that_was_not_approved_is_refused(tmp_path: Path) -> None:
    approve(tmp_path, PLAN, approved_by="a")
    with pytest.raises(PlanRefused, match="not approved"):
        approved_plan(tmp_path, OTHER.digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"epsilon": 8.0', '"epsilon": 9.0'),
        lambda text: text.replace('"clip_norm": 1.0', '"clip_norm": 100.0'),
        lambda text: text.replace('"rounds": 2', '"rounds": 3'),
        lambda text: text.replace('"rounds": 2', '"rounds": 2, "sigma": 0.1'),
        lambda text: text.replace('"active"', '"superactive"'),
        lambda text: json.dumps({**json.loads(text), "decisions": []}),
        lambda text: text[:-5],
        lambda _: "[]",
        lambda _: "",
    ],
)
def test_a_stored_copy_that_was_altered_is_refused(tmp_path: Path, change: object) -> None:
    approve(tmp_path, PLAN, approved_by="a")
    text = record(tmp_path).read_text()
    record(tmp_path).write_text(change(text))  # type: ignore[operator]
    assert record(tmp_path).read_text() != text
    with pytest.raises(PlanRefused, match="approve the plan again"):
        approved_plan(tmp_path, PLAN.digest)
    approve(tmp_path, PLAN, approved_by="b")
    assert approved_plan(tmp_path, PLAN.digest) == PLAN


def test_a_paused_study_is_refused_until_it_is_resumed(tmp_path: Path) -> None:
    for plan in (PLAN, OTHER):
        approve(tmp_path, plan, approved_by="a")
    approvals.pause(tmp_path, PLAN.digest, by="b")
    with pytest.raises(PlanRefused, match="'tiny' is paused"):
        approved_plan(tmp_path, PLAN.digest)
    assert approved_plan(tmp_path, OTHER.digest) == OTHER
    approve(tmp_path, PLAN, approved_by="c")  # approving is not resuming
    with pytest.raises(PlanRefused, match="paused"):
        approved_plan(tmp_path, PLAN.digest)
    approvals.resume(tmp_path, PLAN.digest, by="b")
    assert approved_plan(tmp_path, PLAN.digest) == PLAN
    assert [d.state for d in Approval.load(tmp_path, PLAN.digest).decisions] == ["active", "paused", "active"]


def test_a_paused_site_refuses_every_study(tmp_path: Path) -> None:
    approve(tmp_path, PLAN, approved_by="a")
    approvals.pause(tmp_path, None, by="b")
    with pytest.raises(PlanRefused, match="this site is paused"):
        approved_plan(tmp_path, PLAN.digest)
    approvals.resume(tmp_path, None, by="b")
    approvals.resume(tmp_path, None, by="b")
    assert approved_plan(tmp_path, PLAN.digest) == PLAN


def test_a_pause_that_cannot_be_read_pauses(tmp_path: Path) -> None:
    approve(tmp_path, PLAN, approved_by="a")
    (tmp_path / "paused.json").write_text("")
    with pytest.raises(PlanRefused, match="paused"):
        approved_plan(tmp_path, PLAN.digest)


def test_a_study_that_was_left_takes_a_new_approval(tmp_path: Path) -> None:
    approve(tmp_path, PLAN, approved_by="a")
    approvals.leave(tmp_path, PLAN.digest, by="b")
    approvals.leave(tmp_path, PLAN.digest, by="b")
    approvals.pause(tmp_path, PLAN.digest, by="b")
    approvals.resume(tmp_path, PLAN.digest, by="b")
    with pytest.raises(PlanRefused, match="'tiny' is left"):
        approved_plan(tmp_path, PLAN.digest)
    approve(tmp_path, PLAN, approved_by="c")
    assert approved_plan(tmp_path, PLAN.digest) == PLAN
    assert [d.state for d in Approval.load(tmp_path, PLAN.digest).decisions] == ["active", "left", "active"]


def test_a_study_is_found_by_name_or_the_beginning_of_its_digest(tmp_path: Path) -> None:
    for plan in (PLAN, OTHER, tiny_plan("[release]\nimages_per_label = 1")):
        approve(tmp_path, plan, approved_by="a")
    assert approvals.find(tmp_path, "other").plan == OTHER
    assert approvals.find(tmp_path, PLAN.digest[:8]).plan == PLAN
    for named in ("nothing", "", PLAN.digest[:3]):
        with pytest.raises(PlanRefused, match="Give the study's name"):
            approvals.find(tmp_path, named)
    with pytest.raises(PlanRefused, match=f"names 2 plans here: .*{PLAN.digest[:12]} .active."):
        approvals.find(tmp_path, "tiny")
    (tmp_path / "approved" / OTHER.digest / "approval.json").write_text("")
    assert len(approvals.approvals(tmp_path)) == 2
