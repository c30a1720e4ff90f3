"""The `wardround` command: each subcommand parses, calls one function and prints one result."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import click

from client.cli import audit, budget, roster
from client.cli.site import site
from client.daemon import cli as daemon_cli
from client.pacs.cli import pull, receive
from common.display.terminal import Commands, emit, json_option, listen, progress, say
from common.errors import Interrupted, StateError
from common.plan.study_plan import StudyPlan
from deploy.doctor.cli import doctor, examined_first
from deploy.install.offline_bundle import bundle
from deploy.planning import plan_cli, planner_cli
from deploy.release import release_cli
from server.coordinator.cli import server

_folder = click.Path(path_type=Path)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wardround")
@click.option("--verbose", "-v", is_flag=True, help="Show the log on stderr.")
def main(*, verbose: bool) -> None:
    """Train one image generator across hospitals under patient-level differential privacy.

    Exit codes: 0 done, 1 unexpected, 2 usage, 3 plan, 4 data, 5 state on disk, 6 refused by a site, 7 study stopped,
    8 and 9 the doctor's warnings and failures, 130 Ctrl-C.
    """
    listen(verbose=verbose)


main.add_command(site)
main.add_command(server)
main.add_command(bundle)
for command in (*budget.COMMANDS, *audit.COMMANDS, *roster.COMMANDS, *daemon_cli.COMMANDS, pull, receive):
    site.add_command(command)
main.add_command(doctor)
for group in (site, server):
    examined_first(group.commands["serve"])


@main.command("demo-data")
@click.argument("out", type=_folder)
@click.option(
    "--patients",
    type=(click.IntRange(1),) * 3,
    default=(1500, 1000, 700),
    show_default=True,
    help="Patients at each of the three hospitals.",
)
@click.option("--seed", default=7, show_default=True)
@json_option
def demo_data(out: Path, patients: tuple[int, int, int], seed: int, *, as_json: bool) -> None:
    """Write three hospitals of procedural chest phantoms into OUT."""
    from deploy.data.demo_data import write_demo_hospitals

    with progress(quiet=as_json) as bar:
        task = bar.add_task("phantoms", total=None)
        folders = write_demo_hospitals(
            out,
            patients=patients,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    result = {"sites": [str(folder) for folder in folders]}
    emit(result, as_json=as_json, text=lambda: "\n".join(result["sites"]))


@main.command("import")
@click.argument("source", type=_folder)
@click.option("--to", "out", type=_folder, required=True, help="Folder to create.")
@click.option("--sites", type=click.IntRange(1, 1000), required=True, help="Number of hospitals.")
@click.option("--split", default="iid", show_default=True, help="iid, dirichlet:ALPHA or by-patient.")
@click.option("--seed", default=0, show_default=True)
@click.option("--csv", "table", type=_folder, help="Table that names patient and label of each image.")
@click.option("--patient-column", help="Its column of patient ids.")
@click.option("--label-column", help="Its column of labels.")
@click.option("--file-column", help="Its column of file names.")
@click.option(
    "--modality", default="CR", show_default=True, help="CR, DX, CT, MR, MG, US, OP, XC, SM, PT or NM: what is written."
)
@click.option("--body-part", default="CHEST", show_default=True, help="DICOM body part of the written scans.")
@click.option("--part", "parts", multiple=True, help="Parts of a MedMNIST file: train, val, test.  [default: train]")
@click.option("--label-name", "label_names", multiple=True, help="Names of the classes 0, 1, ... of a MedMNIST file.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Take at most this many images (of each class folder; else shared by the classes).",
)
@json_option
def import_(
    source: Path,
    out: Path,
    *,
    as_json: bool,
    table: Path | None,
    parts: tuple[str, ...],
    label_names: tuple[str, ...],
    **options: Any,
) -> None:
    """Turn SOURCE (.npz, class folders, images with a CSV, or DICOM; folder or .zip) into one folder per hospital."""
    from deploy.data.importers import import_source

    with progress(quiet=as_json) as bar:
        task = bar.add_task("import", total=None)
        summary = import_source(
            source,
            out,
            csv=table,
            parts=parts or ("train",),
            label_names=label_names or None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **options,
        )
    result = summary.to_dict()
    emit(
        result,
        as_json=as_json,
        text=lambda: (
            f"{result['images']} images of {result['patients']} patients in {out}"
            + (f"; {result['twins']} left out that a site has under another id" if result["twins"] else "")
        ),
    )


@main.command("public-images")
@click.argument("sources", type=_folder, nargs=-1, required=True)
@click.option("--to", "out", type=_folder, required=True, help="The .npz file to write.")
@click.option("--size", type=click.IntRange(16, 512), default=64, show_default=True, help="Pixels on a side.")
@click.option("--limit", type=click.IntRange(1), help="Most images of each source.")
@json_option
def public_images(sources: tuple[Path, ...], out: Path, *, size: int, limit: int | None, as_json: bool) -> None:
    """Pack public SOURCES (folders or archives of pictures) into the file that --warm-data takes.

    No image may be of a patient of a hospital of the study: a warm-up costs no budget because there is none.
    """
    from deploy.data.public_images import write_public_images

    written = write_public_images(sources, out, size=size, limit=limit)
    result = written.to_dict()
    kinds = [f"  {count:6}  {name}" for name, count in written.kinds.items()]
    left_out = [f"  {written.broken:6}  could not be read and are left out"] if written.broken else []
    emit(
        result,
        as_json=as_json,
        text=lambda: "\n".join([f"{result['images']} images in {out}", *kinds, *left_out, "for the plan:", "[warm]",
                                f'source = "{written.digest}"']),
    )  # fmt: skip


@main.group()
def plan() -> None:
    """Write, check and look at study plans."""


@plan.command("show")
@click.argument("plan_file", type=_folder)
@json_option
def plan_show(plan_file: Path, *, as_json: bool) -> None:
    """Check PLAN_FILE and print its digest and its rounds, with the noise and the epsilon after each."""
    from common.plan.schedule import schedule

    loaded = StudyPlan.load(plan_file)
    rounds = [
        {
            "round": r.number,
            "phase": r.phase,
            "sigma": r.event.sigma,
            "sample_rate": r.event.sample_rate,
            "steps": r.event.steps,
            "epsilon_after": r.epsilon_after,
        }
        for r in schedule(loaded)
    ]
    result = {"name": loaded.name, "digest": loaded.digest, "delta": loaded.privacy.delta, "rounds": rounds}

    def text() -> str:
        lines = [f"{loaded.name}  {loaded.digest}", "round  phase     sigma    rate   steps  epsilon after"]
        lines += [
            f"{r['round']:5}  {r['phase']:8}  {r['sigma']:7.3f}  {r['sample_rate']:5.3f}  {r['steps']:5}"
            f"  {r['epsilon_after']:.3f}"
            for r in rounds
        ]
        return "\n".join(lines)

    emit(result, as_json=as_json, text=text)


for command in (*plan_cli.COMMANDS, *planner_cli.COMMANDS):
    plan.add_command(command)


@main.command()
@click.argument("plan_file", type=_folder, required=False)
@click.option("--site", "folders", type=_folder, multiple=True, help="A hospital's folder of DICOM; repeat it.")
@click.option("--out", "run", type=_folder, required=True, help="Run folder to create, or to resume.")
@click.option("--seed", default=0, show_default=True, help="Makes the simulation repeatable; it removes its privacy.")
@click.option("--engine", type=click.Choice(["inprocess", "ray"]), default="inprocess", show_default=True)
@click.option("--ray-address", help="Address of a running Ray cluster.")
@click.option("--workers", default=0, show_default=True, help="Sites that train at once; 0 takes one for each core.")
@click.option("--resume", is_flag=True, help="Go on with the study in --out.")
@click.option("--prepare-only", is_flag=True, help="Stop before the first round and print the `flwr run` line.")
@click.option("--release", "bundled", is_flag=True, help="Go on to the signed bundle in OUT/bundle, evidence and all.")
@click.option("--warm-data", type=_folder, help="Public images (.npz) for a plan that names them.")
@json_option
def simulate(
    plan_file: Path | None,
    folders: tuple[Path, ...],
    run: Path,
    *,
    seed: int,
    engine: Any,
    ray_address: str | None,
    workers: int,
    resume: bool,
    prepare_only: bool,
    bundled: bool,
    warm_data: Path | None,
    as_json: bool,
) -> None:
    """Run the study PLAN_FILE over site folders on this machine: the code of a deployment, on data you may see."""
    from deploy.simulation import simulate as simulation

    admitted: dict[str, Any] = {}
    if resume:
        if plan_file or folders:
            raise click.UsageError("--resume takes its plan and sites from --out; give neither.")
    elif plan_file is None or not folders:
        raise click.UsageError("give PLAN_FILE and at least one --site.")
    else:
        admitted = _prepare(plan_file, folders, run, seed=seed, warm_data=warm_data, quiet=as_json)
    if prepare_only:
        command = simulation.flower_command(run)
        emit({"run": str(run), "admitted": admitted, "command": command}, as_json=as_json, text=lambda: command)
        return
    with _resumable(run, bundled=bundled, engine=engine):
        with _watched(run, quiet=as_json):
            simulation.start(run, engine=engine, ray_address=ray_address, workers=workers)
        if bundled:
            release_cli.make(run, run / "bundle", quiet=as_json)
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    result = {
        "run": str(run),
        "report": str(run / "bundle" / "report.html" if bundled else run / "report.html"),
        "decoder_digest": card["decoder_digest"],
        "epsilon_by_site": card["privacy"]["epsilon_by_site"],
        "admitted": admitted,
        "synthetic": sum(1 for _ in (run / "synthetic").rglob("*.dcm")),
    }
    emit(result, as_json=as_json, text=lambda: _closing_words(result))


for command in release_cli.COMMANDS:
    main.add_command(command)


def _prepare(
    plan_file: Path, folders: tuple[Path, ...], run: Path, *, seed: int, warm_data: Path | None, quiet: bool
) -> dict[str, Any]:
    """Admit every site's scans behind one progress bar a site; return what was admitted, by site."""
    from deploy.simulation import simulate as simulation

    with progress(quiet=quiet) as bar:
        tasks: dict[str, Any] = {}

        def on_file(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(f"admit {name}", total=total)
            bar.update(tasks[name], completed=done, total=total)

        prepared = simulation.prepare(plan_file, folders, run, seed=seed, warm_data=warm_data, on_file=on_file)
    admitted = {name: summary.to_dict() for name, summary in prepared.summaries.items()}
    if not quiet:
        for name, counts in admitted.items():
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts["reasons"].items()))
            say(
                f"{name}: {counts['admitted']} of {counts['files']} files, {counts['patients']} patients"
                + (f"; not admitted: {reasons}" if reasons else ""),
                err=True,
            )
    return admitted


@contextmanager
def _resumable(run: Path, *, bundled: bool, engine: str) -> Iterator[None]:
    """Have Ctrl-C end a study that is under way with the words that go on with it."""
    try:
        yield
    except KeyboardInterrupt as error:
        options = ("" if engine == "inprocess" else f" --engine {engine}") + (" --release" if bundled else "")
        raise Interrupted(
            f"the study in {run} was ended by Ctrl-C; what its rounds gave is saved, and no patient pays twice. "
            f"Go on with `wardround simulate --resume --out {shlex.quote(str(run))}{options}`"
        ) from error


@contextmanager
def _watched(run: Path, *, quiet: bool) -> Iterator[None]:
    """Show rounds and images as they appear in the run folder; works alike for every engine."""
    from common.plan.schedule import schedule

    loaded = StudyPlan.load(run / "plan.toml") if (run / "plan.toml").exists() else None
    if loaded is None:
        raise StateError(f"{run} holds no prepared study. Give PLAN_FILE and --site to start one")
    total = len(schedule(loaded))
    images = loaded.release.images_per_label * loaded.data.classes
    ended = Event()

    with progress(quiet=quiet) as bar:
        rounds, drawn = bar.add_task("rounds", total=total), bar.add_task("synthetic images", total=images)

        def look() -> None:
            table, folder = run / "rounds.csv", run / ".synthetic.draft"
            done = max(0, len(table.read_text(encoding="utf-8").splitlines()) - 1) if table.exists() else 0
            final = run / "synthetic"
            bar.update(rounds, completed=done)
            bar.update(drawn, completed=sum(1 for _ in (final if final.exists() else folder).rglob("*.dcm")))

        def watch() -> None:
            while not ended.wait(0.5):
                look()

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            look()


def _closing_words(result: dict[str, Any]) -> str:
    spent = [value for value in result["epsilon_by_site"].values() if value is not None]
    privacy = f"epsilon at most {max(spent):.3f} at any site" if spent else "NO PRIVACY: trained without noise"
    return f"{result['synthetic']} synthetic DICOM files; {privacy}\nreport: {result['report']}"


if __name__ == "__main__":
    main()
