"""What a hospital does with a request, in the order that keeps its promise: permit, reserve, train, settle, seal.

Formal guarantee
    For any requests of a server, in any order: nothing is read from a scan before the approved plan, the policy and
    the ledger let the round pass; nothing is computed before its cost is durably booked; nothing leaves that is not
    stored, settled and sealed, or that a patient is in who has withdrawn by then. A reply that is stored is sent again
    as it is. A round that a crash cut short is computed again from its own key, which is the same draw
    (`client.ledger.noise_key`). Anything else is a new booking.
"""

import logging
import re
from collections.abc import Sequence

from client.admission.records import Admission
from client.admission.settings import looked_for_text
from client.cohort.cache import Cache
from client.cohort.forms import form_of
from client.cohort.held_out import VERDICT
from client.cohort.identity import SIGNING_KEY
from client.egress import egress, spool
from client.evaluation import verdicts
from client.evaluation.candidate import Candidate
from client.evaluation.judge import candidate_of, judge, tell_steward
from client.ledger import noise_key
from client.ledger.bookings import Bookings
from client.ledger.ledger import Entry
from client.mechanism import local_encoder
from client.mechanism.half import Work, compute, require, sum_half
from client.site import place, policy
from client.site.site import Site
from common.accountant.accounting import GaussianEvent
from common.errors import MessageRefused, PlanRefused, StateError
from common.model.study_model import shared_shapes
from common.model.weights import Weights, check, digest
from common.plan.schedule import Round, schedule, verdict_event
from common.plan.study_plan import StudyPlan
from common.wire.messages import (
    NO,
    UNKNOWN,
    YES,
    About,
    AboutReply,
    EvaluateRequest,
    Hello,
    HelloReply,
    TrainReply,
    TrainRequest,
    Verdict,
)
from common.wire.signing import Key
from common.wire.verdicts import signed

log = logging.getLogger(__name__)


def greet(site: Site, request: Hello) -> HelloReply:
    """Say who this site is, once the plan is approved here and the cohort is one the plan admits.

    Raises:
        Refusal: The plan is not approved, or lies outside the policy.
        PlanError: This installation cannot run one of its rounds.
        DataError: The cohort is too small.
        StateError: The cache or the ledger cannot be trusted.
    """
    plan = policy.approved_plan(site.home, request.plan)
    _refuse_without_noise(site, plan)
    policy.inside(site.policy, plan)
    _refuse_copy(site)
    site.ledger.require(egress.last_head(site.home))
    check_cohort(site, plan)
    require(plan, schedule(plan))
    egress.record(site.home, kind="hello", payload=plan.digest, size=0, keys=["site"], entry=0)
    return HelloReply(plan=plan.digest, site=site.policy.name)


def about(site: Site, request: About) -> AboutReply:
    """Say how this site's installation treats scans: what was switched on when the plan's cohort came in.

    Asked for the same as a `Hello`, so that the answer tells no more of the cohort than that one's.

    Raises:
        Refusal: The plan is not approved, or lies outside the policy.
        DataError: The cohort is too small, or there is none.
        StateError: The cache cannot be trusted, or the disk refuses.
    """
    plan = policy.approved_plan(site.home, request.plan)
    _refuse_without_noise(site, plan)
    policy.inside(site.policy, plan)
    _refuse_copy(site)
    check_cohort(site, plan)
    form = form_of(plan)
    admission = Admission.load(site.home, form)
    searched = None if admission is None else looked_for_text(admission.reading, form)
    word = UNKNOWN if searched is None else YES if searched else NO
    reply = AboutReply(plan=plan.digest, site=site.policy.name, text_searched=word)
    return egress.describe(site.home, plan=plan, reply=reply)


def train(site: Site, request: TrainRequest) -> TrainReply:
    """Answer one round. The plan, the noise and the steps are the site's own approved copy's, never the message's.

    Raises:
        Refusal: The site says no; nothing was read from a scan and the ledger is as it was. Where the study was paused
            or a patient withdrew meanwhile, what was booked stays booked, and nothing leaves.
        StateError: The cache or the ledger cannot be trusted.
    """
    plan = policy.approved_plan(site.home, request.plan)
    _refuse_without_noise(site, plan)
    check(request.arrays, shared_shapes(plan), what="request")
    step = policy.round_of(plan, request.round)
    with site.alone():
        _refuse_rollback(site, request)
        weights = digest(request.arrays)
        finished = _stored(site, request) or _train(site, plan, step, request, weights)
        noise_key.destroy(site.home, noise_key.name_of(plan.digest, step.number, weights, finished.cohort))
        policy.approved_plan(site.home, request.plan)  # paused or left meanwhile: the reply stays in the spool
        site.ledger.require_consent(finished.cohort)
        return egress.release(site.home, plan=plan, step=step, reply=finished.reply, entry=finished.entry)


def _stored(site: Site, request: TrainRequest) -> spool.Finished | None:
    """What this very request already got, unless it is not what was settled, or holds a patient who withdrew since."""
    finished = spool.find(site.home, request)
    if finished is None or not _stands(site, finished, finished.reply, digest(finished.reply.arrays)):
        return None
    log.info("round %d answered from the spool", request.round)
    return finished


def _stands(
    site: Site, finished: spool.Finished | verdicts.Finished, answer: TrainReply | Verdict, reply_digest: str
) -> bool:
    """Whether a stored answer is what its booking ended in, by this very ledger, and holds no withdrawn patient."""
    if not site.ledger.settled(
        finished.entry, plan=answer.plan, cohort=finished.cohort, reply_digest=reply_digest, head=answer.ledger_head
    ):
        log.warning("entry %d: the stored answer is not the one that was settled; it is not sent", finished.entry)
        return False
    if not site.ledger.consents(finished.cohort):
        log.info("entry %d: a patient withdrew since it was answered; it is computed anew", finished.entry)
        return False
    return True


def _train(site: Site, plan: StudyPlan, step: Round, request: TrainRequest, weights: str) -> spool.Finished:
    """Permit, reserve, train, settle, seal, store."""
    _permit_unread(site, plan, step, weights)
    check_cohort(site, plan)
    entry = _entry(plan, step, site.cohort(plan), weights)
    number = _reserve(site, plan, step, entry)

    made, encoder = local_encoder.apart(plan, _compute(site, plan, step, request.arrays, entry, number))
    arrays = sum_half(plan).sent(made, plan=plan, step=step, weights=weights, home=site.home)

    site.ledger.settle(number, entry, reply_digest=digest(arrays))
    reply = egress.seal(
        site=site.policy.name,
        plan=plan,
        step=step,
        arrays=arrays,
        epsilon=site.ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest),
        ledger_head=site.ledger.head(),
    )
    finished = spool.Finished(reply=reply, entry=number, cohort=entry.cohort)
    spool.keep(site.home, request, finished)
    if encoder:  # seen by later rounds from here on, so never again made by the same key
        noise_key.destroy(site.home, noise_key.name_of(plan.digest, step.number, weights, entry.cohort))
        local_encoder.keep(site.home, plan, step.number, encoder)
    log.info("round %d (%s) done, study epsilon %.3f", step.number, step.phase, reply.epsilon)
    return finished


def evaluate(site: Site, request: EvaluateRequest) -> Verdict:
    """Judge the finished model on this site's patients, the held-out ones first of all, and answer yes or no.

    The same order as a round: permit, reserve, judge, settle, seal. A verdict that is stored is sent again as it is,
    and only then are the steward's figures made, on which nothing that leaves may depend.

    Raises:
        Refusal: As in `train`.
        DataError: The model draws nothing that could be judged; nothing was booked.
        StateError: The cache or the ledger cannot be trusted.
    """
    plan = policy.approved_plan(site.home, request.plan)
    _refuse_without_noise(site, plan)
    event = verdict_event(plan)
    if event is None:
        raise PlanRefused(f"plan {plan.name!r} sets no patient aside, so there is nothing to judge a model by")
    check(request.arrays, shared_shapes(plan), what="request")
    step = Round(number=len(schedule(plan)) + 1, phase=VERDICT, event=event, epsilon_after=0.0)
    with site.alone():
        _refuse_rollback(site, request)
        weights = digest(request.arrays)
        finished, judged = verdicts.find(site.home, plan, weights), None
        if finished is None or not _stands(site, finished, finished.verdict, finished.verdict.candidate):
            finished, judged = _judge(site, plan, step, request, weights)
        noise_key.destroy(site.home, noise_key.name_of(plan.digest, step.number, weights, finished.cohort))
        if judged is not None:
            tell_steward(site, plan, judged, finished.verdict.outcome)
        policy.approved_plan(site.home, request.plan)
        site.ledger.require_consent(finished.cohort)
        return egress.release_verdict(site.home, plan=plan, verdict=finished.verdict, entry=finished.entry)


def _judge(
    site: Site, plan: StudyPlan, step: Round, request: EvaluateRequest, weights: str
) -> tuple[verdicts.Finished, Candidate]:
    """Permit, reserve, judge, settle, sign, store."""
    _permit_unread(site, plan, step, weights)
    check_cohort(site, plan)
    site.use_threads()
    candidate = candidate_of(plan, request.arrays)
    entry = _entry(plan, step, site.admitted(plan), weights)
    number = _reserve(site, plan, step, entry)

    random = site.random(plan.digest, step.number, weights, key=_key(site, plan, entry, number))
    judgement = judge(site, plan, candidate, random)

    site.ledger.settle(number, entry, reply_digest=judgement.candidate)
    verdict = signed(
        Key.at(site.home / SIGNING_KEY),
        plan=plan.digest,
        candidate=judgement.candidate,
        site=site.policy.name,
        outcome=judgement.outcome,
        epsilon=site.ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest),
        delta=plan.privacy.delta,
        ledger_head=site.ledger.head(),
    )
    finished = verdicts.Finished(verdict=verdict, entry=number, cohort=entry.cohort)
    verdicts.keep(site.home, plan, weights, finished)
    log.info("the candidate was judged, study epsilon %.3f", verdict.epsilon)
    return finished, candidate


def _entry(plan: StudyPlan, step: Round, cohort: Cache, weights: str) -> Entry:
    """What is booked for `step` on these patients and these weights."""
    return Entry(
        study=plan.name,
        plan=plan.digest,
        round=step.number,
        phase=step.phase,
        event=step.event,
        cohort=cohort.identity,
        patients=cohort.patient_keys,
        request=weights,
        rides=step.rides,
    )


def check_cohort(site: Site, plan: StudyPlan) -> None:
    """Refuse a cohort that was not admitted in the plan's form or is too small.

    Labels are not looked at: the coordinator chose their names, so a refusal that depends on which of them occur would
    answer a question about patients, without noise and as often as it is asked. A class without patients is a sum of
    noise.

    Raises:
        CacheMissing: No cache was made in this plan's form.
        CohortTooSmall: Fewer patients than the site's minimum or the plan's.
    """
    policy.enough(site.policy, plan, patients=site.cohort(plan).patients)


def _reserve(site: Site, plan: StudyPlan, step: Round, entry: Entry) -> int:
    """Book the round if the policy lets it pass, judged by the ledger as it stands at that moment.

    A round that a crash cut short is not booked again: its key is still there, so nothing of it was ever sent. It is
    taken up under the reservation that the key names, where that is of this very mechanism and the images are the same.
    """
    ledger, patients, generation = site.ledger, len(entry.patients), site.admitted(plan).generation
    name = noise_key.name_of(entry.plan, entry.round, entry.request, entry.cohort)
    kept = noise_key.kept(site.home, name)
    if kept is not None and kept.generation == generation and ledger.pays_for(kept.entry, entry):
        ledger.require_consent(entry.cohort)
        _permit(site, plan, (), ledger.bookings(), patients=patients)
        log.info("round %d is taken up again under reservation %d", entry.round, kept.entry)
        return kept.entry

    def permit(booked: Bookings) -> None:
        _permit(site, plan, step.events, booked, patients=patients)

    def prepare(number: int) -> None:
        noise_key.make(site.home, name, entry=number, generation=generation)

    return ledger.reserve(entry, permit=permit, prepare=prepare)


def _key(site: Site, plan: StudyPlan, entry: Entry, number: int) -> bytes:
    """The key that reservation `number` was booked with, for the images it was booked for."""
    kept = noise_key.kept(site.home, noise_key.name_of(entry.plan, entry.round, entry.request, entry.cohort))
    if kept is None or (kept.entry, kept.generation) != (number, site.admitted(plan).generation):
        raise StateError(f"{site.home}: the key of round {entry.round} is gone. Ask for the round again")
    return kept.key


def _permit_unread(site: Site, plan: StudyPlan, step: Round, weights: str) -> None:
    """Weigh the round against the budget before the cache is opened; `_reserve` weighs it again under the lock."""
    again = site.ledger.booked(plan.digest, step.number, weights)
    _permit(site, plan, () if again else step.events, site.ledger.bookings(), patients=None)


def _permit(
    site: Site, plan: StudyPlan, events: Sequence[GaussianEvent], booked: Bookings, *, patients: int | None
) -> None:
    """Weigh `events` on top of what is booked against plan and policy; none weighs what is booked alone."""
    if site.simulated and not plan.privacy.enabled:
        return
    spent = policy.Spent.of(site.home, plan, booked)
    after = policy.Spent.of(site.home, plan, booked, extra=events)
    policy.permit(site.policy, plan, patients=patients, spent=spent, after=after)


def _refuse_rollback(site: Site, request: TrainRequest | EvaluateRequest) -> None:
    """Compare the ledger with the last reply that left this site, as the site and as the server remember it."""
    if not re.fullmatch(r"[0-9a-f]{64}|", request.last_head):
        raise MessageRefused("train.last_head is not the hash of a ledger row")
    _refuse_copy(site)
    site.ledger.require(egress.last_head(site.home))
    site.ledger.require(request.last_head)


def _refuse_copy(site: Site) -> None:
    """Refuse to be a second copy of a hospital: two ledgers of the same patients would each show half."""
    if not site.simulated:
        place.require(site.home)


def _refuse_without_noise(site: Site, plan: StudyPlan) -> None:
    if not plan.privacy.enabled and not site.simulated:
        raise PlanRefused(f"plan {plan.name!r} trains without noise; only a simulation may")


def _compute(site: Site, plan: StudyPlan, step: Round, weights: Weights, entry: Entry, number: int) -> Weights:
    """Run the mechanisms that are booked as `number`, under the key they were booked with."""
    random = site.random(plan.digest, step.number, entry.request, key=_key(site, plan, entry, number))
    site.use_threads()
    work = Work(
        plan=plan,
        step=step,
        weights=weights,
        cohort=site.cohort(plan),
        random=random,
        home=site.home,
        device=site.device(),
        divisor_patients=site.policy.declared_patients or plan.data.min_patients,
    )
    return compute(work)
