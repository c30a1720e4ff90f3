"""The protocol of a study: invite, then for each round collect until quorum and deadline, join, score, save."""

import logging
from collections.abc import Callable

from common.errors import QuorumLost
from common.model.weights import digest
from common.plan.schedule import Round, schedule
from server.aggregation import strategies
from server.mechanism import half
from server.model import public_directions, scores, warm
from server.protocol.collection import Collection
from server.protocol.exchange import Exchange
from server.protocol.roster import LATE, Roster, in_words
from server.protocol.secure_collection import SecureCollection
from server.study.study import RoundRecord, Study

log = logging.getLogger(__name__)


def run(study: Study, exchange: Exchange, *, on_round: Callable[[RoundRecord], None] = lambda _: None) -> None:
    """Bring `study` to the end of its plan, from wherever its last checkpoint is.

    Args:
        study: The study; its folder is kept up to date after every round.
        exchange: The way to the sites.
        on_round: Called after each round is saved.

    Raises:
        QuorumLost: Fewer sites than the plan's quorum answered; the study can be resumed.
        PlanError: The public images of the plan's warm-up are not there, or a phase has no half here.
        StudyStopped: The sites' releases cannot carry a model, or the server's strategy has left the finite numbers.
    """
    todo = schedule(study.plan)[study.completed :]
    if not todo:
        return
    half.require(todo)
    warmed_after = warm.after(study.plan)
    if study.completed == 0:
        study.weights = public_directions.with_directions(study.plan, study.folder, study.weights)
    if study.completed == 0 == warmed_after:
        study.weights = warm.before_the_first_round(study.plan, study.folder, study.weights)
    roster = Roster(study, exchange)
    roster.invite()
    for step in todo:
        began = exchange.now()
        collection = _collect(study, exchange, roster, step)
        total = collection.join()
        readings = half.readings(step, total)
        weights, memory = strategies.advance(
            study.plan,
            step.phase,
            before=study.weights,
            average=half.half_of(step.phase).absorb(half.Case.of_site(study.plan, step, study.weights), total),
            memory=study.memory,
            rounds=study.gradient_rounds,
        )
        if step.number == warmed_after:
            weights = warm.up(study.plan, study.folder, weights)
        record = RoundRecord(
            number=step.number,
            phase=step.phase,
            replied=dict(sorted(collection.replied.items())),
            missing=_missing(roster, collection),
            utility=scores.utility(study.plan, strategies.released(weights, memory)),
            weights=digest(weights),
            readings=readings,
            seconds=round(exchange.now() - began, 3),
        )
        study.save(record, weights, memory)
        collection.close()
        log.info(
            "round %d of %d (%s): %d sites, utility %.4f",
            step.number,
            len(schedule(study.plan)),
            step.phase,
            len(record.replied),
            record.utility,
        )
        on_round(record)


def _missing(roster: Roster, collection: Collection | SecureCollection) -> dict[str, str]:
    """Reason by name for every site that is known and not in the round."""
    late = dict.fromkeys(roster.sites.values(), LATE)
    missing = {**late, **roster.absent(), **collection.missing}
    return {name: why for name, why in sorted(missing.items()) if name not in collection.replied}


def _collect(study: Study, exchange: Exchange, roster: Roster, step: Round) -> Collection | SecureCollection:
    """Ask for one round, and again while too few have replied."""
    rules = study.plan.aggregation
    if rules.secure:
        secure = SecureCollection(study, exchange, roster, step)
        secure.collect()
        return secure
    collection = Collection(study, exchange, roster, step)
    for _ in range(1 + rules.retries):
        collection.attempt()
        if collection.quorum():
            return collection
        log.warning("round %d: %d replies, quorum %d", step.number, len(collection.replied), rules.min_sites)
    raise QuorumLost(
        f"study {study.plan.name!r}: round {step.number} got {len(collection.replied)} usable replies, its quorum is "
        f"{rules.min_sites}{in_words(collection.missing)}. {study.completed} rounds are saved; mend those sites, then "
        "resume"
    )
