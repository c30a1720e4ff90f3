"""The studies of a coordinator: a folder each, and starting a run for one."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import OutputInUse, StateError, WardroundError
from common.host.files import PUBLIC, write_atomically
from common.host.locks import locked
from common.plan.study_plan import StudyPlan
from server.coordinator import invitations
from server.coordinator.home import Home
from server.coordinator.nodes import all_nodes
from server.study import enrolled, heads, progress, runs, signers

if TYPE_CHECKING:  # Flower takes seconds to load, and `status` does without it
    from server.coordinator.control import Run, SuperLink


def prepare(home: Home, plan_file: Path, *, warm_data: Path | None = None, roster: Path | None = None) -> Path:
    """Make the folder of a new study, or find the one of this very plan.

    Args:
        home: The coordinator's home.
        plan_file: The study's `plan.toml`.
        warm_data: The .npz file of public images, for a plan that names one.
        roster: The roster.json of a plan that shares its noise.

    Raises:
        PlanError: The plan cannot be used, its public images are not there, or the roster is not the plan's.
        DataError: The public images cannot be used.
        OutputInUse: The folder is of another plan, or its study is finished.

    A folder that a refused call would have made is not there afterwards.
    """
    from common.plan.schedule import schedule  # its accountants take seconds to load
    from server.model.warm_data import keep
    from server.study import attempts

    plan = StudyPlan.load(plan_file)
    schedule(plan)
    folder = home.study(plan.name)
    there = folder / "plan.toml"
    if there.exists() and StudyPlan.load(there).digest != plan.digest:
        raise OutputInUse(f"{folder} holds a study {plan.name!r} of another plan. Give the new plan another name")
    if progress.read(folder).state == "completed":
        raise OutputInUse(f"study {plan.name!r} is finished; its release lies in {folder}. Give a new plan a new name")
    fresh = not folder.exists()
    try:
        _link(home, folder)
        keep(plan, warm_data, folder)
        if plan.aggregation.secure:
            attempts.keep_roster(folder, plan, roster)
    except WardroundError:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not there.exists():
        write_atomically(there, plan_file.read_bytes(), mode=PUBLIC)
    return folder


def _link(home: Home, folder: Path) -> None:
    """All studies share the key that signs, the keys of verdicts and the heads of ledgers; note who is enrolled."""
    with home.alone():
        invitations.write_signers(home)
    folder.mkdir(parents=True, exist_ok=True)
    (home.root / heads.FOLDER).mkdir(exist_ok=True, mode=0o700)
    for name in ("signing", signers.FILE, heads.FOLDER):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..") / ".." / name)
    enrolled.save(folder, [node.site for node in all_nodes(home.nodes)[0] if node.state == "enrolled"])


def rounds_saved(folder: Path) -> int:
    """Number of the last round whose checkpoint lies in `folder`; 0 before the first."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")), default=0)


def all_studies(home: Home) -> list[Path]:
    """The folder of every study, by name."""
    return sorted(path.parent for path in (home.root / "studies").glob("*/plan.toml"))


def start(home: Home, link: "SuperLink", name: str) -> int:
    """Submit a run for study `name`, which goes on from its last checkpoint; return the run's id.

    Args:
        home: The coordinator's home.
        link: Our SuperLink.
        name: Name of the study.

    Raises:
        StateError: There is no such study, it is finished, or a run of it is under way.
    """
    folder = home.study(name)
    if not (folder / "plan.toml").exists():
        raise StateError(f"no study {name!r} here. Start one with `wardround server start PLAN`")
    with locked(home.root / "studies.lock"):
        if progress.read(folder).state == "completed":
            raise StateError(f"study {name!r} is finished; its release lies in {folder}")
        if (last := last_run(link, folder)) is not None and not last.ended:
            raise StateError(f"study {name!r} is {last.state} as run {last.run_id}. Wait, or stop it first")
        _link(home, folder)
        known = [run.run_id for run in reversed(_of(link, folder)) if run.ended]
        submitted = link.start(folder)
        runs.note(folder, *known, submitted)
        return submitted


def last_run(link: "SuperLink", folder: Path) -> "Run | None":
    """The newest run of the study in `folder`, however it was submitted."""
    return next(iter(_of(link, folder)), None)


def _of(link: "SuperLink", folder: Path) -> "list[Run]":
    """Every run of the study in `folder`, the one that began last first."""
    return runs.newest_first(folder, [run for run in link.runs() if run.folder == folder])
