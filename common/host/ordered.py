"""A bounded parallel map that keeps the order: the next results are computed while the last ones are used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int | None = None
) -> Iterator[_Result]:
    """Yield `function(item)` of each item in order, some items ahead of the consumer.

    Each worker computes with one thread of PyTorch, so whole batches run in parallel without waiting. One batch split
    over the cores waits at every layer, and waits long on a machine that has other work.

    Args:
        function: Called in a worker thread; must not depend on what other calls do.
        items: Taken in the caller's thread, `workers` + 1 ahead; may be endless.
        workers: Calls at once; None takes PyTorch's number of threads. With 1, all happens in the caller's thread.

    Raises:
        Exception: Any error that `items` or `function` raises, at the place where its result would have come.
    """
    threads = torch.get_num_threads()
    workers = threads if workers is None else workers
    if workers <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, "in-order", initializer=torch.set_num_threads, initargs=(1,))
    under_way: deque[Future[_Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a worker sets is also what threads to come would begin with
