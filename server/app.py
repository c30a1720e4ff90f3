"""The coordinator's Flower ServerApp: the same object in deployment, in Flower's simulation and in-process."""

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import PlanError
from server import release, rounds
from server.exchange import Exchange
from server.study import Study

log = logging.getLogger(__name__)

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the study in the folder `run-dir` from its last checkpoint to its release."""
    config = context.run_config
    if not config.get("run-dir"):
        raise PlanError("no `run-dir` in the run configuration. Name the folder that holds the study's plan.toml")
    study = Study.resume(Path(str(config["run-dir"])))
    rounds.run(study, Exchange(grid))
    release.publish(study, simulated=bool(config.get("simulation")))
