"""Heavy files first, so that all workers end together; slow tests marked; and what many tests ask for."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if tiers.is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: tiers.order(item.nodeid.partition("::")[0]))


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the test's own; on the disk for a test that is about disks, wherever the others lie."""
    if not request.node.nodeid.startswith(tiers.ON_DISK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="wardround-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: the same kernels in every run, and small models only lose time to a second."""
    import torch  # not where a test without it is collected

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
