"""A command that does not train loads none of the libraries that take seconds: which ones are there, not how long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch", "opacus", "monai", "flwr", "ray", "matplotlib", "sklearn", "pydicom", "pynetdicom", "gdcm",
    "scipy.stats", "scipy.signal", "scipy.optimize", "scipy.integrate",
)  # fmt: skip
PLAN = str(Path(__file__).parents[2] / "deploy" / "examples" / "pneumonia.toml")
SITE, SERVER, OUT = "{0}/site", "{0}/server", "{0}/north.invite"
LIGHT = [
    ("--help",),
    ("--version",),
    ("plan", "show", PLAN),
    ("plan", "show", "--json", PLAN),
    ("plan", "budget", "--help"),
    ("simulate", "--help"),
    ("doctor", "--help"),
    ("site", "pull", "--help"),
    ("site", "receive", "--help"),
    ("site", "serve", "--help"),
    ("site", "init", "--name", "north", "--home", SITE),
    ("site", "status", "--home", SITE),
    ("site", "budget", "--home", SITE),
    ("site", "approve", PLAN, "--home", SITE, "--by", "steward", "--yes"),
    ("site", "withdrawn", "--home", SITE),
    ("site", "adopt", "--home", SITE, "--yes"),
    ("site", "withdraw", "4711", "--issuer", "", "--home", SITE),
    ("site", "limit", "--home", SITE, "--total", "5"),
    ("site", "pause", "--home", SITE),
    ("site", "resume", "--home", SITE),
    ("server", "init", SERVER, "--host", "127.0.0.1:8443"),
    ("server", "status", "--home", SERVER),
    ("server", "invite", "north", "--home", SERVER, "--out", OUT),
]
"""In an order in which each finds what the ones before made."""
RUN = """
import contextlib, io, json, sys
from deploy.cli import main
for command in json.loads(sys.argv[1]):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(command)
    except SystemExit as end:
        code = end.code
    print(json.dumps([command, code, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, list[str]]]:
    """Exit code of each command, and what had been loaded by its end, all in one process."""
    folder = str(tmp_path_factory.mktemp("homes"))
    commands = [[word.format(folder) for word in command] for command in LIGHT]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands), json.dumps(HEAVY)], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(LIGHT), done.stderr
    return {" ".join(given): (code, names) for given, (_, code, names) in zip(LIGHT, lines, strict=True)}


@pytest.mark.parametrize("command", [" ".join(command) for command in LIGHT])
def test_a_command_that_does_not_train_loads_no_library_that_takes_seconds(
    command: str, loaded: dict[str, tuple[object, list[str]]]
) -> None:
    code, names = loaded[command]
    assert names == []
    assert code == (5 if command.split()[1:2] == ["status"] else 0)  # nothing serves


def test_the_accountant_needs_neither_opacus_nor_statistics() -> None:
    code = f"import sys, common.plan.schedule; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
