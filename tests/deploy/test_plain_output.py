"""Whatever is data is shown by every command and page, and obeyed by none: markup, escape codes, direction marks."""

import ast
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from client.admission.ingest import ingest
from client.admission.settings import IngestSettings
from client.approval import approvals
from client.daemon.home import DaemonHome
from client.daemon.join import prepare
from client.site import rules_file
from common.display.pages import environment
from common.display.plain import PlainFormatter, plain, plain_lines
from common.display.terminal import Sheet, say
from common.plan.study_plan import StudyPlan
from deploy.cli import main
from server.coordinator import studies
from server.coordinator.home import Home, free_ports
from server.report.page import render_report
from tests.client.scans import save, scan
from tests.deploy.test_cli import ALL
from tests.server.report_cases import a_round, a_study

ROOT = Path(__file__).resolve().parents[2]
EVIL = "[bold red]OK[/] [/X] \x1b[31mRED\x1b]0;owned\x07 \u202egnp.exe \x9b2J \u2028<b>x</b>"
"""Markup that ends with an error in rich, escape codes of ECMA-48 in 7 and in 8 bits, a right-to-left override."""
NAME = EVIL.replace("/", "|")
"""The same, as a file may be called."""
SHOWN = plain(NAME)
WAITS = {"site receive", "site serve", "server serve"}
"""Commands that would run until they are told to end."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "400"})


def shown(result: Result, *, evil: bool = True) -> str:
    """What a command said: no character that a terminal obeys but line ends."""
    text = result.stdout + result.stderr
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert not evil or "[bold red]ok" in text.lower()
    return text


def value_of(parameter: click.Parameter) -> list[str]:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return [kind.choices[0]]
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return ["1"]
    return [NAME] * (1 if parameter.nargs == -1 else parameter.nargs)


@pytest.mark.parametrize("name", sorted(set(ALL) - WAITS))
def test_no_command_obeys_what_stands_in_its_own_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # `bundle` would fetch every wheel of the product
    words = name.split()
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Argument):
            words += value_of(parameter)
        elif parameter.required or parameter.name in ("home", "root", "by"):
            words += [parameter.opts[0], *value_of(parameter)]
    words += ["--patients", "1", "1", "1"] if name == "demo-data" else []
    text = shown(run(*words), evil=False)
    assert sum(line.startswith("wardround:") for line in text.splitlines()) <= 1
    shown(run(*words, f"--{NAME}"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A hospital whose archive was filled by somebody who means it ill."""
    archive, home = tmp_path / NAME, tmp_path / "home"
    for i in range(3):
        dataset = scan(seed=i + 1, patient=f"p{i}", BurnedInAnnotation="NO", SpecificCharacterSet="ISO_IR 192")
        dataset.add_new(0x00180015, "LO", EVIL)
        dataset.add_new(0x00185101, "LO", EVIL)
        save(dataset, archive / f"{i}{NAME}.dcm")
    wanted = scan(seed=9, patient="q", BurnedInAnnotation="YES", SpecificCharacterSet="ISO_IR 192")
    wanted.add_new(0x00080060, "LO", EVIL)
    save(wanted, archive / f"wait{NAME}.dcm")
    (archive / f"{NAME}.txt").write_text("no scan")
    rules_file.init(home, "north")
    prepare(DaemonHome(home))
    ingest(archive, home, IngestSettings(image_size=32), ocr=False)
    return home


def test_a_headers_text_is_shown_in_every_table_of_the_steward(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("site", "inspect", "--home", home, "--html", page)
    assert done.exit_code == 0
    shown(done)
    html = page.read_text()
    assert [c for c in html if not c.isprintable() and c != "\n"] == []
    assert "<b>x" not in html
    assert "[bold red]ok" in html.lower()
    waiting = run("site", "quarantine", "list", "--home", home)
    shown(waiting)
    short = json.loads(run("site", "quarantine", "list", "--home", home, "--json").stdout)["waiting"][0]["id"]
    shown(run("site", "quarantine", "show", short, "--home", home, "--to", tmp_path / f"{NAME}.png"))
    shown(run("site", "ingest", tmp_path / NAME, "--home", home, "--no-ocr"), evil=False)


def test_what_others_wrote_into_a_hospitals_home_is_shown(home: Path, tmp_path: Path) -> None:
    daemon = DaemonHome(home)
    (daemon.identity / "coordinator.json").write_text(json.dumps({"address": EVIL}))
    text = shown(run("site", "status", "--home", home))
    assert plain(EVIL) in text
    plan = StudyPlan(name="tiny")
    approvals.approve(home, plan, approved_by=EVIL)
    record = next((home / "approved").glob("*/approval.json"))
    record.write_text(record.read_text().replace("{", "{" + EVIL, 1))
    shown(run("doctor", "--home", home), evil=False)
    paper = tmp_path / f"{NAME}.json"
    paper.write_text(json.dumps({"kind": EVIL, "schema": 1}))
    shown(run("site", "join", paper, "--home", home), evil=False)


def test_what_came_over_the_wire_is_shown_at_the_coordinator(tmp_path: Path) -> None:
    server = Home.init(tmp_path / "server", host=f"127.0.0.1:{free_ports(1)[0]}")
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "tiny"\n')
    folder = studies.prepare(server, plan)
    state = {"reason": EVIL, "message": f"{EVIL}\nsites:\n  north: healthy"}
    (folder / "paused.json").write_text(json.dumps(state))
    (server.root / "logs").mkdir(exist_ok=True)
    (server.root / "logs" / "gateway.log").write_text(f"{EVIL}\n")
    assert plain(EVIL) in shown(run("server", "logs", "gateway", "--home", server.root))
    (server.root / "logs" / "superlink.log").write_text("\x1b[92mINFO \x1b[0m:      a line of Flower's own\n")
    assert run("server", "logs", "superlink", "--home", server.root).output == "INFO :      a line of Flower's own\n"
    text = shown(run("server", "status", "--home", server.root), evil=False)
    assert "\n  north: healthy" not in text, "a study's message drew a line of its own"


def test_a_plans_faults_quote_it_and_do_not_obey_it(tmp_path: Path) -> None:
    plan = tmp_path / f"{NAME}.toml"
    plan.write_text(f"name = {json.dumps(EVIL)}\n[data]\n{json.dumps(EVIL)} = 1\n", encoding="utf-8")
    text = shown(run("plan", "show", plan))
    assert len(text.splitlines()) == 1
    assert len(run("plan", "show", tmp_path / "a\nwardround: all is well.toml").stderr.splitlines()) == 1
    shown(run("plan", "show", plan, NAME))
    as_json = run("plan", "show", plan, "--json")
    assert EVIL not in as_json.stdout
    assert "[bold red]OK" in json.loads(as_json.stdout)["message"]


def test_a_log_a_warning_and_a_traceback_are_shown_too(tmp_path: Path) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (EVIL,), None)
    assert PlainFormatter("%(message)s").format(record) == plain_lines(EVIL)
    words = (
        "import warnings; from common.display.terminal import listen; listen(verbose=False)\n"
        f"warnings.warn({EVIL!r}); raise ValueError({EVIL!r})"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=100, check=False)
    assert "UserWarning" not in done.stderr
    assert "ValueError: [bold red]OK" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


def test_a_terminal_of_few_characters_gets_them_spelt_out() -> None:
    words = "from common.display.terminal import say; say('\\xf6dem \\u2713')"
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, timeout=100, check=False, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.stdout == b"\\xf6dem \\u2713\n", done.stderr


def test_colours_of_our_own_stay_and_those_of_a_cell_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    drawn = Sheet(columns=("check",), rows=((EVIL,),), colours=("green",), title=EVIL).drawn()
    assert "\x1b[32m" in drawn
    assert "\x1b[31mRED" not in drawn
    assert drawn.count(plain(EVIL)) == 2


@pytest.mark.parametrize("package", ["server.report", "client.admission", "client.evaluation"])
def test_every_page_escapes_what_it_shows(package: str) -> None:
    page = environment(package).from_string("{{ evil }}").render(evil=EVIL)
    assert "<b>" not in page
    assert [c for c in page if not c.isprintable()] == []


def test_the_report_shows_a_sites_name_and_obeys_it_nowhere() -> None:
    rounds = [a_round(1, replied=("hill",), missing={EVIL: "BudgetExhausted"})]
    page = render_report(a_study(rounds=rounds, notes=[EVIL]))
    assert "[bold red]OK" in page
    assert "<b>x" not in page
    assert [c for c in page if not c.isprintable() and c not in "\n\u00a0\u2009\u202f"] == []


def test_data_of_several_lines_is_one_line_and_blanks_stay() -> None:
    assert plain("a\nb\r\t\x00\u00a0\u3000ö\udcff") == "a\\nb\\r\\t\\x00\u00a0\u3000ö\\udcff"
    assert plain_lines("a\nb\x1b") == "a\nb\\x1b"


def doors() -> Iterator[tuple[Path, ast.AST]]:
    for package in ("common", "client", "server", "deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield path.relative_to(ROOT), node


def test_nothing_but_the_one_door_prints_and_nothing_but_the_other_makes_pages() -> None:
    terminal, page = [], []
    for path, node in doors():
        name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        printing = name in ("click.echo", "click.secho", "click.prompt", "click.confirm", "print", "Console",
                            "sys.stdout", "sys.stderr", "RichHandler")  # fmt: skip
        terminal += [str(path)] if printing else []
        page += [str(path)] if name in ("Environment", "Template") else []
    assert set(terminal) <= {"common/display/terminal.py", *PROTOCOLS}
    assert set(page) <= {"common/display/pages.py", "server/report/page.py"}, (
        "server/report/page.py names the type alone"
    )


PROTOCOLS = {"common/host/logs.py"}
"""Modules that write for a machine: a daemon's log is lines of JSON, which are ASCII."""


def test_say_refuses_nothing_and_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    assert capsys.readouterr().out == plain_lines(EVIL) + "\n"
