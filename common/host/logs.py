"""Structured, rotated logs that cannot name a patient: one JSON object a line, values kept only where harmless.

Rule
    A line holds time, level, logger, event and fields. The event is the constant message of our own modules (the style
    guide forbids any other, and ruff's G rules hold it there). A field is a number, the type of an exception, a digest,
    an address of this machine or one short word. Such a word is of lower-case letters, digits and dashes, and our code
    gave it. Any other text is withheld: of an exception, a path, a tag. Of a traceback the types and places in code
    remain. Other libraries format what they like into their messages, so of theirs only level, logger and place remain.
    Withholding is by what may stay, not by what must go: an unforeseen name is withheld too.
"""

import builtins
import json
import logging
import os
import re
import sys
import time
import traceback
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import by_name

MAX_BYTES, KEPT_FILES = 4 * 1024 * 1024, 3
"""Size at which a log file is rotated, and how many old ones are kept."""
WITHHELD = "withheld"

_OURS = ("common", "client", "server", "deploy", "wardround", "__main__")
_HARMLESS = re.compile(
    r"[0-9a-f]{64}|[a-z][a-z0-9-]{0,31}|127\.0\.0\.1:\d{1,5}|[A-Z]{2,16}"  # digest, slug, address, state
)
_FLOWER_LINE = re.compile(r"^(?:\x1b\[[0-9;]*m)*(DEBUG|INFO|WARNING|ERROR)(?:\s|\x1b\[[0-9;]*m)*:\s*(.*)$")
_RISKY = re.compile(r"""(/|\\|'|"|\^|\w*(?:Error|Exception|Traceback))""")


class PrivateFile(RotatingFileHandler):
    """A rotated log file of mode 0600 whose own trouble (a full disk) never reaches the caller or stderr."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, delay=True, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(os.fdopen(handle, "ab"), encoding="utf-8", write_through=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Do nothing: a log that cannot be written must not stop the work, nor print what it would have held."""


class JsonLines(logging.Formatter):
    """Formats a record as this module's rule says."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one JSON line."""
        # A process of ours that was started by `python -m` calls its own module so.
        name = record.module if record.name == "__main__" else record.name
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": name,
        }
        if record.name.split(".")[0] in _OURS and isinstance(record.msg, str):
            arguments = record.args if isinstance(record.args, tuple) else (record.args,) if record.args else ()
            line |= {"event": record.msg, "fields": [_field(value) for value in arguments]}
        else:
            line |= {"event": "another library's message", "fields": [f"{record.module}:{record.lineno}"]}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _trace(record.exc_info[1])
        return json.dumps(line)


def set_up(folder: Path, name: str, *, level: int = logging.INFO) -> None:
    """Send this process's whole log to `folder/name.jsonl`, and nowhere else.

    One process writes one file; a supervised child logs to its standard error instead (`set_up_child`).

    Args:
        folder: Folder of the logs; made where it is missing.
        name: Name of the process.
        level: Least level that is written.
    """
    _install(PrivateFile(folder / f"{name}.jsonl"), level)


def set_up_child(*, level: int = logging.INFO) -> None:
    """Send this process's whole log as JSON lines to standard error, which its supervisor writes to a rotated file."""
    _install(logging.StreamHandler(sys.stderr), level)


def own_lines(line: str) -> str:
    """Return a child's output line if it is one of `JsonLines`; of any other, how long it was.

    For processes that handle scans: an interpreter's dying traceback or a C library's complaint may hold anything.
    """
    if line.startswith('{"time": ') and line.endswith("}"):
        return line
    return json.dumps({"event": "output withheld", "fields": [len(line)]}) if line.strip() else ""


def flower_lines(line: str) -> str:
    """Return a line of Flower's own log without anything that looks like a path, a quotation or an error's text.

    For processes that never see a scan (SuperNode, SuperLink).
    """
    found = _FLOWER_LINE.match(line.rstrip())
    if not found:
        return own_lines(line)
    level, text = found.groups()
    kept = re.split(_RISKY, text.strip(), maxsplit=1)[0].strip()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"time": stamp, "level": level, "logger": "flwr", "event": kept[:200]}) if kept else ""


def _install(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("flwr", "httpx", "httpcore", "uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _field(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, type):
        return value.__name__
    text = value if isinstance(value, str) else ""
    if _HARMLESS.fullmatch(text) or _is_error_name(text):
        return text
    return WITHHELD


def _is_error_name(text: str) -> bool:
    builtin = getattr(builtins, text, None)
    return by_name(text).__name__ == text or (isinstance(builtin, type) and issubclass(builtin, BaseException))


def _trace(error: BaseException) -> list[Any]:
    """Type and places of an error and of what caused it, innermost last; never its text."""
    chain: list[Any] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(chain) < 5:
        seen.add(id(current))
        chain.append({"type": type(current).__name__, "at": _places(current.__traceback__)})
        current = current.__cause__ or current.__context__
    return chain


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-6:] if trace else []
    return [f"{Path(frame.filename).stem}:{frame.lineno}" for frame in frames]
