"""Runs a study again and again, each time killed -9 at the next operation on the disk, and resumes it. See test_study.

Prints one line per kill: the operation, the rounds that were saved, and whether the resumed study ended the same.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.model.weights import digest
from server.model import scores
from server.protocol import rounds
from server.study.study import Study
from tests.server.sites import PLAN, ScriptedExchange

NAMES = ("hill", "north")
SHORT = PLAN.replace("rounds = 2", "rounds = 1\nema = 0.5").replace(
    "[aggregation]\n", '[aggregation]\nstrategy = "fedavgm"\n'
)
"""With a strategy and an average that remember something, so that every kind of file is there to be cut off."""


class Dying:
    """Counts operations on the disk and kills this process right before one of them."""

    def __init__(self, at: int) -> None:
        self.left = at

    def around(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return counted


def run(folder: Path) -> list[str]:
    study = Study.resume(folder)
    rounds.run(study, ScriptedExchange(study.plan, NAMES))
    return [*(record.weights for record in study.records), digest(study.released), digest(study.memory)]


def killed(folder: Path, at: int) -> bool:
    """Run in a child that dies at operation `at`; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        dying = Dying(at)
        os.fsync = dying.around(os.fsync)
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(Path, name, dying.around(getattr(Path, name)))
        run(folder)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(root: Path, step: int) -> None:
    torch.set_num_threads(1)
    scores.utility = lambda _plan, _weights: 0.5
    expected = None
    at = 1
    while True:
        folder = root / f"{at:04d}"
        folder.mkdir()
        (folder / "plan.toml").write_text(SHORT)
        if not killed(folder, at):
            break
        saved = len(list((folder / "checkpoints").glob("[0-9]*")))
        after = run(folder)
        expected = expected or after
        table = (folder / "rounds.csv").read_text().count("\n") - 1
        left = [path.name for path in (folder / "checkpoints").iterdir() if path.name.endswith(".draft")]
        print(at, saved, after == expected and table == len(after) - 2 and not left, flush=True)
        at += step


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
