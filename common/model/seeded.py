"""PyTorch's global generator, for one thread at a time: layers draw first weights from it, and dropout its masks.

A simulation runs several hospitals in threads of one process. Without this, a model that one of them builds would take
numbers out of the middle of another's, and what only the plan decides would depend on who ran next to whom.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Let no other thread build layers meanwhile; a thread that has its turn may take it again."""
    with _TURN:
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generator for a block that runs alone, and put its state back afterwards."""
    with alone():
        before = torch.random.get_rng_state()
        try:
            torch.manual_seed(seed)
            yield
        finally:
            torch.random.set_rng_state(before)
