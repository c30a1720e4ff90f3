"""The command line speaks to people and to scripts, with one line and one documented exit code for each failure."""

import importlib.util
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from common import errors
from deploy.cli import main
from deploy.release import release as release_module
from deploy.simulation import evidence_size
from tests.deploy import hospitals

Tiny = tuple[Path, list[Path]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


ALL = commands(main)
ENDLESS = {"server serve", "site serve", "server logs"}
"""Print no result: two run until they are told to end, the third repeats lines that are JSON already."""


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_is_explained_takes_json_and_is_in_the_readme(name: str) -> None:
    assert ALL[name].help
    assert name in ENDLESS or any(option.name == "as_json" for option in ALL[name].params)
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    assert f"wardround {name}" in readme


def test_exit_codes_are_the_documented_ones() -> None:
    help_text = " ".join(run("--help").output.split())
    for kind, word in (
        (errors.PlanError, "plan"), (errors.DataError, "data"), (errors.StateError, "state on disk"),
        (errors.Refusal, "refused by a site"), (errors.StudyStopped, "study stopped"), (errors.Interrupted, "Ctrl-C"),
    ):  # fmt: skip
        assert f"{kind.exit_code} {word}" in help_text


def test_plan_show_prints_the_rounds_their_noise_and_their_cost(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(hospitals.PLAN)
    shown = json.loads(run("plan", "show", plan, "--json").stdout)
    assert [r["phase"] for r in shown["rounds"]] == ["mean", "subspace", "prior", "sgd", "sgd"]
    assert shown["rounds"][-1]["epsilon_after"] <= 8
    assert shown["digest"] in run("plan", "show", plan).stdout


def test_simulate_prints_one_json_object_with_what_was_admitted_and_spent(tiny: Tiny, tmp_path: Path) -> None:
    plan, sites = tiny
    options = [part for site in sites for part in ("--site", site)]
    result = run("simulate", plan, *options, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["synthetic"] == 8
    for counts in printed["admitted"].values():
        assert counts["files"] == counts["admitted"] + counts["refused"] + counts["quarantined"]
        assert counts["refused"] > 0
    again = run("simulate", plan, *options, "--out", tmp_path / "run")
    assert again.exit_code == errors.StateError.exit_code
    assert "already holds something" in again.stderr
    resumed = json.loads(run("simulate", "--resume", "--release", "--out", tmp_path / "run", "--json").stdout)
    assert resumed["decoder_digest"] == printed["decoder_digest"]
    bundle = tmp_path / "run" / "bundle"
    assert resumed["report"] == str(bundle / "report.html")
    assert run("verify", bundle).exit_code == 0
    assert json.loads((bundle / "card.json").read_text())["audit"]["ran"] is True
    odd = run("release", tmp_path / "run", "--out", tmp_path / "other", "--shadows", "3")
    assert odd.exit_code == 2
    assert "even number" in odd.stderr


def test_ctrl_c_in_a_study_says_how_to_go_on_and_has_an_exit_code_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "a run"
    plan.write_text(
        tiny[0].read_text().replace("rounds = 2", "rounds = 60").replace("local_steps = 3", "local_steps = 10")
    )
    command = [sys.executable, "-m", "deploy.cli", "simulate"]
    options = [str(part) for site in tiny[1][:2] for part in ("--site", site)]
    ended = until(3, out, [*command, str(plan), *options, "--out", str(out)])
    assert ended.returncode == errors.Interrupted.exit_code == 130
    assert "Traceback" not in ended.stderr
    line = ended.stderr.rpartition("Go on with `")[2].rpartition("`")[0]
    assert line == f"wardround simulate --resume --out '{out}'"
    before = len((out / "rounds.csv").read_text().splitlines())
    again = until(before + 1, out, [*command, *shlex.split(line)[2:]])
    assert again.returncode == 130
    assert line in again.stderr


def until(rounds: int, run: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Start a study, and press Ctrl-C once its table has this many lines."""
    attended = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a test in the background ignores it
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=attended
    ) as process:
        while process.poll() is None:
            table = run / "rounds.csv"
            if table.exists() and len(table.read_text().splitlines()) >= rounds:
                os.killpg(process.pid, signal.SIGINT)
                break
            time.sleep(0.1)
        _, said = process.communicate(timeout=200)
    return subprocess.CompletedProcess(command, process.returncode, "", said)


def test_prepare_only_prints_the_flower_command_and_trains_nothing(tiny: Tiny, tmp_path: Path) -> None:
    plan, sites = tiny
    options = [part for site in sites for part in ("--site", site)]
    result = run("simulate", plan, *options, "--out", tmp_path / "run", "--prepare-only", "--json")
    command = json.loads(result.stdout)["command"]
    assert command.startswith("flwr run deploy/flower_app")
    assert "num-supernodes=3" in command
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("change", "code", "words"), [
    (("epsilon = 8", "epsilon = 0"), 3, "`privacy.epsilon` must be above 0"),
    (("[data]", "[data]\ncolour = 1"), 3, "unknown key `data.colour`"),
    (("min_patients = 20", "min_patients = 400"), 4, "asks for at least 400"),
])  # fmt: skip
def test_a_bad_plan_is_one_line_and_an_exit_code(
    tiny: Tiny, tmp_path: Path, change: tuple[str, str], code: int, words: str
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(hospitals.PLAN.replace(*change))
    result = run("simulate", plan, *[p for site in tiny[1] for p in ("--site", site)], "--out", tmp_path / "run")
    assert result.exit_code == code
    complaint = [line for line in result.stderr.splitlines() if line.startswith("wardround:")]
    assert len(complaint) == 1
    assert words in complaint[0]
    assert not (tmp_path / "run").exists()


def test_usage_errors_have_exit_code_2(tmp_path: Path) -> None:
    assert run("simulate", "--out", tmp_path / "run").exit_code == 2
    assert run("simulate", "plan.toml", "--resume", "--out", tmp_path / "run").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_generate_and_resume_say_what_is_missing(tmp_path: Path) -> None:
    result = run("generate", tmp_path / "nothing", "--out", tmp_path / "out", "--json")
    assert result.exit_code == errors.SignatureInvalid.exit_code
    assert json.loads(result.stdout.splitlines()[0])["error"] == "SignatureInvalid"
    assert run("simulate", "--resume", "--out", tmp_path / "nothing").exit_code == errors.StateError.exit_code


def test_demo_data_and_import_write_hospitals(tmp_path: Path) -> None:
    result = run("demo-data", tmp_path / "demo", "--patients", 3, 2, 2, "--json")
    assert [Path(site).name for site in json.loads(result.stdout)["sites"]] == ["north", "river", "hill"]
    imported = run("import", tmp_path / "demo" / "north", "--to", tmp_path / "split", "--sites", 2, "--json")
    assert imported.exit_code == 0, imported.output
    assert json.loads(imported.stdout)["patients"] >= 3


def test_a_release_says_in_one_place_how_much_it_shows_and_its_help_loads_no_model_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (
        "import sys; from deploy.simulation import evidence_size\n"
        "evidence_size.CANARIES, evidence_size.SHADOWS = 7, 8\n"
        "from deploy.release.release_cli import release\n"
        "options = {option.name: option.default for option in release.params}\n"
        "print(options['canaries'], options['shadows'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "7 8 False\n", done.stderr
    monkeypatch.setattr(evidence_size, "CANARIES", 7)
    monkeypatch.setattr(evidence_size, "SHADOWS", 8)
    options = inspect.signature(fresh(release_module).release).parameters
    assert (options["canaries"].default, options["shadows"].default) == (7, 8)


def fresh(module: ModuleType) -> ModuleType:
    """The module as a process would load it now; the loaded one stays as it is."""
    spec = importlib.util.spec_from_file_location("fresh", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
