"""What a hospital does with a request, in the order that keeps its promise: permit, reserve, train, settle, seal.

Formal guarantee
    For any requests of a server, in any order: nothing is read from a scan before the approved plan, the policy and
    the ledger let the round pass. Nothing is computed before its cost is durably booked; nothing leaves that is not
    stored, settled and sealed, or that a patient is in who has withdrawn by then. A reply that is stored is sent again
    as it is. A round that a crash cut short is computed again from its own key, which is the same draw
    (`client.ledger.noise_key`). Anything else is a new booking.
"""

import logging
from abc import ABC, abstractmethod

from client import conditions
from client.admission.records import Admission
from client.admission.settings import looked_for_text
from client.cohort.cache import Cache
from client.cohort.forms import in_use
from client.cohort.held_out import VERDICT
from client.cohort.identity import SIGNING_KEY
from client.egress import egress, spool
from client.evaluation.judge import candidate_of, judge, tell_steward
from client.ledger import noise_key
from client.ledger.bookings import Bookings
from client.ledger.ledger import Entry
from client.ledger.sharing import Sharing
from client.mechanism import local_encoder
from client.mechanism.half import Work, compute, require, sum_half
from client.secure import legs
from client.site import policy
from client.site.site import Site
from common.errors import MessageRefused, PlanRefused, StateError
from common.model.array_table import shared_shapes
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
from common.wire.secure_messages import MaskedRequest
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
    plan = conditions.admitted(site, request.plan)
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
    plan = conditions.admitted(site, request.plan)
    check_cohort(site, plan)
    form = in_use(site.home, plan)
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
        StateError: The cache, the ledger or a stored reply cannot be trusted.
    """
    plan = _agreed(site, request)
    if plan.aggregation.secure != isinstance(request, MaskedRequest):
        raise MessageRefused(f"plan {plan.name!r}: the round was asked for in the form of another way to add up")
    task = _Training(site, plan, policy.round_of(plan, request.round), request)
    with site.alone():
        finished = _answered(task)
        assert isinstance(finished.answer, TrainReply)
        return egress.release(site.home, plan=plan, step=task.step, reply=finished.answer, entry=finished.entry)


def evaluate(site: Site, request: EvaluateRequest) -> Verdict:
    """Judge the finished model on this site's patients, the held-out ones first of all, and answer yes or no.

    The same road as a round. A verdict that is stored is sent again as it is, and only then are the steward's figures
    made, on which nothing that leaves may depend.

    Raises:
        Refusal: As in `train`.
        DataError: The model draws nothing that could be judged; nothing was booked.
        StateError: The cache, the ledger or a stored verdict cannot be trusted.
    """
    plan = _agreed(site, request)
    event = verdict_event(plan)
    if event is None:
        raise PlanRefused(f"plan {plan.name!r} sets no patient aside, so there is nothing to judge a model by")
    step = Round(number=len(schedule(plan)) + 1, phase=VERDICT, event=event, epsilon_after=0.0)
    with site.alone():
        finished = _answered(_Judging(site, plan, step, request))
        assert isinstance(finished.answer, Verdict)
        return egress.release_verdict(site.home, plan=plan, verdict=finished.answer, entry=finished.entry)


def _agreed(site: Site, request: spool.Request) -> StudyPlan:
    """The plan of a request, once the request's weights are that plan's."""
    plan = conditions.approved(site, request.plan)
    check(request.arrays, shared_shapes(plan), what="request")
    return plan


class _Task(ABC):
    """What one kind of request has of its own on the road that all take (`_answered`).

    Args:
        site: The hospital.
        plan: Its own approved copy.
        step: What is booked.
        request: What was asked.
    """

    def __init__(self, site: Site, plan: StudyPlan, step: Round, request: spool.Request) -> None:
        self.site, self.plan, self.step, self.request = site, plan, step, request
        self.weights, self.attempt = digest(request.arrays), spool.attempt_of(request)

    def key_name(self, cohort: str) -> str:
        """Name of the key of what is made on the request's weights and this data set."""
        return noise_key.name_of(self.plan.digest, self.step.number, self.weights, cohort, attempt=self.attempt)

    @abstractmethod
    def prepare(self) -> None:
        """Make ready what no scan enters, before anything is booked."""

    @abstractmethod
    def cohort(self) -> Cache:
        """Those whose budget is booked."""

    @abstractmethod
    def make(self, entry: Entry, key: bytes) -> str:
        """Compute what was reserved, by the key it was reserved with; returns its digest as the ledger notes it."""

    @abstractmethod
    def seal(self, *, epsilon: float, ledger_head: str) -> spool.Answer:
        """The answer that may be stored and sent."""

    @abstractmethod
    def stored(self) -> None:
        """Do what waits until a new answer is stored and its key is gone."""


def _answered(task: _Task) -> spool.Finished:
    """The stored answer to a task's request, or a new one: permit, reserve, make, settle, seal, store.

    What comes back may leave at this moment: its key is gone, its plan is approved, and each of its patients consents.
    """
    site, request = task.site, task.request
    conditions.refuse_rollback(site, request)
    kept = _stored(site, request)
    finished = kept or _made(task)
    noise_key.destroy(site.home, task.key_name(finished.cohort))
    if kept is None:
        task.stored()
    policy.approved_plan(site.home, request.plan)  # paused or left meanwhile: the answer stays in the spool
    site.ledger.require_consent(finished.cohort)
    return finished


def _stored(site: Site, request: spool.Request) -> spool.Finished | None:
    """What this very request already got, unless it is not what was settled, or holds a patient who withdrew since."""
    finished = spool.find(site.home, request)
    if finished is None or not _stands(site, finished):
        return None
    log.info("entry %d answers from the spool", finished.entry)
    return finished


def _stands(site: Site, finished: spool.Finished) -> bool:
    """Whether a stored answer is what its booking ended in, by this very ledger, and holds no withdrawn patient."""
    answer = finished.answer
    if not site.ledger.settled(
        finished.entry, plan=answer.plan, cohort=finished.cohort, reply_digest=finished.digest, head=answer.ledger_head
    ):
        log.warning("entry %d: the stored answer is not the one that was settled; it is not sent", finished.entry)
        return False
    if not site.ledger.consents(finished.cohort):
        log.info("entry %d: a patient withdrew since it was answered; it is computed anew", finished.entry)
        return False
    return True


def _made(task: _Task) -> spool.Finished:
    """Permit, reserve, make, settle, seal, store."""
    site, plan, step = task.site, task.plan, task.step
    _permit_unread(site, plan, step, task.weights)
    check_cohort(site, plan)
    task.prepare()
    entry = _entry(plan, step, task.cohort(), task.weights, attempt=task.attempt)
    name = task.key_name(entry.cohort)
    number = _reserve(site, plan, step, entry, name)

    made = task.make(entry, _key(site, plan, entry, name, number))

    site.ledger.settle(number, entry, reply_digest=made)
    spent = site.ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest)
    answer = task.seal(epsilon=spent, ledger_head=site.ledger.head())
    finished = spool.Finished(answer=answer, entry=number, cohort=entry.cohort)
    spool.keep(site.home, task.request, finished)
    log.info("round %d (%s) done, study epsilon %.3f", step.number, step.phase, spent)
    return finished


class _Training(_Task):
    """One round: what leaves is a noised sum or trained weights; an encoder may stay."""

    def prepare(self) -> None:
        """Only a round whose noise is shared needs something: a key book, and that nothing of it has left."""
        if isinstance(self.request, MaskedRequest):
            cohort = self.cohort().identity
            legs.begin(
                self.site, self.plan, self.request, weights=self.weights, cohort=cohort, key=self.key_name(cohort)
            )

    def cohort(self) -> Cache:
        return self.site.cohort(self.plan)

    def make(self, entry: Entry, key: bytes) -> str:
        made = _compute(self.site, self.plan, self.step, self.request.arrays, entry, key)
        leaves, self._encoder = local_encoder.apart(self.plan, made)
        assert isinstance(self.request, TrainRequest)
        self._arrays = sum_half(self.plan).sent(
            leaves, plan=self.plan, request=self.request, home=self.site.home, cohort=entry.cohort
        )
        return digest(self._arrays)

    def seal(self, *, epsilon: float, ledger_head: str) -> TrainReply:
        return egress.seal(
            site=self.site.policy.name,
            plan=self.plan,
            step=self.step,
            arrays=self._arrays,
            epsilon=epsilon,
            ledger_head=ledger_head,
        )

    def stored(self) -> None:
        if self._encoder:  # seen by later rounds from here on, so never again made by the same key
            local_encoder.keep(self.site.home, self.plan, self.step.number, self._encoder)


class _Judging(_Task):
    """The verdict on a candidate: what leaves is one signed outcome; the steward's figures stay."""

    def prepare(self) -> None:
        self.site.use_threads()
        self._candidate = candidate_of(self.plan, self.request.arrays)

    def cohort(self) -> Cache:
        return self.site.admitted(self.plan)

    def make(self, entry: Entry, key: bytes) -> str:
        random = self.site.random(self.plan.digest, self.step.number, entry.request, key=key)
        self._judgement = judge(self.site, self.plan, self._candidate, random)
        return self._judgement.candidate

    def seal(self, *, epsilon: float, ledger_head: str) -> Verdict:
        return signed(
            Key.at(self.site.home / SIGNING_KEY),
            plan=self.plan.digest,
            candidate=self._judgement.candidate,
            site=self.site.policy.name,
            outcome=self._judgement.outcome,
            epsilon=epsilon,
            delta=self.plan.privacy.delta,
            ledger_head=ledger_head,
        )

    def stored(self) -> None:
        tell_steward(self.site, self.plan, self._candidate, self._judgement.outcome)


def _entry(plan: StudyPlan, step: Round, cohort: Cache, weights: str, *, attempt: int) -> Entry:
    """What is booked for `step` on these patients and these weights; another attempt is another booking."""
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
        sharing=None if step.phase == VERDICT else Sharing.of(plan),
        attempt=attempt,
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


def _reserve(site: Site, plan: StudyPlan, step: Round, entry: Entry, name: str) -> int:
    """Book the round if the policy lets it pass, judged by the ledger as it stands at that moment.

    A round that a crash cut short is not booked again: its key is still there, so nothing of it was ever sent. It is
    taken up under the reservation that the key names, where that is of this very mechanism and the images are the same.
    """
    ledger, patients, generation = site.ledger, len(entry.patients), site.admitted(plan).generation
    kept = noise_key.kept(site.home, name)
    if kept is not None and kept.generation == generation and ledger.pays_for(kept.entry, entry):
        ledger.require_consent(entry.cohort)
        conditions.permit(site, plan, (), ledger.bookings(), patients=patients)
        log.info("round %d is taken up again under reservation %d", entry.round, kept.entry)
        return kept.entry

    def permit(booked: Bookings) -> None:
        conditions.permit(site, plan, step.events, booked, patients=patients, share=_share(plan, step))

    def prepare(number: int) -> None:
        noise_key.make(site.home, name, entry=number, generation=generation)

    return ledger.reserve(entry, permit=permit, prepare=prepare)


def _key(site: Site, plan: StudyPlan, entry: Entry, name: str, number: int) -> bytes:
    """The key that reservation `number` was booked with, for the images it was booked for."""
    kept = noise_key.kept(site.home, name)
    if kept is None or (kept.entry, kept.generation) != (number, site.admitted(plan).generation):
        raise StateError(f"{site.home}: the key of round {entry.round} is gone. Ask for the round again")
    return kept.key


def _permit_unread(site: Site, plan: StudyPlan, step: Round, weights: str) -> None:
    """Weigh the round against the budget before the cache is opened; `_reserve` weighs it again under the lock."""
    again = site.ledger.booked(plan.digest, step.number, weights)
    conditions.permit(
        site, plan, () if again else step.events, site.ledger.bookings(), patients=None, share=_share(plan, step)
    )


def _share(plan: StudyPlan, step: Round) -> float:
    """Deviation of the own noise over that which is booked; a verdict's noise is shared with no other site."""
    return 1.0 if step.phase == VERDICT else plan.aggregation.share


def _compute(site: Site, plan: StudyPlan, step: Round, weights: Weights, entry: Entry, key: bytes) -> Weights:
    """Run the mechanisms that are booked, under the key they were booked with."""
    random = site.random(plan.digest, step.number, entry.request, key=key)
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
