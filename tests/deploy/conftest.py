"""Fixtures that are dear to make: the hospitals, and one finished run on them."""

from pathlib import Path

import pytest

from deploy.simulation.simulate import prepare, start
from tests.deploy import hospitals


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    return hospitals.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(tiny: tuple[Path, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that must not be changed by a test."""
    plan, sites = tiny
    run = tmp_path_factory.mktemp("finished") / "run"
    prepare(plan, sites, run, seed=5)
    start(run)
    return run
