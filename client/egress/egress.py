"""The one door out of a hospital: what may leave, in which form, and the record of what left.

Formal guarantee
    `seal` makes a reply, and the reply leaves through `release`, fresh or from the spool. Both compare it with the
    site's own approved plan. It holds the arrays of one phase, with exactly the names and shapes of the plan. They are
    plain finite numbers of the type of the plan's sum (float32), so of one known size. Its scalars follow from plan,
    policy and ledger alone, each in its one form. There is no key for a count, a loss, a file name or an error text.
    `release` writes two records durably before the reply may be sent: the line of the egress log, and the receipt
    against which a rolled-back ledger is measured.
"""

import math
import re
from pathlib import Path

import numpy as np

from client.egress.egress_log import LOG, record
from client.ledger import receipt
from client.ledger.ledger import Ledger
from client.ledger.receipt import RECEIPT, last_head
from client.site import layout
from common.errors import EgressRefused, MessageRefused, SignatureInvalid
from common.mechanism.registry import leaving, leaving_bytes, sum_of
from common.model.weights import Weights, digest
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan
from common.wire.messages import TEXT_SEARCHED, AboutReply, TrainReply, Verdict
from common.wire.site_name import is_site_name
from common.wire.verdicts import verified

__all__ = ["LOG", "RECEIPT", "last_head", "record", "release", "release_verdict", "seal"]


def seal(*, site: str, plan: StudyPlan, step: Round, arrays: Weights, epsilon: float, ledger_head: str) -> TrainReply:
    """Check what a round has computed and return it as the only object that may be stored and sent.

    Args:
        site: The site's name.
        plan: The approved plan.
        step: The round of its schedule.
        arrays: What the round computed.
        epsilon: What the plan has cost a patient so far, this round included.
        ledger_head: Hash of the ledger's newest entry.

    Raises:
        EgressRefused: Anything is not exactly what this phase of the approved plan may release.
    """
    reply = TrainReply(
        plan=plan.digest,
        round=step.number,
        phase=step.phase,
        site=site,
        arrays=arrays,
        epsilon=epsilon,
        delta=plan.privacy.delta,
        ledger_head=ledger_head,
    )
    _check(plan, step, reply)
    return reply


def release(home: Path, *, plan: StudyPlan, step: Round, reply: TrainReply, entry: int) -> TrainReply:
    """Check a sealed reply once more, write down that it leaves, and return it to be sent.

    Args:
        home: The site's home.
        plan: The site's own approved copy.
        step: The round that the reply answers.
        reply: Sealed now, or read from the spool.
        entry: Ledger entry that paid.

    Raises:
        EgressRefused: The reply is not exactly what this phase of the approved plan may release.
        StateError: The disk refuses the record, or the ledger is behind the last one; nothing may be sent then.
    """
    _check(plan, step, reply)
    payload, size = digest(reply.arrays), sum(array.nbytes for array in reply.arrays.values())
    record(home, kind="train", payload=payload, size=size, keys=sorted(reply.arrays), entry=entry)
    ledger = Ledger(home / layout.LEDGER)
    receipt.keep(home, ledger, head=reply.ledger_head, entry=entry, plan=reply.plan, number=reply.round)
    return reply


def describe(home: Path, *, plan: StudyPlan, reply: AboutReply) -> AboutReply:
    """Check what a site says of its own settings, write down that it leaves, and return it to be sent.

    Args:
        home: The site's home folder.
        plan: The approved plan.
        reply: What the site says of its settings.

    Raises:
        EgressRefused: It is not one of the few words that a site may say.
        StateError: The disk refuses the record; nothing may be sent then.
    """
    known = reply.text_searched in TEXT_SEARCHED and reply.plan == plan.digest
    if not known or not is_site_name(reply.site):
        raise EgressRefused(f"what the site says of its settings is no word of plan {plan.name!r}; nothing was sent")
    record(home, kind="about", payload=plan.digest, size=0, keys=["text_searched"], entry=0)
    return reply


def release_verdict(home: Path, *, plan: StudyPlan, verdict: Verdict, entry: int) -> Verdict:
    """Check a signed verdict, write down that it leaves, and return it to be sent.

    Args:
        home: The site's home.
        plan: The site's own approved copy.
        verdict: Signed now, or stored before.
        entry: Ledger entry that paid.

    Raises:
        EgressRefused: It is not exactly what a site may say about a candidate of the approved plan.
        StateError: The disk refuses the record, or the ledger is behind the last one; nothing may be sent then.
    """
    limit = plan.privacy.epsilon if plan.privacy.enabled else math.inf
    forms = {
        "site": is_site_name(verdict.site),
        "delta": verdict.delta == plan.privacy.delta,
        "epsilon": type(verdict.epsilon) is float and 0 <= verdict.epsilon <= limit,
        "ledger_head": re.fullmatch(r"[0-9a-f]{64}", verdict.ledger_head) is not None,
    }
    if wrong := [name for name, right in forms.items() if not right]:
        raise EgressRefused(f"verdict: its {wrong[0]} is not what plan {plan.name!r} lets out; nothing was sent")
    try:
        verified(verdict, plan=plan.digest, candidate=verdict.candidate)
    except SignatureInvalid as error:
        raise EgressRefused(f"{error}; nothing was sent") from error
    record(home, kind="verdict", payload=verdict.candidate, size=0, keys=["outcome"], entry=entry)
    receipt.keep(home, Ledger(home / layout.LEDGER), head=verdict.ledger_head, entry=entry, plan=verdict.plan)
    return verdict


def _check(plan: StudyPlan, step: Round, reply: TrainReply) -> None:
    """Refuse a reply that differs in anything from what this round of this plan releases."""
    try:
        sum_of(plan).check(reply.arrays, leaving(plan, step.phase), what="reply")
    except MessageRefused as error:
        raise EgressRefused(f"{error}; nothing was sent") from error
    limit = plan.privacy.epsilon if plan.privacy.enabled else math.inf
    forms = {
        "array type": all(type(array) is np.ndarray for array in reply.arrays.values()),
        "size": sum(array.nbytes for array in reply.arrays.values()) == leaving_bytes(plan, step.phase),
        "plan": reply.plan == plan.digest,
        "round": (reply.round, reply.phase) == (step.number, step.phase),
        "site": is_site_name(reply.site),
        "delta": reply.delta == plan.privacy.delta,
        "epsilon": type(reply.epsilon) is float and 0 <= reply.epsilon <= limit,
        "ledger_head": re.fullmatch(r"[0-9a-f]{64}", reply.ledger_head) is not None,
    }
    if wrong := [name for name, right in forms.items() if not right]:
        raise EgressRefused(
            f"reply: its {wrong[0]} is not what round {step.number} of plan {plan.name!r} releases; nothing was sent"
        )
