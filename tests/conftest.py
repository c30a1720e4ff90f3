"""Long journeys first, so that no worker is left alone with one at the end; and what many tests ask for."""

from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "tests/flows/" not in item.nodeid)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: the same kernels in every run, and small models only lose time to a second."""
    import torch  # not where a test without it is collected

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
