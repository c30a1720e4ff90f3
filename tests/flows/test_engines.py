"""One study, three ways to run it: in-process, on Flower's engine, by `flwr run`; the same decoder each time.

These tests are also the contract with the private parts of Flower that `deploy.simulation.simulate` and
`deploy.simulation.local_grid` use.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from flwr.cli.build import build_fab_from_disk

from common.model.synthesis import Decoder
from deploy.simulation.simulate import FLOWER_APP, flower_command, prepare, start
from tests.deploy import hospitals

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], str]:
    """The plan, the hospitals and the digest of the in-process run's decoder."""
    folder = tmp_path_factory.mktemp("engines")
    plan, sites = hospitals.write(folder)
    patient = plan.read_text().replace("deadline_s = 120", "deadline_s = 900")
    plan.write_text(patient)  # a site that a busy machine makes late would make another decoder
    prepare(plan, sites, folder / "inprocess", seed=5)
    start(folder / "inprocess")
    return plan, sites, digest(folder / "inprocess")


def digest(run: Path) -> str:
    return Decoder.load(run / "decoder.safetensors").digest


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_flowers_engine_gives_the_same_decoder_as_the_in_process_one(
    study: tuple[Path, list[Path], str], tmp_path: Path
) -> None:
    plan, sites, expected = study
    arguments = [part for site in sites for part in ("--site", str(site))]
    done = subprocess.run(
        [BIN / "wardround", "simulate", plan, *arguments, "--out", tmp_path / "run", "--seed", "5", "--engine", "ray"],
        cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert all(len(record["replied"]) == 3 for record in card["rounds"]), "no site was late"
    assert digest(tmp_path / "run") == expected


@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    os.environ.get("WARDROUND_TEST_FLWR_RUN") != "1",
    reason="starts Flower's detached SuperLink on a fixed port; run by hand with WARDROUND_TEST_FLWR_RUN=1",
)
def test_flwr_run_on_the_shims_gives_the_same_decoder(study: tuple[Path, list[Path], str], tmp_path: Path) -> None:
    plan, sites, expected = study
    run = tmp_path / "run"
    prepare(plan, sites, run, seed=5)
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "flwr"), "PATH": f"{BIN}:{os.environ['PATH']}",
                   "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39217"}  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    command = flower_command(run).replace("deploy/flower_app", str(FLOWER_APP)).replace(" --stream", "")
    try:
        subprocess.run(command, shell=True, cwd=tmp_path / "elsewhere", env=environment, check=True, timeout=400,
                       capture_output=True)  # fmt: skip
        deadline = time.monotonic() + 900
        while not (run / "report.html").exists() and time.monotonic() < deadline and not failed(environment):
            time.sleep(2)
        assert digest(run) == expected
    finally:
        end_local_superlink(tmp_path / "flwr")


def failed(environment: dict[str, str]) -> bool:
    """Whether Flower says that the run has failed."""
    listing = subprocess.run(
        [BIN / "flwr", "list", "--format", "json"],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return "finished:failed" in listing.stdout


def end_local_superlink(home: Path) -> None:
    """`flwr run` leaves its SuperLink and SuperExec running; end exactly those, by their ids."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any("flower-superlink" in part for part in line) and any(str(home) in part for part in line):
            children = process.children(recursive=True)
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs([process, *children], timeout=20)
            for left in alive:
                left.kill()


def test_the_flower_bundle_holds_the_two_shims_and_no_code_of_ours() -> None:
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(FLOWER_APP))) as archive:
        names = {name for name in archive.namelist() if name.endswith(".py")}
        assert names == {"shims/__init__.py", "shims/client_app.py", "shims/server_app.py"}
        for name in names:
            assert len(archive.read(name).splitlines()) < 8
