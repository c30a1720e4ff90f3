"""The protocol of a study: invite, then for each round ask, collect, check, aggregate, score, save."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common.errors import MessageRefused, QuorumLost
from common.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, read_reply
from common.schedule import Round, schedule
from common.weights import digest
from server import aggregate, scores
from server.exchange import Exchange
from server.study import Receipt, RoundRecord, Study

log = logging.getLogger(__name__)

SILENT, FAILED = "NoReply", "NodeFailed"
"""Reasons the server itself gives for a site that is missing; all others are error types."""

Sites = dict[int, str]


def run(study: Study, exchange: Exchange, *, on_round: Callable[[RoundRecord], None] = lambda _: None) -> None:
    """Bring `study` to the end of its plan, from wherever its last checkpoint is.

    Args:
        study: The study; its folder is kept up to date after every round.
        exchange: The way to the sites.
        on_round: Called after each round is saved.

    Raises:
        QuorumLost: Fewer sites than the plan's quorum answered; the study can be resumed.
        StudyStopped: The sites' releases cannot carry a model.
    """
    todo = schedule(study.plan)[study.completed :]
    if not todo:
        return
    sites, absent = invite(study, exchange)
    for step in todo:
        began = time.monotonic()
        replies, missing = _collect_quorum(study, exchange, step, sites)
        weights = aggregate.join(study.plan, step, study.weights, replies)
        record = RoundRecord(
            number=step.number,
            phase=step.phase,
            replied={site: _receipt(r) for site, r in sorted(replies.items())},
            missing={**absent, **missing},
            utility=scores.utility(study.plan, weights),
            weights=digest(weights),
            seconds=round(time.monotonic() - began, 3),
        )
        study.save(record, weights)
        log.info(
            "round %d of %d (%s): %d sites, utility %.4f",
            step.number,
            len(schedule(study.plan)),
            step.phase,
            len(replies),
            record.utility,
        )
        on_round(record)


def invite(study: Study, exchange: Exchange) -> tuple[Sites, dict[str, str]]:
    """Ask every connected node for its site's name.

    Returns:
        Name by node for the sites that can take part, and the reason by name for those that cannot.

    Raises:
        QuorumLost: Fewer than the plan's quorum can take part.
    """
    rules = study.plan.aggregation
    nodes = exchange.nodes(at_least=rules.min_sites, wait_s=rules.deadline_s)
    sites: Sites = {}
    absent: dict[str, str] = {}
    hello = Hello(plan=study.plan.digest)
    answers = dict(exchange.ask(dict.fromkeys(nodes, hello), deadline_s=rules.deadline_s))
    for node in nodes:
        name, reason = _read_hello(study, node, answers)
        if not reason and name in sites.values():
            name, reason = f"node-{node}", "DuplicateName"
        if reason:
            absent[name] = reason
        else:
            sites[node] = name
    if len(sites) < rules.min_sites:
        raise QuorumLost(
            f"study {study.plan.name!r} needs {rules.min_sites} sites; {len(sites)} of {len(nodes)} connected can "
            f"take part{_reasons(absent)}. Mend those sites, then resume"
        )
    return sites, absent


def _read_hello(study: Study, node: int, answers: dict[int, Any]) -> tuple[str, str]:
    """Name and reason of absence ("" for a site that takes part)."""
    unnamed = f"node-{node}"
    if node not in answers:
        return unnamed, SILENT
    if answers[node] is None:
        return unnamed, FAILED
    try:
        reply = read_reply(answers[node], HelloReply)
    except MessageRefused:
        return unnamed, MessageRefused.__name__
    if isinstance(reply, Refused):
        return reply.site or unnamed, reply.reason
    return (reply.site, "") if reply.plan == study.plan.digest else (unnamed, MessageRefused.__name__)


def _collect_quorum(
    study: Study, exchange: Exchange, step: Round, sites: Sites
) -> tuple[dict[str, TrainReply], dict[str, str]]:
    """Ask for one round, and again the sites that are missing while the quorum is; site by name, reason by name."""
    rules = study.plan.aggregation
    replies: dict[str, TrainReply] = {}
    missing: dict[str, str] = {}
    for _ in range(1 + rules.retries):
        waiting = {node: name for node, name in sites.items() if name not in replies}
        fresh, missing = _collect(study, exchange, step, waiting)
        replies |= fresh
        if len(replies) >= rules.min_sites:
            return replies, missing
        log.warning("round %d: %d replies, quorum %d", step.number, len(replies), rules.min_sites)
    raise QuorumLost(
        f"study {study.plan.name!r}: round {step.number} got {len(replies)} usable replies, its quorum is "
        f"{rules.min_sites}{_reasons(missing)}. {study.completed} rounds are saved; mend those sites, then resume"
    )


def _collect(
    study: Study, exchange: Exchange, step: Round, sites: Sites
) -> tuple[dict[str, TrainReply], dict[str, str]]:
    """Send the round's request and check each answer on its own: one bad reply costs that site the round, no more."""
    request = TrainRequest(plan=study.plan.digest, round=step.number, arrays=study.weights)
    requests = {node: replace(request, last_head=study.last_head(name)) for node, name in sites.items()}
    replies: dict[str, TrainReply] = {}
    missing = dict.fromkeys(sites.values(), SILENT)
    for node, answer in exchange.ask(requests, deadline_s=study.plan.aggregation.deadline_s):
        name = sites[node]
        if answer is None:
            missing[name] = FAILED
            continue
        try:
            reply = _checked(study, step, name, answer)
        except MessageRefused as error:
            log.warning("round %d: reply of %s quarantined: %s", step.number, name, error)
            missing[name] = MessageRefused.__name__
            continue
        if isinstance(reply, Refused):
            missing[name] = reply.reason
            continue
        replies[name] = reply
        del missing[name]
    return replies, missing


def _checked(study: Study, step: Round, name: str, answer: Any) -> TrainReply | Refused:
    reply = read_reply(answer, TrainReply)
    if isinstance(reply, TrainReply):
        if reply.site != name:
            raise MessageRefused("the reply names another site")
        aggregate.check_reply(study.plan, step, study.weights, reply)
    return reply


def _receipt(reply: TrainReply) -> Receipt:
    return Receipt(update=digest(reply.arrays), epsilon=reply.epsilon, ledger_head=reply.ledger_head)


def _reasons(missing: dict[str, str]) -> str:
    return f" ({', '.join(f'{name}: {reason}' for name, reason in sorted(missing.items()))})" if missing else ""
