"""A refusal on its way out: the type of its reason, which is in the egress log before it leaves.

Apart from `client.egress.egress`, so that the daemon's small processes need not load the model.
"""

import logging
from pathlib import Path

from client.egress.egress_log import record
from common.errors import CacheMissing, CohortTooSmall, WardroundError
from common.wire.messages import Refused

log = logging.getLogger(__name__)

UNRECORDED = Refused(plan="", site="", reason="StateError")
"""What leaves where the egress log cannot be written: the same of every site, for every request and every reason. It
cannot be nothing, because a SuperNode that gets no answer waits for ever."""

_TOLD_AS: dict[type[WardroundError], type[WardroundError]] = {CacheMissing: CohortTooSmall}
"""Types that would say what another one hides. An ingest that admits no patient leaves no cache, one that admits one
patient does. Two types would say whether any patient passes the plan's filters."""


def reason_of(error: WardroundError) -> str:
    """The type name that may leave for an error."""
    told = (as_what for kind, as_what in _TOLD_AS.items() if isinstance(error, kind))
    return next(told, type(error)).__name__


def refused(home: Path, *, reason: str, plan: str = "", site: str = "") -> Refused:
    """Write down that a refusal leaves and return it; `UNRECORDED` where the log cannot be written.

    Args:
        home: The site's home.
        reason: Type name of the error.
        plan: Digest of the plan, if one was asked for.
        site: The site's public name, if it is known.
    """
    answer = Refused(plan=plan, site=site, reason=reason)
    try:
        record(home, kind="refusal", payload=answer.reason, size=0, keys=["reason"], entry=0)
    except Exception:  # raised here, any fault of the log would leave as an error of Flower's own
        log.exception("a refusal could not be written to the egress log")
        return UNRECORDED
    return answer
