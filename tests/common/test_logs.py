"""Logs that cannot name a patient, and stay small and private."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import PlanRefused
from common.host import logs

NAME = "DOE^JANE"
log = logging.getLogger("client.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "daemon.jsonl").read_text().splitlines()]


def test_a_line_holds_the_constant_event_and_its_harmless_fields(tmp_path: Path) -> None:
    logs.set_up(tmp_path, "daemon")
    log.info("round %d (%s) of %s done, %.2f", 3, "sgd", "a" * 64, 0.5)
    (line,) = lines(tmp_path)
    assert line["event"] == "round %d (%s) of %s done, %.2f"
    assert line["fields"] == [3, "sgd", "a" * 64, 0.5]
    assert (line["level"], line["logger"]) == ("INFO", "client.test")


def test_texts_exceptions_paths_and_names_are_withheld_wherever_they_come_in(tmp_path: Path) -> None:
    logs.set_up(tmp_path, "daemon")
    try:
        try:
            {}[NAME]
        except KeyError as error:
            raise ValueError(f"/scans/{NAME}/1.dcm") from error
    except ValueError as error:
        log.exception("failed at %s", Path(f"/scans/{NAME}"))
        log.warning("refused: %s: %s", type(error).__name__, error)
    log.warning("%s %s %s", NAME, "4711000123", {"patient": NAME})
    log.warning("refused: %s", PlanRefused(NAME))
    logging.getLogger("pydicom").warning("Invalid value for VR PN: %s", NAME)
    text = (tmp_path / "daemon.jsonl").read_text()
    assert "DOE" not in text
    assert "4711" not in text
    assert "scans" not in text
    first, second, third, fourth, fifth = lines(tmp_path)
    assert [link["type"] for link in first["error"]] == ["ValueError", "KeyError"]  # type: ignore[attr-defined]
    assert second["fields"] == ["ValueError", "ValueError"]
    assert third["fields"] == [logs.WITHHELD] * 3
    assert fourth["fields"] == ["PlanRefused"]
    assert fifth["event"] == "another library's message"


def test_warnings_of_libraries_are_withheld_too(tmp_path: Path) -> None:
    code = (
        "import warnings; from pathlib import Path; from common.host import logs\n"
        f"logs.set_up(Path({str(tmp_path)!r}), 'daemon')\n"
        f"warnings.warn({NAME!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "DOE" not in done.stderr + (tmp_path / "daemon.jsonl").read_text()


def test_files_are_private_and_their_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 10_000)
    logs.set_up(tmp_path / "logs", "daemon")
    for number in range(2000):
        log.info("number %d", number)
    files = list((tmp_path / "logs").iterdir())
    assert len(files) == 1 + logs.KEPT_FILES
    assert sum(path.stat().st_size for path in files) <= 10_000 * len(files)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "daemon.jsonl").mkdir()
    logs.set_up(tmp_path, "daemon")
    log.info("lost %s", NAME)
    assert "DOE" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("line", [f"Traceback: {NAME}", f"terminate called: {NAME}", '{"time": "DOE', NAME])
def test_of_a_childs_output_only_our_own_lines_pass(line: str) -> None:
    assert "DOE" not in logs.own_lines(line)
    assert json.loads(logs.own_lines(line))["fields"] == [len(line)]


def test_our_own_lines_pass_unchanged() -> None:
    record = logging.LogRecord("client.x", logging.INFO, "", 1, "event %s", ("sgd",), None)
    line = logs.JsonLines().format(record)
    assert logs.own_lines(line) == line
    assert logs.own_lines("") == ""


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("\x1b[92mINFO \x1b[0m:      Sending: train message (ID: ab)", "Sending: train message (ID: ab)"),
        ("\x1b[91mERROR \x1b[0m:     Failed to send message 12: ValueError('DOE^JANE')", "Failed to send message 12:"),
        ("ERROR :     cannot open /scans/DOE^JANE", "cannot open"),
    ],
)
def test_flowers_lines_keep_their_fixed_words_alone(line: str, event: str) -> None:
    kept = json.loads(logs.flower_lines(line))
    assert kept["event"] == event
    assert "DOE" not in logs.flower_lines(line)


def test_flowers_tracebacks_are_withheld() -> None:
    assert "DOE" not in logs.flower_lines(f"ValueError: {NAME}")
