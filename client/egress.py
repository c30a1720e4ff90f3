"""The one door out of a hospital: what may leave, in which form, and the record of what left.

Formal guarantee
    A reply leaves only through `seal`. It holds the arrays of one phase, exactly the names and shapes the approved plan
    prescribes, finite float32, computed under a ledger entry that was booked first; and five scalars that follow from
    the plan and the ledger alone. There is no key for a count, a loss, a file name or an error text.
"""

import json
import os
import time
from pathlib import Path

from common.errors import EgressRefused, MessageRefused
from common.messages import TrainReply
from common.moments import release_length
from common.plan import StudyPlan
from common.schedule import Round
from common.vae import START, shapes
from common.weights import Weights, check, digest


def allowed_shapes(plan: StudyPlan, phase: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array that may leave a site in `phase`."""
    if phase == "sgd":
        return {name: shape for name, shape in shapes(plan).items() if not name.startswith(START)}
    return {"release": (release_length(plan, phase),)}  # type: ignore[arg-type]


def seal(
    home: Path,
    *,
    site: str,
    plan: StudyPlan,
    step: Round,
    arrays: Weights,
    epsilon: float,
    entry: int,
    ledger_head: str,
) -> TrainReply:
    """Check what is about to leave, write it to the egress log, and return the only object that may be sent.

    Raises:
        EgressRefused: Anything is not exactly what this phase of the approved plan may release.
    """
    try:
        check(arrays, allowed_shapes(plan, step.phase), what="reply")
    except MessageRefused as error:
        raise EgressRefused(f"{error}; nothing was sent") from error
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
    record(
        home,
        kind="train",
        payload=digest(arrays),
        size=sum(array.nbytes for array in arrays.values()),
        keys=sorted(arrays),
        entry=entry,
    )
    return reply


def record(home: Path, *, kind: str, payload: str, size: int, keys: list[str], entry: int) -> None:
    """Append one durable line to the egress log: what left, not what it says.

    Args:
        home: The site's home.
        kind: "train", "hello" or "refusal".
        payload: Digest of the arrays, or the refusal's type.
        size: Bytes of the arrays.
        keys: Names of the arrays.
        entry: Ledger entry that paid; 0 where nothing was spent.
    """
    line = json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "kind": kind,
            "payload": payload,
            "bytes": size,
            "keys": keys,
            "entry": entry,
        },
        sort_keys=True,
    )
    with (home / "egress.jsonl").open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
