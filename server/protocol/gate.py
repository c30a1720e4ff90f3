"""The gate before a release: every hospital in the model judges the candidate, and one no, or one silence, stops it.

Verdicts are kept in the study's folder as they came, signatures included, so that a release can be made later and by
another process. A site that has judged is not asked again.
"""

import json
import logging

from common.errors import (
    GateFailed,
    MessageRefused,
    SignatureInvalid,
    SignerUnknown,
    StateError,
    VerdictMissing,
    by_name,
)
from common.host.files import write_atomically
from common.model.synthesis import Decoder
from common.wire.messages import EvaluateRequest, Refused, Verdict
from common.wire.verdicts import PASSED, from_json, to_json, verified
from server.aggregation.quarantine import OTHER_SITE, WRONG_COST
from server.protocol.exchange import Answer, Exchange
from server.protocol.polling import Asking
from server.protocol.roster import Roster
from server.study import signers
from server.study.reminders import Reminders
from server.study.study import Study

log = logging.getLogger(__name__)

FILE = "verdicts.json"
Verdicts = dict[str, Verdict]


def collect(study: Study, exchange: Exchange) -> Verdicts:
    """Ask every site that has not judged the finished model, and keep what comes.

    Returns:
        Checked verdicts by site; a site that stayed silent or refused is not in it.

    Raises:
        QuorumLost: Fewer sites than the plan's quorum are there at all.
        SignatureInvalid: A site's verdict is altered, or not signed by the key it was enrolled with.
        StateError: The stored verdicts cannot be read.
    """
    found = load(study)
    if not study.plan.evaluation.gated or not study.joined() - set(found):
        return found
    roster = Roster(study, exchange)
    roster.invite()
    reminders = Reminders(study)
    asking = Asking(
        exchange,
        roster,
        what="verdict",
        question=lambda name: EvaluateRequest(
            plan=study.plan.digest,
            last_head=reminders.to_send(name),
            arrays=study.released,
        ),
        hear=lambda name, answer: _hear(study, found, reminders, name, answer),
    )
    asking.replied |= set(found) | (set(roster.sites.values()) - study.joined())
    for _ in range(1 + study.plan.aggregation.retries):
        asking.attempt(deadline_s=study.plan.aggregation.deadline_s, enough=lambda: False)
        if not study.joined() - set(found):
            break
    if forged := sorted(name for name, why in asking.missing.items() if why == SignatureInvalid.__name__):
        raise SignatureInvalid(
            f"study {study.plan.name!r}: the verdict of {', '.join(forged)} is not signed by the key that the site was "
            "enrolled with, so nothing is released. Call the hospital; if its key was lost, invite the site again"
        )
    return found


def load(study: Study) -> Verdicts:
    """Stored verdicts on the study's present model, each checked again.

    Raises:
        StateError: The file is there and cannot be read.
        SignatureInvalid: A verdict was altered, or is not signed by the key its site was enrolled with.
        SignerUnknown: No key was recorded when its site was enrolled.
    """
    path = study.folder / FILE
    if not path.exists():
        return {}
    try:
        records = list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{path} cannot be read ({type(error).__name__}). Remove it; sites answer again") from error
    candidate, enrolled = candidate_of(study), signers.load(study.folder)
    verdicts = [from_json(record) for record in records]
    return {
        verdict.site: _checked(study, verdict, candidate, enrolled)
        for verdict in verdicts
        if verdict.candidate == candidate
    }


def require(study: Study, verdicts: Verdicts) -> None:
    """Let a release pass only where every site in the model has said yes.

    Raises:
        VerdictMissing: A site has not judged.
        SignerUnknown: A site's verdict cannot be taken, as no key of it was enrolled.
        GateFailed: A site said no; the type is the site's reason.
    """
    if not study.plan.evaluation.gated:
        return
    for site, verdict in sorted(verdicts.items()):
        if verdict.outcome != PASSED:
            kind = by_name(verdict.outcome)
            reason = kind if issubclass(kind, GateFailed) else GateFailed
            raise reason(
                f"study {study.plan.name!r}: site {site!r} judged the candidate and says no. Nothing is released; "
                "the site's steward can look at its own report, and only another study can change the outcome"
            )
    missing = sorted(study.joined() - set(verdicts))
    if keyless := [site for site in missing if site not in signers.load(study.folder)]:
        raise SignerUnknown(f"study {study.plan.name!r}: {signers.unknown(keyless[0])}. Nothing is released")
    if missing:
        raise VerdictMissing(
            f"study {study.plan.name!r}: no verdict yet from {', '.join(missing)}. Nothing is released; resume the "
            "study once they are connected"
        )


def candidate_of(study: Study) -> str:
    """Digest of the decoder that the study's present weights hold."""
    return Decoder.of(study.plan, study.released).digest


def _hear(study: Study, found: Verdicts, reminders: Reminders, name: str, answer: Answer) -> str:
    """Keep the site's checked verdict; return why not where it gave none that counts."""
    if isinstance(answer, Refused):
        reminders.refused(name, answer.reason)
        return answer.reason
    if not isinstance(answer, Verdict):
        log.warning("the verdict of %s does not count: %s", name, answer)
        return MessageRefused.__name__
    try:
        verdict = _checked(study, answer, candidate_of(study), signers.load(study.folder))
    except (SignatureInvalid, SignerUnknown) as error:
        log.warning("the verdict of %s does not count: %s", name, error)
        return type(error).__name__
    if verdict.site != name:
        return OTHER_SITE
    if not _honest_cost(study, verdict):
        return WRONG_COST
    reminders.counted(name, verdict.ledger_head)
    found[name] = verdict
    _save(study, found)
    return ""


def _checked(study: Study, verdict: Verdict, candidate: str, enrolled: signers.Signers) -> Verdict:
    """Signed over this very candidate, and by the key that the site was enrolled with."""
    return signers.require(enrolled, verified(verdict, plan=study.plan.digest, candidate=candidate))


def _honest_cost(study: Study, verdict: Verdict) -> bool:
    privacy = study.plan.privacy
    right = not privacy.enabled or 0 <= verdict.epsilon <= privacy.epsilon
    return verdict.delta == privacy.delta and right


def _save(study: Study, verdicts: Verdicts) -> None:
    records = [to_json(verdicts[site]) for site in sorted(verdicts)]
    write_atomically(study.folder / FILE, json.dumps(records, indent=1, sort_keys=True).encode())
