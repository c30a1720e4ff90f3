"""What a hospital answers in the legs of a secure round that are no training: a key, a signature, shares of keys.

Formal guarantee
    No leg is answered unless the plan is approved here at that moment, inside the site's rules, and its roster was
    checked here. What a leg answers follows from keys and from digests, never from a patient. Once numbers of a cohort
    were masked, no leg of this hospital helps to open them after a patient of that cohort has withdrawn. T others may
    still open a sum that they are in: what was sent is booked and private as ever.
"""

import logging

from client import conditions
from client.egress import egress, secure
from client.ledger import noise_key
from client.secure.session import Session
from client.secure.standing import session_of
from client.site import policy
from client.site.site import Site
from common.errors import MessageRefused
from common.plan.study_plan import StudyPlan
from common.secure.attempt import pack
from common.wire.secure_messages import (
    ConfirmReply,
    ConfirmRequest,
    KeyReply,
    KeyRequest,
    MaskedRequest,
    RevealReply,
    RevealRequest,
    SecureRequest,
)

log = logging.getLogger(__name__)


def give_key(site: Site, request: KeyRequest) -> KeyReply:
    """Leg 1: a fresh key for this attempt, with boxes for the peers.

    Raises:
        Refusal: The plan may not run here, shares no noise, or has no such round or attempt.
        DataError: The cohort is too small.
        StateError: A key or the state cannot be used.
    """
    with site.alone():
        plan, session = _asked(site, request)
        policy.enough(site.policy, plan, patients=site.cohort(plan).patients)
        public, signature, boxes = session.make_key()
        reply = KeyReply(plan=plan.digest, site=site.policy.name, public=public, signature=signature, boxes=pack(boxes))
        return secure.release(site.home, plan, reply)


def confirm(site: Site, request: ConfirmRequest) -> ConfirmReply:
    """Leg 3: this hospital's signature on the one set of hospitals whose sum is to be opened.

    Raises:
        Refusal: As `give_key`, a patient of the numbers has withdrawn, or the set may not be signed.
        StateError: A key or the state cannot be used.
    """
    with site.alone():
        plan, session = _asked(site, request)
        _require_consent(site, session)
        signature = session.confirm(request.commitments)
        return secure.release(
            site.home, plan, ConfirmReply(plan=plan.digest, site=site.policy.name, signature=signature)
        )


def reveal(site: Site, request: RevealRequest) -> RevealReply:
    """Leg 4: the shares that open the sum of the set that was signed.

    Raises:
        Refusal: As `confirm`, or too few hospitals have signed the same set.
        StateError: A key or the state cannot be used.
    """
    with site.alone():
        plan, session = _asked(site, request)
        _require_consent(site, session)
        own, gone = session.reveal(request.signatures, request.boxes)
        return secure.release(site.home, plan, RevealReply(plan=plan.digest, site=site.policy.name, own=own, gone=gone))


def begin(site: Site, plan: StudyPlan, request: MaskedRequest, *, weights: str, cohort: str, key: str) -> None:
    """Leg 2, before anything is booked: take the key book, and refuse where numbers of this attempt may have left.

    Args:
        site: The hospital, held alone.
        plan: Its own approved copy.
        request: The round that is asked for.
        weights: Digest of the request's weights.
        cohort: Identity of the data set that would be computed on.
        key: Name of the key of the noise that would be drawn (`client.ledger.noise_key`).

    Raises:
        MessageRefused: The key book or the attempt is no good.
        StateError: A key or the state cannot be used.
    """
    session = session_of(site.home, plan, number=request.round, attempt=request.attempt)
    session.open_book(request.book, request.boxes, weights=weights)
    session.require_first(cohort, resumes=noise_key.kept(site.home, key) is not None)


def _asked(site: Site, request: SecureRequest) -> tuple[StudyPlan, Session]:
    plan = conditions.admitted(site, request.plan)
    if not plan.aggregation.secure:
        raise MessageRefused(f"plan {plan.name!r} shares no noise, so its rounds have no such leg")
    site.ledger.require(egress.last_head(site.home))
    policy.round_of(plan, request.round)
    return plan, session_of(site.home, plan, number=request.round, attempt=request.attempt)


def _require_consent(site: Site, session: Session) -> None:
    """A withdrawal between the masks and the reveal keeps the sum closed."""
    site.ledger.require_consent(session.cohort)
