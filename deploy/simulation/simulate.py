"""A study on one machine: site folders are made into hospitals, then the real ServerApp meets the real ClientApp."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from flwr.app import Context, RecordDict
from flwr.common import EventType
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

import client.app
import server.app
from client import hospital
from client.admission.ingest import IngestSettings, IngestSummary, ingest
from client.cohort.identity import SIGNING_KEY
from client.cohort.label_attributes import identifies
from client.secure.identity import own_entry
from client.secure.standing import SIMULATED
from client.site import layout, policy
from client.site.site import Site
from common.errors import DataError, LabelsError, PlanError, StateError
from common.host.files import PRIVATE, write_atomically
from common.host.processors import processors
from common.plan.schedule import schedule
from common.plan.study_plan import MAX_EPSILON, StudyPlan
from common.secure.roster import Roster
from common.simulation import SimulationSetup
from common.wire.signing import Key
from deploy.release.drafts import whole_folder
from deploy.simulation.local_grid import LocalGrid
from deploy.simulation.ray_queue import linear_hand_out
from server.model.warm_data import keep
from server.study import signers
from server.study.attempts import ROSTER

log = logging.getLogger(__name__)

Engine = Literal["inprocess", "ray"]
SETUP = "simulation.json"
SECRET_FILE = layout.SECRET
FLOWER_APP = Path(__file__).parents[1] / "flower_app"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run folder that is ready to start: its set-up file and what admission found at each site."""

    run: Path
    plan: StudyPlan
    summaries: dict[str, IngestSummary]


def prepare(
    plan_file: Path,
    folders: Sequence[Path],
    run: Path,
    *,
    seed: int,
    on_file: Callable[[str, int, int], None] = lambda *_: None,
    workers: int = 2,
    warm_data: Path | None = None,
) -> Prepared:
    """Make `run` a folder from which the study can start: whole or not at all.

    Args:
        plan_file: The study's `plan.toml`.
        folders: One folder of DICOM (and labels.csv) per hospital.
        run: Folder to create; must be absent or empty.
        seed: Keys every random stream of the simulation.
        on_file: Called with (site, files done, files in all) during admission.
        workers: Processes that read scans.
        warm_data: The .npz file of public images, for a plan that names one.

    Raises:
        PlanError: The plan cannot be used.
        DataError: A site folder cannot be used.
        OutputInUse: `run` holds something.
    """
    plan = StudyPlan.load(plan_file)
    schedule(plan)
    names = _site_names(folders)
    if len(names) < plan.aggregation.min_sites:
        raise DataError(f"plan {plan.name!r} needs {plan.aggregation.min_sites} sites; {len(names)} given. Add --site")
    with whole_folder(run) as draft:
        write_atomically(draft / "plan.toml", plan_file.read_bytes())
        keep(plan, warm_data, draft)
        summaries = {
            name: _make_site(
                draft / "sites" / name, folder, plan, seed=seed, workers=workers, on_file=partial(on_file, name)
            )
            for name, folder in names.items()
        }
        homes = tuple(draft / "sites" / name for name in names)
        _refuse_unused_labels(plan, homes)
        SimulationSetup(seed=seed, homes=homes).save(draft / SETUP)
        if plan.aggregation.secure:
            make_roster(plan, homes, draft)
        signers.save(draft, {home.name: Key.at(home / SIGNING_KEY).public for home in homes})
    return Prepared(run=run, plan=plan, summaries=summaries)


def start(run: Path, *, engine: Engine = "inprocess", ray_address: str | None = None, workers: int = 0) -> None:
    """Run or resume the prepared study in `run` to its release.

    Args:
        run: Folder of the prepared run.
        engine: In-process, or Flower's engine on Ray.
        ray_address: A running Ray cluster; None starts one.
        workers: Processes of the engine; 0 for as many as there are processors.

    Raises:
        StateError: Nothing was prepared there.
        StudyStopped: The study could not go on; it can be resumed.
    """
    setup = SimulationSetup.load(run / SETUP)
    config = {"run-dir": str(run.resolve()), "simulation": str((run / SETUP).resolve())}
    if engine == "ray":
        _start_ray(config, nodes=len(setup.homes), address=ray_address)
        return
    grid = LocalGrid(client.app.app, nodes=len(setup.homes), run_config=config, workers=workers)
    try:
        server.app.app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config))
    finally:
        grid.close()


def _start_ray(config: dict[str, Any], *, nodes: int, address: str | None) -> None:
    """Run on Flower's own simulation engine.

    Flower's public `run_simulation` takes no run configuration, so its inner function is called; a contract test
    (tests/flows/test_engines.py) fails if its signature or behaviour changes.
    """
    try:
        import ray
        from flwr.simulation.run_simulation import NOOP_FEDERATION_ID, _run_simulation
    except ImportError as error:
        raise StateError(
            "the ray engine is not installed. Run `pip install wardround[ray]`, or use --engine inprocess"
        ) from error
    logging.getLogger("flwr").setLevel(logging.WARNING)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    app_run = Run.create_empty(run_id=1)
    app_run.primary_task_id = 1
    app_run.federation_id = NOOP_FEDERATION_ID
    app_run.override_config = dict(config)
    init = {"address": address} if address else {"num_cpus": processors(), "include_dashboard": False}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(config))
    try:
        with linear_hand_out():
            _run_simulation(
                num_supernodes=nodes,
                client_app=client.app.app,
                server_app=server.app.app,
                run=app_run,
                server_app_context=context,
                app_dir=str(FLOWER_APP),
                is_app=True,
                exit_event=EventType.PING,
                backend_config={"init_args": init, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    finally:
        ray.shutdown()


def flower_command(run: Path) -> str:
    """The `flwr run` line that starts the prepared study in `run` the Flower way."""
    nodes = len(SimulationSetup.load(run / SETUP).homes)
    config = f'run-dir="{run.resolve()}" simulation="{(run / SETUP).resolve()}"'
    return (
        f"flwr run deploy/flower_app --stream --run-config '{config}' "
        f'--federation-config "num-supernodes={nodes} client-resources-num-cpus=1"'
    )


def found_site(home: Path, plan: StudyPlan, *, seed: int, admit: Callable[[], T]) -> T:
    """Set up one simulated hospital: policy, secret, admitted cohort, approval; return what `admit` did.

    Its policy allows the plan's label attribute, unless no site ever may: a user of a simulation has the data.

    Args:
        home: Folder to create; its name becomes the site's.
        plan: The plan it approves.
        seed: Of the simulation.
        admit: Brings the cohort into the cache below `home`.

    Raises:
        PlanRefused: The plan takes its labels from what may identify a patient.
        DataError: The cohort is not one the plan admits.
        CacheMissing: `admit` left no cache, or one that another plan's image form was made for.
    """
    home.mkdir(parents=True)
    attribute = plan.data.label_attribute
    own = json.dumps([attribute] if attribute and not identifies(attribute) else [])
    alone = f"max_epsilon_alone = {MAX_EPSILON}\n" if plan.aggregation.secure else ""
    limits = f"[limits]\nmin_patients = {plan.data.min_patients}\nmax_delta = 1e-3\nlabel_attributes = {own}\n{alone}"
    text = f'# A simulated hospital.\nname = "{home.name}"\n\n{limits}\n[resources]\nthreads = 1\n'
    write_atomically(home / layout.RULES, text.encode())
    policy.inside(policy.SitePolicy.load(home), plan)
    secret = hashlib.sha256(f"simulated site {home.name} of seed {seed}".encode()).digest()
    write_atomically(home / SECRET_FILE, secret, mode=PRIVATE)
    admitted = admit()
    hospital.check_cohort(Site.open(home, simulation_seed=seed), plan)
    policy.approve(home, plan, approved_by="simulation")
    return admitted


def _make_site(
    home: Path, folder: Path, plan: StudyPlan, *, seed: int, workers: int, on_file: Callable[[int, int], None]
) -> IngestSummary:
    """Set up one simulated hospital from its folder of DICOM.

    Text detection stays off: the data is public, and a run must not depend on which extras are installed.
    """
    settings = IngestSettings.from_plan(plan)
    admit = partial(ingest, folder, home, settings, workers=workers, ocr=False, progress=on_file)
    return found_site(home, plan, seed=seed, admit=admit)


def make_roster(plan: StudyPlan, homes: Sequence[Path], run: Path) -> None:
    """Make the roster of the simulated hospitals, which each of them and the coordinator know then.

    Args:
        plan: A plan that shares its noise and names no roster.
        homes: The hospitals' homes, with their rules.
        run: The study's folder.

    Raises:
        PlanError: The plan names a roster of real hospitals, or another number of them.
    """
    rules = plan.aggregation
    if rules.roster or rules.hospitals != len(homes):
        raise PlanError(
            f"plan {plan.name!r}: a simulation makes the roster of its {len(homes)} sites. Leave `aggregation.roster` "
            f"out and set `aggregation.hospitals` to {len(homes)}"
        )
    roster = Roster.of([own_entry(home, legal=f"Simulated {home.name}") for home in homes])
    for path in (run / ROSTER, *(home / layout.ROSTERS / f"{SIMULATED}.json" for home in homes)):
        path.parent.mkdir(exist_ok=True)
        roster.save(path)


def _refuse_unused_labels(plan: StudyPlan, homes: Sequence[Path]) -> None:
    """Refuse a plan with a label that no patient of any site has: the user of a simulation has all the labels at hand.

    Raises:
        LabelsError: There is such a label.
    """
    counts = [Site.open(home, simulation_seed=0).cohort(plan).label_counts() for home in homes]
    for index, name in enumerate(plan.data.labels):
        if not sum(own[index] for own in counts if index < len(own)):
            raise LabelsError(
                f"plan {plan.name!r}: no patient of any site has the label {name!r}. Check labels.csv, or leave the "
                "label out of the plan"
            )


def _site_names(folders: Sequence[Path]) -> dict[str, Path]:
    """A public name for each folder, from its own name; raises `DataError` when two would be the same."""
    names: dict[str, Path] = {}
    for folder in folders:
        name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:32] or "site"
        if name in names:
            raise DataError(f"two site folders would both be called {name!r}. Rename one of them")
        names[name] = folder
    return names
