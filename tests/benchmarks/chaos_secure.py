"""Secure studies under random kills and message faults: no wrong sum, no second set, no under-count, no hang.

    python -m tests.benchmarks.chaos_secure [--faults 500] [--seed 1]

Whole studies of four hospitals (c = 1, d = 1) run in this process, by the very apps, until enough faults have struck.
A hospital is killed before or after any write to its disk, or before or after its answer. The coordinator is killed
around each of its own writes. A message is dropped, repeated, answered with an older answer of any hospital, or has a
bit flipped on its way. After each stop the study is resumed, as an operator does.

Printed: faults by kind, and whether each opened sum was exactly the members' integers and noise. Exit code 1 if a sum
was wrong, a hospital signed two sets, a set of masked numbers was not booked, or a study did not end.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

import client.app
import client.egress.spool
import client.secure.session
from client.secure.session import Session
from common.errors import WardroundError
from common.host import files
from common.plan.schedule import schedule
from common.secure.masks import Words
from deploy.simulation.local_grid import LocalGrid
from server.aggregation.masked_sum import MaskedSum
from server.protocol import rounds
from server.protocol.exchange import Exchange
from server.study.attempts import AttemptFiles
from server.study.study import Study
from tests.deploy.secure_study import World, plan_text

MOST_RESUMES = 60
RATE = 0.12
"""Chance of a fault at each message, and at each of the coordinator's writes."""


class Killed(BaseException):
    """A process that ends here; no handler of the product sees it."""


class Chaos:
    """Decides which fault strikes, and keeps what must hold.

    Args:
        seed: Of the faults.
    """

    def __init__(self, seed: int) -> None:
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.struck: Counter[str] = Counter()
        self.answers: list[RecordDict] = []
        self.sets: dict[tuple[str, int], set[str]] = {}
        self.armed: dict[int, tuple[int, bool]] = {}
        self.wrong = 0

    def strikes(self, *kinds: str) -> str:
        """The kind of fault that strikes now, "" for none."""
        with self._lock:
            if self._random.random() >= RATE:
                return ""
            kind = self._random.choice(kinds)
            self.struck[kind] += 1
            return kind

    def pick(self, count: int) -> int:
        with self._lock:
            return self._random.randrange(count)

    def answer(self, message: Message, context: Context) -> Message:
        """The hospital's app under fire."""
        if message.content["message"]["kind"] == "hello":
            return client.app.app(message=message, context=context)
        kind = self.strikes("killed before", "killed at a write", "killed after", "repeated", "older answer",
                            "flipped request", "flipped answer")  # fmt: skip
        if kind == "killed before":
            raise RuntimeError(kind)
        if kind == "killed at a write":
            self.armed[threading.get_ident()] = (self.pick(4), bool(self.pick(2)))
        if kind == "flipped request":
            self.flip(message.content)
        try:
            reply = client.app.app(message=message, context=context)
            if kind == "repeated":
                reply = client.app.app(message=message, context=context)
        except Killed as error:
            raise RuntimeError(kind) from error
        finally:
            self.armed.pop(threading.get_ident(), None)
        if kind == "killed after":
            raise RuntimeError(kind)
        self.answers.append(reply.content)
        if kind == "flipped answer":
            self.flip(reply.content)
        if kind == "older answer":
            return Message(self.answers[self.pick(len(self.answers))], reply_to=message)
        return reply

    def flip(self, record: RecordDict) -> None:
        """Flip a bit of one field of bytes, or of the arrays."""
        fields: dict[str, Any] = dict(record["message"])
        names = [name for name, value in fields.items() if isinstance(value, bytes) and value]
        if names:
            name = names[self.pick(len(names))]
            changed = bytearray(fields[name])
            changed[self.pick(len(changed))] ^= 1 << self.pick(8)
            record["message"] = ConfigRecord({**fields, name: bytes(changed)})

    def write(self, path: Path, content: bytes, *, mode: int | None = None) -> None:
        """A write to a hospital's disk, which its process may not survive."""
        left, before = self.armed.get(threading.get_ident(), (-1, False))
        if left == 0 and before:
            raise Killed
        files.write_atomically(path, content, mode=mode)
        if left == 0:
            raise Killed
        if left > 0:
            self.armed[threading.get_ident()] = (left - 1, before)

    def confirmed(self, session: Session, data: bytes) -> None:
        """Note a set that was signed."""
        with self._lock:
            key = (str(session._path), 0)
            self.sets.setdefault(key, set()).add(data.hex())


def main() -> int:
    """Run studies until enough faults have struck."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    chaos, studies, opened, under, hung, spent = Chaos(chosen.seed), 0, 0, 0, 0, 0
    patch(chaos)
    while chaos.struck.total() < chosen.faults:
        with tempfile.TemporaryDirectory() as folder:
            found = one_study(chaos, Path(folder))
        studies += 1
        opened, under, hung, spent = (a + b for a, b in zip((opened, under, hung, spent), found, strict=True))
    second = sum(len(signed) > 1 for signed in chaos.sets.values())
    for kind, times in sorted(chaos.struck.items()):
        print(f"{times:5}  {kind}")
    total = chaos.struck.total()
    print(f"{total} faults in {studies} studies, {opened} sums opened, {spent} studies ended for lack of spare rounds")
    print(f"{chaos.wrong} wrong sums, {second} second sets, {under} under-counts, {hung} hangs")
    return 1 if chaos.wrong or second or under or hung else 0


def patch(chaos: Chaos) -> None:
    """Put the faults between the product and its disks."""
    keep, confirm = AttemptFiles.keep, Session.confirm

    def kept(self: AttemptFiles, name: str, tables: Any) -> None:
        kind = chaos.strikes("coordinator killed before a write", "coordinator killed after a write")
        if kind.endswith("before a write"):
            raise Killed
        keep(self, name, tables)
        if kind:
            raise Killed

    def confirmed(self: Session, data: bytes) -> bytes:
        signature = confirm(self, data)
        chaos.confirmed(self, data)
        return signature

    client.secure.session.write_atomically = chaos.write
    AttemptFiles.keep = kept  # type: ignore[method-assign]
    Session.confirm = confirmed  # type: ignore[method-assign]


def one_study(chaos: Chaos, folder: Path) -> tuple[int, int, int, int]:
    """Run one study to its end; returns sums opened, under-counts, hangs, and whether it ran out of spare rounds."""
    world = World.make(folder, plan_text(4, 1, 1, spare=6), patients=150)
    opened: list[int] = []
    take = MaskedSum.opened

    def checked(self: MaskedSum, clear: Words) -> None:
        opened.append(self.sites)
        members = [world.homes.index(home) for home in world.homes if home.name in current[-1].replied]
        if not (clear == world.expected(self._step.number, members, self._weights)).all():
            chaos.wrong += 1
        take(self, clear)

    current: list[Any] = []
    begin = rounds.SecureCollection.__init__

    def noted(self: Any, *arguments: Any) -> None:
        current.append(self)
        begin(self, *arguments)

    MaskedSum.opened = checked  # type: ignore[method-assign]
    rounds.SecureCollection.__init__ = noted  # type: ignore[method-assign]
    ended, spent, said = 0, 0, ""
    try:
        for _ in range(MOST_RESUMES):
            try:
                if run(chaos, world):
                    ended = 1
                    break
            except (Killed, WardroundError) as error:
                said = str(error)
                if "BudgetExhausted" in said:
                    spent = ended = 1
                    break
        else:
            print(f"a study did not end: {said}")
    finally:
        MaskedSum.opened = take  # type: ignore[method-assign]
        rounds.SecureCollection.__init__ = begin  # type: ignore[method-assign]
    return len(opened), under_counts(world), 1 - ended, spent


def run(chaos: Chaos, world: World) -> bool:
    """Run or resume the study; True once all rounds are done."""
    study = Study.resume(world.folder)
    config = {"run-dir": str(world.folder), "simulation": str(world.folder / "simulation.json")}
    grid = LocalGrid(chaos.answer, nodes=len(world.homes), run_config=config, workers=4)  # type: ignore[arg-type]
    try:
        rounds.run(study, Exchange(grid, poll_s=0.002))
    finally:
        grid.close()
    return len(study.records) == len(schedule(study.plan))


def under_counts(world: World) -> int:
    """Hospitals from which more different sets of masked numbers left than were booked."""
    few = 0
    for place, home in enumerate(world.homes):
        lines = (home / "egress.jsonl").read_text().splitlines()
        left = {json.loads(line)["payload"] for line in lines if '"train"' in line}
        few += len(left) > len(world.site(place).ledger.bookings().rows)
    return few


if __name__ == "__main__":
    sys.exit(main())
