"""The hospital's Flower ClientApp: the same object in a daemon, in Flower's simulation and in-process.

The site's own start-up configuration decides here which hospital it acts for; the server never does. A daemon is
started with `site-home` in its node configuration. Flower's simulation engine gives every node a `partition-id`
instead. Only the second kind reads the run's configuration, and only there can a seed exist.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import hospital
from client.egress.refusals import reason_of, refused
from client.secure import legs
from client.site.site import Site
from common.errors import MessageRefused, PlanRefused, SeedRefused, WardroundError
from common.simulation import SimulationSetup
from common.wire.messages import About, EvaluateRequest, Hello, Refused, Reply, TrainRequest, WireMessage, is_of
from common.wire.secure_messages import ConfirmRequest, KeyRequest, MaskedRequest, RevealRequest, SecureReply

log = logging.getLogger(__name__)

app = ClientApp()
_Question = TypeVar(
    "_Question", Hello, About, TrainRequest, EvaluateRequest, MaskedRequest, KeyRequest, ConfirmRequest, RevealRequest
)


@app.query()  # type: ignore[untyped-decorator]
def query(message: Message, context: Context) -> Message:
    """Answer a `Hello` with the site's name, an `About` with its settings, or a refusal by type."""
    if _asks(message, About):
        return _answer(message, context, About, hospital.about)
    return _answer(message, context, Hello, hospital.greet)


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Answer a `TrainRequest` with a sealed reply, another leg of a secure round with its own, or a refusal by type."""
    if _asks(message, KeyRequest):
        return _answer(message, context, KeyRequest, legs.give_key)
    if _asks(message, ConfirmRequest):
        return _answer(message, context, ConfirmRequest, legs.confirm)
    if _asks(message, RevealRequest):
        return _answer(message, context, RevealRequest, legs.reveal)
    if _asks(message, MaskedRequest):
        return _answer(message, context, MaskedRequest, hospital.train)
    return _answer(message, context, TrainRequest, hospital.train)


@app.evaluate()  # type: ignore[untyped-decorator]
def evaluate(message: Message, context: Context) -> Message:
    """Answer an `EvaluateRequest` with a signed verdict, or a refusal by type."""
    return _answer(message, context, EvaluateRequest, hospital.evaluate)


def _asks(message: Message, kind: type[WireMessage]) -> bool:
    """Whether a message says that it is of this kind; one without content is of none, and is refused by `_answer`."""
    try:
        return is_of(message.content, kind)
    except Exception:  # noqa: BLE001 - an error in place of content, which Flower raises for in several ways
        return False


def _answer(
    message: Message, context: Context, kind: type[_Question], respond: Callable[[Site, _Question], Reply | SecureReply]
) -> Message:
    """Run the request at the site. On any failure, only the type of a deliberate error leaves."""
    site: Site | None = None
    plan = ""
    try:
        site = open_site(context)
        request = kind.from_record(message.content)
        plan = request.plan
        content = respond(site, request).to_record()
    except WardroundError as error:
        log.warning("refused: %s: %s", type(error).__name__, error)
        content = _refusal(context, site, plan, reason_of(error))
    except Exception as error:
        log.exception("failed")
        content = _refusal(context, site, plan, "LimitExceeded" if _out_of_memory(error) else "WardroundError")
    return Message(content, reply_to=message)


def _out_of_memory(error: Exception) -> bool:
    """Whether the hospital's memory limit was met; PyTorch says so on a CPU by the text of a RuntimeError alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _refusal(context: Context, site: Site | None, plan: str, reason: str) -> RecordDict:
    """A refusal that is in the site's egress log, whether or not the site could be opened."""
    known, name = plan if len(plan) == 64 else "", site.policy.name if site else ""
    home = site.home if site else context.node_config.get("site-home")
    if home is None:  # of no hospital at all, so there is no log it could be in
        return Refused(plan=known, site="", reason=reason).to_record()
    return refused(Path(str(home)), reason=reason, plan=known, site=name).to_record()


def open_site(context: Context) -> Site:
    """Open the hospital this process acts for.

    Raises:
        SeedRefused: A site daemon was sent a simulation's configuration.
        PlanRefused: The node is neither a daemon nor part of a simulation.
    """
    home = context.node_config.get("site-home")
    if home is not None:
        if asked := sorted({"simulation", "seed"} & set(context.run_config) - _empty(context)):
            raise SeedRefused(
                f"the run asks for {asked[0]!r}, which exists in simulation only; a hospital uses OS randomness"
            )
        return Site.open(Path(str(home)))
    if set(context.node_config) != {"partition-id", "num-partitions"}:
        raise PlanRefused("this node has no `site-home` in its node configuration and is not part of a simulation")
    setup = SimulationSetup.load(Path(str(context.run_config.get("simulation", ""))))
    index = int(context.node_config["partition-id"])
    if not 0 <= index < len(setup.homes):
        raise MessageRefused(
            f"the simulation has {len(setup.homes)} sites, not {index + 1}. Start it with as many nodes"
        )
    return Site.open(setup.homes[index], simulation_seed=setup.seed)


def _empty(context: Context) -> set[str]:
    """Keys of the run configuration that are there but say nothing."""
    return {key for key, value in context.run_config.items() if value == ""}
