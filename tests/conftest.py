"""Heavy files first, so that all workers end together; slow tests marked; and what many tests ask for."""

from collections.abc import Iterator

import pytest

from tests import tiers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if tiers.is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: tiers.order(item.nodeid.partition("::")[0]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: the same kernels in every run, and small models only lose time to a second."""
    import torch  # not where a test without it is collected

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
