"""Scripted sites for tests of the protocol: they answer at once, over no network, and can be told to misbehave."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from flwr.app import RecordDict

from common.messages import Hello, HelloReply, TrainReply, TrainRequest
from common.moments import release_length
from common.plan import StudyPlan
from common.schedule import schedule
from common.vae import START
from common.weights import Weights

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
Answer = RecordDict | None
Fault = Callable[[Hello | TrainRequest, RecordDict], Answer]


def tiny_plan(extra: str = "") -> StudyPlan:
    return StudyPlan.parse(PLAN + extra)


def honest_release(plan: StudyPlan, phase: str, seed: int) -> Weights:
    """A plausible release of 100 patients: small moments, counts in their places."""
    values = np.random.default_rng(seed).normal(size=release_length(plan, phase)) * 0.1  # type: ignore[arg-type]
    if phase == "mean":
        values[plan.model.base**2 :] = 50 * plan.privacy.mean_clip
    elif phase == "subspace":
        values[-1] = 25.0
    else:
        values.reshape(2, -1)[:, -1] = 12.5
    return {"release": values.astype(np.float32)}


def ledger_head(site: str, number: int) -> str:
    """What a scripted site says its ledger ends in after a round."""
    return hashlib.sha256(f"{site} {number}".encode()).hexdigest()


def honest_reply(plan: StudyPlan, site: str, request: TrainRequest) -> TrainReply:
    step = schedule(plan)[request.round - 1]
    seed = sum(site.encode()) + step.number
    if step.phase == "sgd":
        rng = np.random.default_rng(seed)
        arrays = {
            name: (array + 1e-3 * rng.normal(size=array.shape)).astype(np.float32)
            for name, array in sorted(request.arrays.items())
            if not name.startswith(START)
        }
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


class ScriptedExchange:
    """Stands where `server.exchange.Exchange` stands. Node i is site `names[i]`; `faults` change its answers."""

    def __init__(self, plan: StudyPlan, names: Sequence[str], faults: dict[str, Fault] | None = None) -> None:
        self._plan, self._names, self._faults = plan, list(names), faults or {}
        self.asked: list[tuple[str, int]] = []
        self.heads: list[tuple[str, str]] = []

    def nodes(self, *, at_least: int, wait_s: float) -> list[int]:
        assert at_least > 0
        assert wait_s > 0
        return list(range(len(self._names)))

    def ask(self, questions: Mapping[int, Hello | TrainRequest], *, deadline_s: float) -> Iterator[tuple[int, Answer]]:
        assert deadline_s == self._plan.aggregation.deadline_s
        for node in reversed(questions):
            name, question = self._names[node], questions[node]
            if isinstance(question, Hello):
                record = HelloReply(plan=self._plan.digest, site=name).to_record()
            else:
                self.asked.append((name, question.round))
                self.heads.append((name, question.last_head))
                record = honest_reply(self._plan, name, question).to_record()
            fault = self._faults.get(name)
            answer = fault(question, record) if fault else record
            if not (isinstance(answer, str) and answer == "silent"):
                yield node, answer
