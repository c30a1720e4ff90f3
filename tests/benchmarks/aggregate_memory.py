"""Peak memory of the coordinator's ServerApp while it averages many sites' updates, in models' worth.

    python -m tests.benchmarks.aggregate_memory [--sites 50]

Runs one gradient round through the real `server.protocol.collection` with a grid that puts each reply together from
pieces when it is pulled, as Flower does: over 20 MB of float32, packed as a hospital packs it. Printed: peak resident
memory above what the process held when the study had been opened, in units of one model (the global weights themselves
are held before and are not in the figure), and the same for a plain list of updates, which is what Flower's own
strategies keep.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from common.model.array_table import PREFIX as START
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from common.wire.messages import PACKED, TrainReply, pack
from server.protocol import collection as collecting
from server.protocol.exchange import Exchange
from server.protocol.roster import Roster
from server.study.study import Study
from tests.server.sites import ScriptedGrid, ledger_head

_PIECE = 512 * 1024
PLAN = """
name = "large"
[data]
image_size = 128
min_patients = 10
[model]
latent = 64
channels = [32, 64, 128]
[training]
rounds = 1
[privacy]
phases = ["sgd"]
[aggregation]
min_sites = 2
"""


class LazyGrid(ScriptedGrid):
    """Puts each training reply together from pieces when it is pulled, as Flower's grid does, and forgets it."""

    def __init__(self, plan: StudyPlan, names: list[str], weights: Weights) -> None:
        super().__init__(plan, names)
        self._train: dict[str, Any] = {}
        self._template(weights)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        batch = list(messages)
        if batch and batch[0].metadata.message_type == "query":
            return super().push_messages(batch)
        identifiers = [f"t{message.metadata.dst_node_id}" for message in batch]
        for identifier, message in zip(identifiers, batch, strict=True):
            message.metadata.__dict__["_message_id"] = identifier
            self._train[identifier] = message.metadata
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [i for i in message_ids if i in self._train]
        return [self._reply(self._train.pop(i)) for i in found] or super().pull_messages(message_ids)

    def _reply(self, asked: Any) -> Message:
        node = asked.dst_node_id
        pieces = [self._packed[start : start + _PIECE] for start in range(0, len(self._packed), _PIECE)]
        packed = Array(dtype="uint8", shape=(len(self._packed),), stype=self._stype, data=b"".join(pieces))
        name = self._names[node - 1]
        scalars = ConfigRecord({**self._scalars, "site": name, "ledger_head": ledger_head(name, 1)})
        content = RecordDict({"message": scalars, "arrays": ArrayRecord({PACKED: packed})})
        message = Message(content, dst_node_id=node, message_type="train")
        message.metadata.__dict__["_reply_to_message_id"] = f"t{node}"
        return message

    def _template(self, weights: Weights) -> None:
        """One honest reply as the hospitals' runners pack it; each site's is a copy under its own name."""
        step = schedule(self._plan)[0]
        reply = TrainReply(
            plan=self._plan.digest, round=1, phase=step.phase, site="", epsilon=step.epsilon_after,
            delta=self._plan.privacy.delta, ledger_head="",
            arrays={name: array for name, array in weights.items() if not name.startswith(START)},
        )  # fmt: skip
        record = pack(reply.to_record())
        self._scalars = dict(record["message"])
        self._packed, self._stype = record["arrays"][PACKED].data, record["arrays"][PACKED].stype


def resident(peak: bool = False) -> int:
    """Resident bytes of this process, now or at its highest since the last reset."""
    key = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def opened(folder: Path) -> Study:
    plan = StudyPlan.parse(PLAN)
    (folder / "plan.toml").write_text(PLAN)
    study = Study.begin(folder)
    assert study.plan == replace(plan)
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        study = opened(Path(folder))
        model = sum(array.nbytes for name, array in study.weights.items() if not name.startswith(START))
        names = [f"site-{number}" for number in range(arguments.sites)]
        exchange = Exchange(LazyGrid(study.plan, names, study.weights), poll_s=0.001)
        roster = Roster(study, exchange)
        roster.invite()
        before = resident()
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        round_ = collecting.Collection(study, exchange, roster, schedule(study.plan)[0])
        round_.attempt()
        study.weights = round_.join()
        assert len(round_.replied) == arguments.sites
        streaming = resident(peak=True) - before
    print(f"{arguments.sites} sites, updates of {model / 1e6:.1f} MB")
    print(f"peak above the start: {streaming / model:.2f} models' worth ({streaming / 1e6:.0f} MB)")
    print(f"a list of all updates alone would hold {arguments.sites:.2f}")
    sys.exit(0 if streaming < 5 * model else 1)


if __name__ == "__main__":
    main()
