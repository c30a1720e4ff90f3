"""Hold the docstrings: every argument of a public function with three or more is explained, and a summary is short.

    .venv/bin/python scripts/check_docstrings.py           every room that lacks more than `OPEN` allows; exit code 1
    .venv/bin/python scripts/check_docstrings.py --list    every function that lacks some

A docstring is complete when its `Args:` names every argument. Commands are exempt, because their docstring is the help
text that a user reads. Methods of private classes and functions inside functions are exempt as well.

A summary is the first paragraph of any docstring. None of its sentences has more words than a document's may have.
"""

import ast
import itertools
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from check_words import LONGEST_SENTENCE, sentences, words

ROOT = Path(__file__).resolve().parents[1]
FEWEST = 3
OPEN = {
    "client/mechanism": 5, "client/pacs": 3, "server/aggregation": 2,
    "server/model": 6,
}  # fmt: skip
"""Functions that may still lack arguments, by room. Lower a number when it falls; never raise one."""
_ELSEWHERE = re.compile(r"arguments (and errors )?as |\ASee `|\A.*[Ss]ee `[\w.]+`\.?$", re.MULTILINE)
"""A docstring that leaves its arguments to the protocol or the library function that it names."""
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def main(arguments: list[str]) -> int:
    """Print what is missing; 1 if a room lacks more than `OPEN` allows."""
    missing: dict[str, list[str]] = defaultdict(list)
    total, long = 0, []
    for name in _files():
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        long += [f"{name}:{line}: {fault}" for line, fault in long_summaries(tree)]
        for function in _public(tree):
            total += len(_arguments(function)) >= FEWEST
            if lacking := lacks(function):
                text = f"{name}:{function.lineno}: {function.name} does not explain {', '.join(lacking)}"
                missing["/".join(name.split("/")[:2])].append(text)
    worse = {room: found for room, found in missing.items() if len(found) > OPEN.get(room, 0)}
    shown = missing if "--list" in arguments else worse
    lines = [*long, *(text for found in shown.values() for text in found)]
    lines += [
        f"{room}: {len(found)} functions, at most {OPEN.get(room, 0)} may lack arguments"
        for room, found in worse.items()
    ]
    count = sum(map(len, missing.values()))
    sys.stdout.write("\n".join([*lines, f"{total - count} of {total} functions explain their arguments"]) + "\n")
    return 1 if worse or long else 0


def long_summaries(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give line and text of each sentence of a summary that is too long."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTION)):
            lines = (ast.get_docstring(node) or "").splitlines()
            summary = " ".join(itertools.takewhile(str.strip, lines))
            for sentence in sentences(summary):
                if (count := words(sentence)) > LONGEST_SENTENCE:
                    text = f"{count} words, at most {LONGEST_SENTENCE}: {sentence[:70]}"
                    yield getattr(node, "lineno", 1), text


def lacks(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """List the arguments that the docstring's `Args:` does not name; none where there are fewer than three."""
    names = _arguments(function)
    if len(names) < FEWEST:
        return []
    text = ast.get_docstring(function) or ""
    if _ELSEWHERE.search(text):
        return []
    explained = text.partition("Args:\n")[2]
    return [name for name in names if not re.search(rf"^ +(\w+, )*{name}(, \w+)*:", explained, re.MULTILINE)]


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [one.arg for one in every if one.arg not in ("self", "cls")]


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for one in inside:
            if isinstance(one, _FUNCTION) and not one.name.startswith("_") and not _is_command(one):
                yield one


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("command" in ast.unparse(one) or "option" in ast.unparse(one) for one in function.decorator_list)


def _files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "client/*.py", "common/*.py", "deploy/*.py",
         "server/*.py"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
