"""The door of a secure round's other legs: each answer in its one form, and the line in the egress log.

What leaves here is keys, signatures and shares, of sizes that follow from the plan; no number of a patient is in it.
"""

import hashlib
from pathlib import Path
from typing import TypeVar

from client.egress.egress_log import record
from common.errors import EgressRefused, MessageRefused
from common.plan.study_plan import StudyPlan
from common.secure.attempt import SIGNATURE_BYTES, unpack
from common.secure.masks import BOX_BYTES, KEY_BYTES
from common.wire.secure_messages import ConfirmReply, KeyReply, RevealReply, SecureReply
from common.wire.site_name import is_site_name

_Leg = TypeVar("_Leg", KeyReply, ConfirmReply, RevealReply)


def release(home: Path, plan: StudyPlan, reply: _Leg) -> _Leg:
    """Check a leg's answer, write down that it leaves, and return it to be sent.

    Args:
        home: The site's home.
        plan: The site's own approved copy.
        reply: The answer.

    Raises:
        EgressRefused: It is not in the one form of its leg.
        StateError: The disk refuses the record; nothing may be sent then.
    """
    parts = _parts(reply)
    if not _in_form(plan, reply):
        raise EgressRefused(f"{reply.kind}: not what a secure round of plan {plan.name!r} lets out; nothing was sent")
    payload = hashlib.sha256(b"".join(parts.values())).hexdigest()
    record(home, kind=reply.kind, payload=payload, size=sum(map(len, parts.values())), keys=sorted(parts), entry=0)
    return reply


def _parts(reply: SecureReply) -> dict[str, bytes]:
    return {name: value for name, value in vars(reply).items() if isinstance(value, bytes)}


def _in_form(plan: StudyPlan, reply: SecureReply) -> bool:
    holders = plan.aggregation.hospitals
    if reply.plan != plan.digest or not is_site_name(reply.site):
        return False
    try:
        if isinstance(reply, RevealReply):
            own = unpack(reply.own, size=KEY_BYTES, holders=holders)
            return set(own).isdisjoint(unpack(reply.gone, size=KEY_BYTES, holders=holders))
        signed = len(reply.signature) == SIGNATURE_BYTES
        if isinstance(reply, ConfirmReply):
            return signed
        boxes = unpack(reply.boxes, size=BOX_BYTES, holders=holders)
        return signed and len(reply.public) == KEY_BYTES and len(boxes) == holders - 1
    except MessageRefused:
        return False
