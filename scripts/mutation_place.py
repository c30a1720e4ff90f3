"""The place of a mutation: its file, the function or class that it names, and the text inside it, however formatted.

A text is compared token by token, so a reformat does not lose it: white space and line breaks count for nothing, nor
does a comma before a closing bracket. A function that moved to another file is found there, as long as one place in
the product's code holds that name with that text.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mutation import Mutation

PRODUCT = ("common", "client", "server", "deploy")
_TOKEN = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|\w+|[^\w\s]')
_WORD = re.compile(r"\w")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One occurrence of a mutation's text.

    Attributes:
        path: The file.
        start: Where the text begins in the file, in characters.
        end: Where it ends.
    """

    path: Path
    start: int
    end: int


def places(root: Path, mutation: Mutation) -> list[Place]:
    """Find every place of a mutation: in its file, or where its function or class has moved to."""
    file = root / mutation.file
    if found := _in_file(file, mutation):
        return found
    others = (path for folder in PRODUCT for path in sorted((root / folder).rglob("*.py")) if path != file)
    return [place for path in others for place in _in_file(path, mutation)]


def mutated(place: Place, mutation: Mutation) -> str:
    """Give the file's source with the mutation in place.

    Raises:
        SyntaxError: what comes out is no Python.
    """
    source = place.path.read_text(encoding="utf-8")
    lead = _indent(mutation.old)
    line = source.rfind("\n", 0, place.start) + 1
    column = len(source[line : place.start]) if not source[line : place.start].strip() else None
    start = line if lead and column is not None else place.start
    new = mutation.new.strip("\n") if lead else mutation.new.strip()
    shift = 0 if not lead or column is None else column - len(lead)
    first, *rest = new.split("\n")
    first = _shifted(first, shift) if lead else first
    text = "\n".join([first, *(_shifted(one, shift) for one in rest)])
    changed = source[:start] + text + source[place.end :]
    ast.parse(changed)
    return changed


def fault(root: Path, mutation: Mutation) -> str:
    """Say why a mutation does not apply to the source, and what to do; empty where it applies."""
    found = places(root, mutation)
    if len(found) != 1:
        return f"its text occurs {len(found)} times in {mutation.at or 'all'} of {mutation.file}, not once"
    if not mutation.at:
        (place,) = found
        inside = symbol_at(place.path.read_text(encoding="utf-8"), place.start, place.end)
        return f'it names no function or class; write at="{inside}"' if inside else ""
    try:
        mutated(found[0], mutation)
    except SyntaxError as error:
        return f"what stands there with the guard out is no Python: {error}"
    return ""


def symbol_at(source: str, start: int, end: int) -> str:
    """Name the innermost function, class or assignment that holds all of a text; empty for none."""
    holding = [(first, name) for name, first, last in _symbols(source) if first <= start and end <= last]
    return max(holding)[1] if holding else ""


def _in_file(path: Path, mutation: Mutation) -> list[Place]:
    if not path.is_file():
        return []
    source = path.read_text(encoding="utf-8")
    pattern = _pattern(mutation.old)
    spans = (
        [(0, len(source))]
        if not mutation.at
        else [(first, last) for name, first, last in _symbols(source) if name == mutation.at]
    )
    return [
        Place(path=path, start=match.start(), end=match.end())
        for first, last in spans
        for match in pattern.finditer(source, first, last)
    ]


@cache
def _symbols(source: str) -> tuple[tuple[str, int, int], ...]:
    """List functions, classes and assignments outside functions as (dotted name, start, end), in characters."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[tuple[str, int, int]] = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = _name(child, inside=node)
            if name and isinstance(child, ast.stmt):
                decorators = getattr(child, "decorator_list", [])
                first = min([child.lineno, *(one.lineno for one in decorators)])
                found.append((prefix + name, starts[first - 1], starts[child.end_lineno or first]))
            visit(child, f"{prefix}{name}." if name else prefix)

    visit(ast.parse(source), "")
    return tuple(found)


def _name(node: ast.AST, *, inside: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(inside, ast.Module | ast.ClassDef):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [one.elts[0] if isinstance(one, ast.Tuple) else one for one in targets]
        return next((one.id for one in names if isinstance(one, ast.Name)), "")
    return ""


@cache
def _pattern(text: str) -> re.Pattern[str]:
    parts: list[str] = []
    tokens = _TOKEN.findall(text)
    for before, token in zip(["", *tokens], tokens, strict=False):
        if before:
            both_words = _WORD.match(before[-1]) and _WORD.match(token[0])
            parts.append(r"\s+" if both_words else r"\s*")
        if token in ")]}" and before not in (",", "(", "[", "{", ""):
            parts.append(r",?\s*")
        parts.append(re.escape(token))
    return re.compile("".join(parts))


def _indent(text: str) -> str:
    """Give the white space before the first token of a text, on its line."""
    return text[: len(text) - len(text.lstrip())].rpartition("\n")[2]


def _shifted(line: str, by: int) -> str:
    if by >= 0 or not line.strip():
        return " " * by + line if line.strip() else line
    return line[min(-by, len(line) - len(line.lstrip())) :]
