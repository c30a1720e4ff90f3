"""What a hospital does with a request, in the order that keeps its promise: permit, reserve, train, settle, seal."""

import logging

from client import egress, moments, policy, spool
from client.ingest import IngestSettings
from client.ledger import Entry
from client.site import Site
from client.trainer import PatientTrainer
from common.errors import CacheCorrupt, CohortTooSmall, LabelsError, PlanRefused
from common.messages import Hello, HelloReply, TrainReply, TrainRequest
from common.plan import StudyPlan
from common.privacy import GaussianEvent, epsilon
from common.schedule import Round
from common.vae import Vae, shapes
from common.weights import Weights, check, digest

log = logging.getLogger(__name__)


def greet(site: Site, request: Hello) -> HelloReply:
    """Say who this site is, once the plan is approved here and the cohort is one the plan admits.

    Raises:
        Refusal: The plan is not approved, or lies outside the policy.
        DataError: The cohort is too small or lacks one of the plan's labels.
    """
    plan = policy.approved_plan(site.home, request.plan)
    _refuse_without_noise(site, plan)
    check_cohort(site, plan)
    egress.record(site.home, kind="hello", payload=plan.digest, size=0, keys=["site"], entry=0)
    return HelloReply(plan=plan.digest, site=site.policy.name)


def train(site: Site, request: TrainRequest) -> TrainReply:
    """Answer one round. The plan, the noise and the steps are the site's own approved copy's, never the message's.

    Raises:
        Refusal: The site says no; nothing was read from a scan and the ledger is as it was.
        StateError: The cache or the ledger cannot be trusted.
    """
    plan = policy.approved_plan(site.home, request.plan)
    _refuse_without_noise(site, plan)
    check(request.arrays, shapes(plan), what="request")
    if (finished := spool.find(site.home, request)) is not None:
        log.info("round %d answered from the spool", request.round)
        return finished

    step = policy.round_of(plan, request.round)
    check_cohort(site, plan)
    entry = Entry(
        study=plan.name,
        plan=plan.digest,
        round=step.number,
        phase=step.phase,
        event=step.event,
        cohort=site.cache.identity,
    )
    number = _reserve(site, plan, entry)

    arrays = _compute(site, plan, step, request.arrays)

    site.ledger.settle(number, entry, reply_digest=digest(arrays))
    reply = egress.seal(
        site.home,
        site=site.policy.name,
        plan=plan,
        step=step,
        arrays=arrays,
        entry=number,
        epsilon=site.ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest),
        ledger_head=site.ledger.head(),
    )
    spool.keep(site.home, request, reply)
    log.info("round %d (%s) done, study epsilon %.3f", step.number, step.phase, reply.epsilon)
    return reply


def check_cohort(site: Site, plan: StudyPlan) -> None:
    """Refuse a cohort that was admitted by other settings, is too small, or lacks a label.

    Raises:
        CacheCorrupt: The cache was made with other settings than this plan's.
        CohortTooSmall: Fewer patients than the plan's minimum.
        LabelsError: A label of the plan that no patient has.
    """
    if site.cache.settings_digest != IngestSettings.from_plan(plan).digest:
        raise CacheCorrupt(
            "the cache was made for another plan's image form. Run `wardround site ingest` with this plan"
        )
    if site.cache.patients < plan.data.min_patients:
        raise CohortTooSmall(
            f"site {site.policy.name!r}: {site.cache.patients} patients, but plan {plan.name!r} asks for at least "
            f"{plan.data.min_patients}. Admit more, or agree on a smaller `data.min_patients`"
        )
    counts = site.cache.label_counts()
    if absent := [name for name, count in zip(plan.data.labels, counts, strict=False) if count == 0]:
        raise LabelsError(
            f"site {site.policy.name!r}: no patient has the label {absent[0]!r} of plan {plan.name!r}. "
            "Check labels.csv, or leave the label out of the plan"
        )


def _reserve(site: Site, plan: StudyPlan, entry: Entry) -> int:
    """Book the round if the policy lets it pass, judged by the ledger as it stands at that moment."""
    delta = plan.privacy.delta

    def permit(study: list[GaussianEvent], everything: list[GaussianEvent]) -> None:
        if site.simulated and not plan.privacy.enabled:
            return
        spent = (epsilon(study, delta=delta), epsilon(everything, delta=delta))
        after = (
            epsilon([*study, entry.event], delta=delta),
            epsilon([*everything, entry.event], delta=delta),
        )
        policy.permit(site.policy, plan, patients=site.cache.patients, spent=spent, after=after)

    return site.ledger.reserve(entry, permit=permit)


def _refuse_without_noise(site: Site, plan: StudyPlan) -> None:
    if not plan.privacy.enabled and not site.simulated:
        raise PlanRefused(f"plan {plan.name!r} trains without noise; only a simulation may")


def _compute(site: Site, plan: StudyPlan, step: Round, weights: Weights) -> Weights:
    """Run the booked mechanism and return what it releases."""
    site.use_threads()
    random = site.random(plan.digest, step.number, digest(weights))
    if step.phase != "sgd":
        return moments.release(plan, step, weights, site.cache, random)
    model = Vae(plan)
    model.load_arrays(weights)
    divisor = site.policy.declared_patients or plan.data.min_patients
    PatientTrainer(
        model,
        site.cache,
        plan=plan,
        event=step.event,
        random=random,
        divisor_patients=divisor,
        device=site.device(),
    ).run()
    trained = model.arrays()
    return {name: array for name, array in trained.items() if name in egress.allowed_shapes(plan, "sgd")}
