"""Kill a hospital with SIGKILL at random moments, and count what its ledger forgot and which replies got lost.

    python -m tests.benchmarks.crash_ledger --kills 1000

Each trial is a real child process that answers a real request: permit, reserve, train, settle, store, and then writes
the reply into a pipe, which stands for the network. The parent waits until the child has come to a random stage,
lets a random part of the time pass that this stage takes undisturbed, and kills it; then it reads, from outside, what
the ledger says and what came through the pipe. A reply of which one byte arrived counts as released. The next child is
asked the same again, until the reply is whole.

Prints one JSON object; the exit code is 1 if a figure that must be 0 is not.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from client import hospital
from client.egress import spool
from client.ledger.ledger import Ledger
from client.site.site import Site
from common.accountant.accounting import epsilon
from common.model.weights import digest
from common.plan.schedule import schedule
from common.wire.messages import TrainRequest
from tests.client.hospitals import build_home, request, tiny_plan

PLAN = tiny_plan()
_PIECES, _SLOW_LINE_S = 16, 0.03
"""A reply goes out in so many pieces, over so many seconds: a line slow enough to be cut in the middle."""
_STAGES = {
    b"begun": "permitting",
    b"booked": "booked: training",
    b"settled": "settled: storing",
    b"stored": "stored: sealing",
    b"reply": "sending",
}
"""What a child says when it enters a stage, and the stage."""


@dataclass
class Figures:
    """What was counted.

    Attributes:
        kills: Children that died of SIGKILL.
        homes: Hospitals used up; each answers every round of the plan once.
        released: Replies of which at least one byte left.
        ledger_below_released: Looks at which the ledger showed less than what had been released; must be 0.
        finished_lost: Stored replies that came back with other bytes, or at a new cost; must be 0.
        two_outputs: Reservations under which two different replies left; must be 0.
        extra_bookings: Bookings beyond one for each round; 0 means that no crash cost a patient anything.
        stages: Where the children were when they died.
    """

    kills: int = 0
    homes: int = 0
    released: int = 0
    ledger_below_released: int = 0
    finished_lost: int = 0
    two_outputs: int = 0
    extra_bookings: int = 0
    stages: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        """Whether every figure that must be 0 is."""
        return not (self.ledger_below_released or self.finished_lost or self.two_outputs)


@dataclass
class Asked:
    """One request and what has been seen of its answers: digests stored, digests of which a byte arrived."""

    question: TrainRequest
    stored: set[str] = field(default_factory=set)
    arrived: set[str] = field(default_factory=set)
    whole: bool = False


def run(*, kills: int, seed: int, folder: Path, on_kill: Callable[[int], None] = lambda _: None) -> Figures:
    """Kill `kills` children and return the figures.

    Args:
        kills: Children to kill.
        seed: Of the moments; what the children do at them is up to the machine.
        folder: Where the hospitals are made.
        on_kill: Called with the number of kills so far.
    """
    torch.set_num_threads(1)
    moments, figures = random.Random(seed), Figures()
    template = build_home(folder / "template", PLAN)
    seconds = _undisturbed(template, folder / "undisturbed")
    while figures.kills < kills:
        home = folder / f"home-{figures.homes}"
        shutil.copytree(template, home)
        figures.homes += 1
        history: list[Asked] = []
        for step in schedule(PLAN):
            asked = Asked(question=request(PLAN, step.number))
            history.append(asked)
            while not asked.whole:
                word = moments.choice(list(_STAGES)) if figures.kills < kills else b""
                _trial(home, asked, figures, word, moments.uniform(0, 1.2 * seconds.get(word, 0.0)))
                _look(home, history, figures)
                on_kill(figures.kills)
        figures.extra_bookings += len(Ledger(home / "ledger.sqlite").events()) - len(history)
        figures.released += sum(len(asked.arrived) for asked in history)
        shutil.rmtree(home)
    return figures


def _undisturbed(template: Path, home: Path) -> dict[bytes, float]:
    """Median seconds that each stage takes children that nobody kills."""
    shutil.copytree(template, home)
    for step in schedule(PLAN):  # in this process first, so that every child starts with the accountant's results
        hospital.train(Site.open(home), request(PLAN, step.number))
    shutil.rmtree(home)
    shutil.copytree(template, home)
    runs = [_trial(home, Asked(question=request(PLAN, step.number)), Figures(), b"", 0.0) for step in schedule(PLAN)]
    ends = [*list(_STAGES)[1:], b"end"]
    return {
        word: statistics.median(heard[end] - heard[word] for heard in runs)
        for word, end in zip(_STAGES, ends, strict=True)
    }


def _trial(home: Path, asked: Asked, figures: Figures, word: bytes, wait: float) -> dict[bytes, float]:
    """Let one child answer; kill it `wait` seconds after it has said `word` (never, if that is empty).

    Returns:
        When each word was heard, and "end" when the child fell silent; seconds of the monotonic clock.
    """
    inward, outward = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(inward)
        with os.fdopen(outward, "wb", buffering=0) as wire:
            _answer(home, asked.question, wire)
    os.close(outward)
    said, heard, doomed = b"", dict[bytes, float](), bool(word)
    while piece := os.read(inward, 65536):
        said += piece
        now = time.monotonic()
        heard |= {known: now for known in _STAGES if known in said and known not in heard}
        if doomed and word in heard:
            doomed = False
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)
    heard[b"end"] = time.monotonic()
    os.close(inward)
    _, status = os.waitpid(child, 0)
    stage = _read(said, asked, figures)
    if os.WIFSIGNALED(status):
        figures.kills += 1
        figures.stages[stage] += 1
    elif os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"a child failed by itself at {stage!r}")
    return heard


def _answer(home: Path, question: TrainRequest, wire: BinaryIO) -> None:
    """In the child: answer, say on the wire how far it has come, send the reply, and exit."""
    code = 1
    try:
        wire.write(b"begun\n")
        _say_after(hospital, "_reserve", wire, lambda _: b"booked")
        _say_after(Ledger, "settle", wire, lambda _: b"settled")
        _say_after(spool, "keep", wire, lambda call: b"stored " + digest(call[2].answer.arrays).encode())
        reply = hospital.train(Site.open(home), question)
        payload = b"".join(array.tobytes() for array in reply.arrays.values())
        wire.write(b"reply " + digest(reply.arrays).encode() + b" " + str(len(payload)).encode() + b"\n")
        piece = -(-len(payload) // _PIECES)
        for first in range(0, len(payload), piece):
            wire.write(payload[first : first + piece])
            time.sleep(_SLOW_LINE_S / _PIECES)
        code = 0
    finally:
        os._exit(code)


def _say_after(owner: Any, name: str, wire: BinaryIO, what: Callable[[tuple[Any, ...]], bytes]) -> None:
    function = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        wire.write(what(args) + b"\n")
        return result

    setattr(owner, name, call)


def _read(said: bytes, asked: Asked, figures: Figures) -> str:
    """Take in what came through the wire; return the stage the child had reached."""
    stage = _STAGES[b"begun"]
    while said:
        line, _, said = said.partition(b"\n")
        word, *rest = line.split()
        stage = _STAGES[word]
        if word == b"stored":
            asked.stored.add(rest[0].decode())
        elif word == b"reply":
            figures.finished_lost += int(bool(asked.stored) and rest[0].decode() not in asked.stored)
            if said:
                asked.arrived.add(rest[0].decode())
            asked.whole = len(said) == int(rest[1])
            break
    return stage


def _look(home: Path, history: list[Asked], figures: Figures) -> None:
    """Compare the ledger, opened afresh, with what has been released."""
    ledger = Ledger(home / "ledger.sqlite")
    rows = ledger.rows()
    settled = {row.note.partition(":")[2] for row in rows if row.kind == "settle"}
    rounds = Counter(row.round for row in rows if row.kind == "reserve")
    out = [asked for asked in history if asked.arrived]
    events = [schedule(PLAN)[asked.question.round - 1].event for asked in out]
    enough = ledger.epsilon(delta=PLAN.privacy.delta) >= epsilon(events, delta=PLAN.privacy.delta)
    paid = all(asked.arrived <= settled and rounds[asked.question.round] >= len(asked.arrived) for asked in out)
    figures.ledger_below_released += int(not (enough and paid))
    figures.two_outputs += sum(len(asked.arrived) > 1 or len(asked.stored) > 1 for asked in history)
    figures.finished_lost += sum(bool(a.stored) and rounds[a.question.round] > 1 for a in history)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(kills=options.kills, seed=options.seed, folder=Path(folder))
    print(
        json.dumps({**vars(figures), "stages": dict(sorted(figures.stages.items())), "sound": figures.sound}, indent=1)
    )
    return 0 if figures.sound else 1


if __name__ == "__main__":
    sys.exit(main())
