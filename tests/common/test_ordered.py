"""Results come in order, few of them ahead, whatever happens in the workers."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from common.host.ordered import in_order


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_results_come_in_the_order_of_the_items_though_later_ones_are_done_first() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item:
            first_may_end.set()
        else:
            assert first_may_end.wait(60)
        return item * item

    assert list(in_order(work, range(20), workers=2)) == [item * item for item in range(20)]


def test_of_an_endless_stream_few_items_are_taken_ahead_and_the_rest_never() -> None:
    taken = itertools.count()
    results = in_order(lambda item: item, taken, workers=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()  # type: ignore[attr-defined]
    assert next(taken) <= 5 + 3


def test_an_error_comes_where_its_result_would_have_come() -> None:
    results = in_order(lambda item: 1 // (2 - item), range(5), workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_workers_compute_with_one_thread_each_and_the_caller_keeps_its_own() -> None:
    def threads(_: int) -> tuple[int, str]:
        time.sleep(0.01)
        return torch.get_num_threads(), threading.current_thread().name

    seen = list(in_order(threads, range(8)))
    assert {number for number, _ in seen} == {1}
    assert {name.partition("_")[0] for _, name in seen} == {"in-order"}
    assert torch.get_num_threads() == 2


def test_with_one_worker_all_happens_in_the_callers_thread() -> None:
    torch.set_num_threads(1)
    names = set(in_order(lambda _: threading.current_thread().name, range(3)))
    assert names == {threading.current_thread().name}
