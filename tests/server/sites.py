"""Scripted sites for tests of the protocol: they answer at once, over no network, and can be told to misbehave."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from common.mechanism import utility
from common.mechanism.moments import axes, triangle
from common.mechanism.registry import release_length
from common.model.array_table import PREFIX as START
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import (
    About,
    AboutReply,
    EvaluateRequest,
    Hello,
    HelloReply,
    TrainReply,
    TrainRequest,
    is_of,
)
from server.protocol.exchange import Exchange

PLAN = """
name = "tiny"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 10
[model]
latent = 3
channels = [4, 8]
base = 4
[training]
rounds = 2
local_steps = 2
[aggregation]
min_sites = 2
deadline_s = 5
retries = 1
"""
Values = NDArray[np.float64]
Asked = Hello | About | TrainRequest | EvaluateRequest
Fault = Callable[[Any, RecordDict], object]


def tiny_plan(extra: str = "") -> StudyPlan:
    return StudyPlan.parse(PLAN + extra)


def _mean(plan: StudyPlan, values: Values) -> None:
    values[plan.model.base**2 :] = 50 * plan.privacy.mean_clip


def _subspace(_plan: StudyPlan, values: Values) -> None:
    values[-1] = 25.0


def _of_classes(plan: StudyPlan, values: Values, *, energies: bool, count: float) -> None:
    rows = values.reshape(len(plan.data.labels), -1)
    rows[:, triangle(axes(plan)) : -1] *= energies
    rows[:, -1] = 12.5 * count


def _of_gaussians(plan: StudyPlan, values: Values, *, components: int) -> None:
    gaussians = len(plan.data.labels) * components
    values.reshape(gaussians, -1)[:, -1] = 25.0 / gaussians


COUNTS: dict[str, Callable[[StudyPlan, Values], None]] = {
    "mean": _mean,
    "subspace": _subspace,
    "means": lambda plan, values: _of_classes(plan, values, energies=True, count=plan.privacy.mean_clip),
    "scatters": lambda plan, values: _of_classes(plan, values, energies=False, count=1.0),
    "prior": lambda plan, values: _of_gaussians(plan, values, components=1),
    "centres": lambda plan, values: _of_gaussians(plan, values, components=plan.model.components),
    "mixture": lambda plan, values: _of_gaussians(plan, values, components=plan.model.components),
}
"""Puts what a release of 100 patients counts in its places, by phase; `tests/deploy/test_mechanisms.py` wants each."""


def honest_release(plan: StudyPlan, phase: str, seed: int) -> Weights:
    """A plausible release of 100 patients: small moments, counts in their places."""
    values = np.random.default_rng(seed).normal(size=release_length(plan, phase)) * 0.1
    COUNTS[phase](plan, values)
    return {"release": values.astype(np.float32)}


def ledger_head(site: str, number: int) -> str:
    """What a scripted site says its ledger ends in after a round."""
    return hashlib.sha256(f"{site} {number}".encode()).hexdigest()


def honest_reply(plan: StudyPlan, site: str, request: TrainRequest) -> TrainReply:
    step = schedule(plan)[request.round - 1]
    seed = sum(site.encode()) + step.number
    if step.trains:
        rng = np.random.default_rng(seed)
        arrays = {
            name: (array + 1e-3 * rng.normal(size=array.shape)).astype(np.float32)
            for name, array in sorted(request.arrays.items())
            if not name.startswith(START)
        }
        if step.rides:
            arrays[utility.NAME] = np.array([20.0, 100.0], np.float32)
    else:
        arrays = honest_release(plan, step.phase, seed)
    return TrainReply(
        plan=plan.digest,
        round=step.number,
        phase=step.phase,
        site=site,
        epsilon=step.epsilon_after,
        delta=plan.privacy.delta,
        ledger_head=ledger_head(site, step.number),
        arrays=arrays,
    )


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class Pending:
    node: int
    ready: float
    reply: Message


class ScriptedGrid(Grid):
    """Flower's Grid, played: node i+1 is site `names[i]`; `faults` change its answers, `away` takes it off the net.

    A fault returns the records to answer with, None for an app that raised, "silent" for no answer ever, "lost" for
    Flower's word that the node is gone, or (seconds, records) for an answer that takes that long.
    """

    def __init__(
        self,
        plan: StudyPlan,
        names: Sequence[str],
        faults: dict[str, Fault] | None = None,
        away: dict[str, list[tuple[float, float]]] | None = None,
        enrolled: dict[int, str] | None = None,
    ) -> None:
        self._plan, self._names, self._faults = plan, list(names), faults or {}
        self._away, self._enrolled = away or {}, enrolled or {}
        self.clock = Clock()
        self._began = self.clock.now()
        self._pending: dict[str, Pending] = {}
        self.asked: list[tuple[str, int]] = []
        self.heads: list[tuple[str, str]] = []
        self.greeted: list[str] = []
        self.most_pulled = 0
        self._numbers = itertools.count()
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [node for node in range(1, len(self._names) + 1) if self._spell(node) is not None]

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, last_activated_at=f"{self._spell(node)}", name=self._enrolled.get(node, ""))
            for node in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            identifier = f"m{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = identifier
            node = message.metadata.dst_node_id
            question = self._question(message)
            name = self._names[node - 1]
            if isinstance(question, Hello):
                self.greeted.append(name)
                record = HelloReply(plan=self._plan.digest, site=name).to_record()
            elif isinstance(question, About):
                record = AboutReply(plan=self._plan.digest, site=name, text_searched="yes").to_record()
            elif isinstance(question, EvaluateRequest):
                self.heads.append((name, question.last_head))
                record = RecordDict()  # it judges nothing; a fault may say what it answers
            else:
                self.asked.append((name, question.round))
                self.heads.append((name, question.last_head))
                record = honest_reply(self._plan, name, question).to_record()
            identifiers.append(identifier)
            fault = self._faults.get(name)
            self._answer(identifier, message, fault(question, record) if fault else record)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked_for = [i for i in message_ids if i in self._pending and self._pending[i].ready <= self.clock.now()]
        self.most_pulled = max(self.most_pulled, len(asked_for))
        return [self._pending.pop(i).reply for i in reversed(asked_for)]

    def _question(self, message: Message) -> Asked:
        if is_of(message.content, About):
            return About.from_record(message.content)
        kind = {"query": Hello, "evaluate": EvaluateRequest}.get(message.metadata.message_type, TrainRequest)
        return kind.from_record(message.content)  # type: ignore[no-any-return, attr-defined]

    def _answer(self, identifier: str, message: Message, answer: object) -> None:
        node, after = message.metadata.dst_node_id, 0.0
        if isinstance(answer, tuple):
            after, answer = answer
        if answer == "silent" or self._spell(node, after) != self._spell(node):
            return  # a node that goes away takes its task with it
        if answer is None or answer == "lost":
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION if answer is None else ErrorCode.NODE_UNAVAILABLE
            reply = Message(Error(code, "played"), reply_to=message)
        else:
            reply = Message(answer, reply_to=message)
        self._pending[identifier] = Pending(node, self.clock.now() + after, reply)

    def _spell(self, node: int, after: float = 0.0) -> int | None:
        """Which spell on the net the node is in at that time; None while it is away."""
        time, spell = self.clock.now() - self._began + after, 0
        for start, end in self._away.get(self._names[node - 1], []):
            if start <= time < end:
                return None
            spell += time >= end
        return spell


class ScriptedExchange(Exchange):
    """The real Exchange over a `ScriptedGrid` and its clock."""

    def __init__(
        self, plan: StudyPlan, names: Sequence[str], faults: dict[str, Fault] | None = None, **more: Any
    ) -> None:
        self.grid = ScriptedGrid(plan, names, faults, **more)
        super().__init__(self.grid, now=self.grid.clock.now, sleep=self.grid.clock.sleep)

    @property
    def asked(self) -> list[tuple[str, int]]:
        return self.grid.asked

    @property
    def heads(self) -> list[tuple[str, str]]:
        return self.grid.heads
