"""`wardround release`: from a finished run to the signed bundle that a stranger can draw images from."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from client.cohort.image_blocks import gathered
from client.evaluation.fidelity import kernel, manifold
from client.evaluation.judge import FOLDER, candidate_of
from client.site.site import Site
from common.errors import StateError, StudyStopped
from common.images.encoder_lite import NAME, lite_features
from common.plan.schedule import schedule
from common.simulation import SimulationSetup
from common.wire.not_run import NotRun, not_run
from common.wire.release_bundle import Bundle
from deploy.release.drafts import require_free, whole_folder
from deploy.simulation.evidence import canary_audit, membership
from deploy.simulation.evidence_size import CANARIES, SHADOWS
from deploy.simulation.simulate import SETUP
from server.protocol import gate
from server.study.release import publish
from server.study.study import Study

SECOND_OPINION_IMAGES = 300
NOTICE = "Raw figures, shown because this is a simulation on public data; between hospitals they stay at the site."


def release(
    run: Path,
    out: Path,
    *,
    second_opinion: bool = False,
    canaries: int = CANARIES,
    shadows: int = SHADOWS,
    on_step: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Make the bundle of a finished run: whole or not at all.

    Args:
        run: Folder of a study whose rounds are all done.
        out: Folder to create; must be absent or empty.
        second_opinion: Compare the sets in EfficientNet-Lite0's features, too; of a gated simulation only.
        canaries: Artificial patients of the audit that a simulation's bundle shows; 0 for none.
        shadows: Shadow models of the membership attack that it shows; an even number, 0 for none.
        on_step: Called with a word when an experiment begins.

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
    require_free(out)
    if second_opinion and not simulated:
        raise StateError(f"{run}: a second opinion needs a simulation whose plan sets patients aside")
    evaluation = site_figures(run, gate.candidate_of(study)) if simulated else None
    audit = not_run(NotRun.NOT_SIMULATED)
    if simulated:
        setup = SimulationSetup.load(run / SETUP)
        on_step("canary audit")
        audit = canary_audit(study.plan, seed=setup.seed, canaries=canaries)
        if evaluation:
            on_step("membership inference")
            evaluation["membership"] = membership(study.plan, study.released, setup, shadows=shadows)
    if second_opinion:
        if not evaluation:
            raise StateError(f"{run}: a second opinion needs a simulation whose plan sets patients aside")
        _add_second_opinion(study, run, evaluation["sites"])
    with whole_folder(out) as draft:
        publish(
            study,
            simulated=simulated,
            verdicts=verdicts,
            out=draft,
            evaluation=evaluation,
            audit=audit,
        )
    return Bundle.load(out)


def site_figures(run: Path, candidate: str) -> dict[str, Any]:
    """What the simulated sites computed about a candidate, marked as such; empty if no patient was held out.

    Raises:
        StateError: A site's figures cannot be read.
    """
    found: dict[str, Any] = {}
    for home in SimulationSetup.load(run / SETUP).homes:
        path = home / FOLDER / candidate[:32] / "figures.json"
        if not path.exists():
            continue
        try:
            figures = json.loads(path.read_text(encoding="utf-8"))
            found[str(figures["site"])] = figures
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path}: cannot be read ({type(error).__name__}). Evaluate the candidate again"
            ) from error
    return {"notice": NOTICE, "sites": found} if found else {}


def _add_second_opinion(study: Study, run: Path, sites: dict[str, Any]) -> None:
    """Add "fidelity_lite" to each simulated site's figures: kernel distance and manifolds in other features."""
    setup = SimulationSetup.load(run / SETUP)
    candidate = candidate_of(study.plan, study.released)
    order = torch.randperm(len(candidate.images), generator=torch.Generator().manual_seed(0))[:SECOND_OPINION_IMAGES]
    synthetic = lite_features(candidate.images[order])
    for home in setup.homes:
        site = Site.open(home, simulation_seed=setup.seed)
        if site.policy.name not in sites:  # its figures could not be made; its log says why
            continue
        trained, held_out = (gathered(part, most=SECOND_OPINION_IMAGES) for part in site.cohorts(study.plan))
        real = lite_features(held_out.images)
        sites[site.policy.name]["fidelity_lite"] = {
            "name": NAME,
            **{
                name: {"kernel": kernel(real, other), **dataclasses.asdict(manifold(real, other))}
                for name, other in (("synthetic", synthetic), ("ceiling", lite_features(trained.images)))
            },
        }
