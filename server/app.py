"""The coordinator's Flower ServerApp: the same object in deployment, in Flower's simulation and in-process."""

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from threadpoolctl import threadpool_limits

from common.errors import PlanError
from server.protocol import gate, rounds, settings
from server.protocol.exchange import Exchange
from server.study import progress, release, runs
from server.study.study import Study

log = logging.getLogger(__name__)

app = ServerApp()


def be_heard() -> None:
    """Say every round on stderr in Flower's own process, which keeps it as the run's log; nothing else set logging up.

    A library may have put a handler on the root logger there, but leaves its level at warnings.
    """
    ours = logging.getLogger("server")
    ours.setLevel(logging.INFO)
    if not ours.hasHandlers():
        ours.addHandler(logging.StreamHandler())


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the study in the folder `run-dir` from its last checkpoint to its release.

    However it ends, `server.study.progress` says so of the folder: only a study that was released is completed, one
    that lost its quorum is paused and can be resumed.
    """
    config = context.run_config
    if not config.get("simulation"):
        be_heard()
    if not config.get("run-dir"):
        raise PlanError("no `run-dir` in the run configuration. Name the folder that holds the study's plan.toml")
    # One BLAS thread: OpenBLAS takes its pool down when the process forks, which Ray does while this thread computes,
    # and a product that is under way then never ends. Seen as a hang in `flwr run`.
    folder = Path(str(config["run-dir"]))
    with threadpool_limits(limits=1, user_api="blas"), progress.watched(folder):
        if not config.get("simulation"):
            runs.note(folder, int(context.run_id))
        study = Study.resume(folder)
        rounds.run(study, Exchange(grid))
        verdicts = gate.collect(study, Exchange(grid))
        settings.ask(study, Exchange(grid))
        release.publish(study, verdicts=verdicts, simulated=bool(config.get("simulation")))
