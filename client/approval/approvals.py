"""A hospital's approvals: which plans may run here, known by their digest, since when, by whom, and whether paused.

    approved/<digest>/approval.json   the site's own copy of the plan and what was decided about it, oldest first
    paused.json                       there while the whole site is paused

Every request reads them afresh, so a decision holds from the next request on; a round under way is finished, stored
and not sent (`client.hospital`).
"""

import dataclasses
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from client.site import layout
from common.errors import PlanError, PlanRefused, StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.plan.reader import build
from common.plan.study_plan import StudyPlan

State = Literal["active", "paused", "left"]
_SHORTEST = 6
"""Fewest digits that stand for a digest."""
_DECIDED: dict[State, str] = {"active": "approved", "paused": "paused", "left": "left"}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about a plan, by whom, when (UTC)."""

    state: State
    by: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One plan as this hospital sees it; the last decision holds.

    Attributes:
        plan: The site's own copy.
        decisions: Oldest first, never empty.
    """

    plan: StudyPlan
    decisions: tuple[Decision, ...]

    @property
    def state(self) -> State:
        """Whether the plan may run."""
        return self.decisions[-1].state

    @classmethod
    def load(cls, home: Path, digest: str) -> Self:
        """Read what was decided about the plan of this digest.

        Raises:
            PlanRefused: Nothing was, or the stored copy cannot be read or has another digest.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise PlanRefused("the request names no plan digest (64 hexadecimal digits)")
        try:
            record = json.loads(_path(home, digest).read_text(encoding="utf-8"))
            plan = build(StudyPlan, record["plan"], what="approved plan", error=PlanError)
            decisions = tuple(Decision(**decision) for decision in record["decisions"])
            known = all(decision.state in _DECIDED for decision in decisions) and decisions
        except FileNotFoundError as error:
            raise PlanRefused(
                f"plan {digest[:12]} is not approved at this site. Review it with `wardround site approve PLAN`"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, PlanError) as error:
            raise PlanRefused(
                f"the approval of plan {digest[:12]} cannot be read ({type(error).__name__}); approve the plan again"
            ) from error
        if plan.digest != digest or not known:
            raise PlanRefused(f"the stored copy of plan {digest[:12]} has another digest; approve the plan again")
        return cls(plan=plan, decisions=decisions)

    def save(self, home: Path) -> None:
        """Write the record durably."""
        record: dict[str, Any] = {
            "plan": self.plan.to_dict(),
            "decisions": [dataclasses.asdict(decision) for decision in self.decisions],
        }
        path = _path(home, self.plan.digest)
        with told(path):
            write_atomically(path, json.dumps(record, indent=1, sort_keys=True).encode(), mode=PRIVATE)


def approve(home: Path, plan: StudyPlan, *, approved_by: str) -> None:
    """Record that this hospital agrees to `plan`, identified by its digest. Durable; twice is as once.

    A plan that was left is taken up again; one that is paused stays paused until `resume`.

    Args:
        home: The site's home folder.
        plan: The plan that is approved.
        approved_by: Name of the person who approves it.
    """
    try:
        known = Approval.load(home, plan.digest)
    except PlanRefused:
        Approval(plan=plan, decisions=(_decision("active", approved_by),)).save(home)
        return
    if known.state == "left":
        _decide(home, known, "active", by=approved_by)


def approved_plan(home: Path, digest: str) -> StudyPlan:
    """Return the plan this hospital approved under `digest`: the site's own copy, never one from the wire.

    Raises:
        PlanRefused: No plan of this digest is approved here, it is paused or left, the whole site is paused, or the
            stored copy has another digest.
    """
    approval = Approval.load(home, digest)
    if approval.state != "active":
        raise PlanRefused(f"study {approval.plan.name!r} is {_DECIDED[approval.state]} at this site since "
                          f"{approval.decisions[-1].at}. Take it up again with `wardround site resume`")  # fmt: skip
    if (since := site_paused(home)) is not None:
        raise PlanRefused(f"this site is paused since {since.at}. Take it up again with `wardround site resume`")
    return approval.plan


def smallest_delta(home: Path, plan: StudyPlan | None, others: Iterable[str], *, default: float = 1.0) -> float:
    """Delta at which what several plans have cost together is stated: the smallest of `plan`'s and the others'.

    A larger one would let a plan with a larger delta read the same ledger as less spent. Everything booked was approved
    before, and no record of it is ever removed, also of a plan that was left. No plan is built for this, so a record of
    an older version counts, too. A plan that booked nothing does not count. Otherwise the approval of a plan with a
    tiny delta would end every other study, and leaving it would not help.

    Args:
        home: The site's home.
        plan: The plan that asks; None where none does.
        others: Digests of the plans that something was booked for. One whose record is gone has no say.
        default: The result where no plan has a say.

    Raises:
        StateError: A record cannot be read, so the smallest delta is unknown.
    """
    asks = () if plan is None else (plan.digest,)
    deltas = [] if plan is None else [plan.privacy.delta]
    for path in (_path(home, digest) for digest in sorted(set(others).difference(asks))):
        try:
            with told(path):
                record = json.loads(path.read_text(encoding="utf-8"))
            deltas.append(_positive(record["plan"]["privacy"]["delta"]))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"the approval of plan {path.parent.name[:12]} cannot be read ({type(error).__name__}), so the "
                "total cost of the studies is unknown. Restore it from the site's backup, or approve the plan again"
            ) from error
    return min(deltas, default=default)


def record_of(home: Path, digest: str) -> bytes | None:
    """The record of a plan as it lies here, whether or not this version can build the plan; None where none lies."""
    path = _path(home, digest)
    with told(path):
        return path.read_bytes() if path.exists() else None


def keep_record(home: Path, digest: str, record: bytes) -> None:
    """Write a record durably as it lay in another copy of this home, so that its delta has a say.

    Args:
        home: The site's home folder.
        digest: Digest of the plan.
        record: The record's bytes, as the other copy holds them.
    """
    path = _path(home, digest)
    with told(path):
        write_atomically(path, record, mode=PRIVATE)


def pause(home: Path, digest: str | None, *, by: str) -> None:
    """Answer no more requests of one plan, or of any, until `resume`; raises `PlanRefused` for an unknown plan.

    Args:
        home: The site's home folder.
        digest: Digest of the plan; None pauses the whole site.
        by: Name of the person who pauses it.
    """
    if digest is None:
        decision = dataclasses.asdict(_decision("paused", by))
        with told(home / layout.PAUSED):
            write_atomically(home / layout.PAUSED, json.dumps(decision, sort_keys=True).encode(), mode=PRIVATE)
    elif (known := Approval.load(home, digest)).state == "active":
        _decide(home, known, "paused", by=by)


def resume(home: Path, digest: str | None, *, by: str) -> None:
    """Undo `pause`. A plan that was left is not taken up again by this; approve it again.

    Args:
        home: The site's home folder.
        digest: Digest of the plan; None ends the pause of the whole site.
        by: Name of the person who resumes it.
    """
    if digest is None:
        (home / layout.PAUSED).unlink(missing_ok=True)
    elif (known := Approval.load(home, digest)).state == "paused":
        _decide(home, known, "active", by=by)


def leave(home: Path, digest: str, *, by: str) -> None:
    """Take the approval of a plan back. What it has cost stays in the ledger.

    Args:
        home: The site's home folder.
        digest: Digest of the plan.
        by: Name of the person who leaves the study.
    """
    if (known := Approval.load(home, digest)).state != "left":
        _decide(home, known, "left", by=by)


def site_paused(home: Path) -> Decision | None:
    """The decision to pause the whole site, if it holds; a file that cannot be read pauses, too."""
    path = home / layout.PAUSED
    if not path.exists():
        return None
    try:
        return Decision(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Decision(state="paused", by="", at="an unknown time")


def approvals(home: Path) -> list[Approval]:
    """Every plan that was ever approved here and whose record can be read, by name and digest."""
    found = []
    for path in (home / layout.APPROVED).glob("*/approval.json"):
        try:
            found.append(Approval.load(home, path.parent.name))
        except PlanRefused:
            continue
    return sorted(found, key=lambda approval: (approval.plan.name, approval.plan.digest))


def active_plans(home: Path) -> list[StudyPlan]:
    """Every plan that may run here now or once it is resumed."""
    return [approval.plan for approval in approvals(home) if approval.state != "left"]


def find(home: Path, named: str) -> Approval:
    """Return the approval that a person means by a study's name, a digest, or the beginning of one.

    Of several plans of one name the one that was not left is meant.

    Raises:
        PlanRefused: None or several are meant.
    """
    known = approvals(home)
    meant = [a for a in known if a.plan.name == named]
    meant = [a for a in meant if a.state != "left"] or meant
    meant = meant or [a for a in known if len(named) >= _SHORTEST and a.plan.digest.startswith(named.lower())]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise PlanRefused(
            f"{named[:64]!r} names no plan approved here. Give the study's name or the first digits of its digest, as "
            "`wardround site budget` lists them"
        )
    digests = ", ".join(f"{a.plan.digest[:12]} ({a.state})" for a in meant)
    raise PlanRefused(f"{named[:64]!r} names {len(meant)} plans here: {digests}. Give the first digits of the digest")


def _decide(home: Path, known: Approval, state: State, *, by: str) -> None:
    dataclasses.replace(known, decisions=(*known.decisions, _decision(state, by))).save(home)


def _decision(state: State, by: str) -> Decision:
    return Decision(state=state, by=by, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _path(home: Path, digest: str) -> Path:
    return home / layout.APPROVED / digest / "approval.json"


def _positive(value: float) -> float:
    if not value > 0:
        raise ValueError("not a number above 0")
    return float(value)
