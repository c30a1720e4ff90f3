"""A pytest plugin that writes the CPU seconds of each test function, child processes included; see `tests/tiers.py`."""

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

LEAST_S = 1.0
"""Functions under this are not written."""
_SPENT: dict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-seconds", metavar="FILE", type=Path, help="write CPU seconds of each test function there")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    before = _cpu_s()
    result = yield
    _SPENT[item.nodeid.partition("[")[0]] += _cpu_s() - before
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("cpu_seconds")
    if path is not None:
        lines = [f"{spent:.1f}\t{test}" for test, spent in sorted(_SPENT.items()) if spent >= LEAST_S]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
