"""Fixtures that are dear to make: the hospitals, and one finished run on them."""

import shutil
from pathlib import Path

import pytest

from deploy.simulation.simulate import prepare, start
from tests.deploy import hospitals


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    return hospitals.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def prepared(tiny: tuple[Path, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of seed 5 that was not started; a test takes a copy."""
    plan, sites = tiny
    run = tmp_path_factory.mktemp("prepared") / "run"
    prepare(plan, sites, run, seed=5)
    return run


@pytest.fixture(scope="session")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that must not be changed by a test."""
    run = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("finished") / "run"))
    start(run)
    return run
