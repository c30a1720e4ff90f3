"""`wardround release`: from a finished run to the signed bundle that a stranger can draw images from."""

import json
from pathlib import Path
from typing import Any

from client.evaluation.judge import FOLDER
from common.bundle import Bundle
from common.errors import StateError, StudyStopped
from common.schedule import schedule
from common.simulation import SimulationSetup
from deploy.drafts import whole_folder
from deploy.simulate import SETUP
from server import gate
from server.release import publish
from server.study import Study

NOTICE = "Raw figures, shown because this is a simulation on public data; between hospitals they stay at the site."


def release(run: Path, out: Path) -> Bundle:
    """Make the bundle of a finished run: whole or not at all.

    Args:
        run: Folder of a study whose rounds are all done.
        out: Folder to create; must be absent or empty.

    Returns:
        The bundle, read back and checked.

    Raises:
        StateError: The run is not finished, or cannot be read.
        VerdictMissing: A site has not judged the candidate.
        GateFailed: A site said no; the type is its reason.
        OutputInUse: `out` holds something.
    """
    study = Study.resume(run)
    if study.completed < len(schedule(study.plan)):
        raise StudyStopped(
            f"{run}: {study.completed} of {len(schedule(study.plan))} rounds are done. Resume the study first"
        )
    verdicts = gate.load(study)
    gate.require(study, verdicts)
    simulated = (run / SETUP).exists()
    with whole_folder(out) as draft:
        publish(
            study,
            simulated=simulated,
            verdicts=verdicts,
            out=draft,
            evaluation=site_figures(run, gate.candidate_of(study)) if simulated else None,
        )
    return Bundle.load(out)


def site_figures(run: Path, candidate: str) -> dict[str, Any]:
    """What the simulated sites computed about a candidate, marked as such; empty where nobody was set aside.

    Raises:
        StateError: A site's figures cannot be read.
    """
    found: dict[str, Any] = {}
    for home in SimulationSetup.load(run / SETUP).homes:
        path = home / FOLDER / candidate[:32] / "figures.json"
        if not path.exists():
            continue
        try:
            figures = json.loads(path.read_text())
            found[str(figures["site"])] = figures
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path}: cannot be read ({type(error).__name__}). Evaluate the candidate again"
            ) from error
    return {"notice": NOTICE, "sites": found} if found else {}
