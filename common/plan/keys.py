"""Every key of a plan as a person reads it: type, rule, default, version, words, cost; from the settings themselves.

`wardround plan explain` and `docs/plan.md` print these. The words are those of the docstrings and the rules those of
the annotations (`common.plan.bounds`), so nothing is written twice.
"""

import dataclasses
import difflib
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from common.errors import PlanError
from common.plan.bounds import Table, bounds
from common.plan.canonical import since
from common.plan.study_plan import StudyPlan

FIRST = "0.1.0"
"""The version that had every key which names no later one."""
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of the plan.

    Attributes:
        name: Dotted name, e.g. "training.rounds".
        type: What kind of value it takes, in words.
        rule: What else the value must be, to follow "must be"; "" where every value of the type will do.
        default: The default as it stands in TOML; None where the key must be given.
        since: The version that has it first.
        words: What it means.
        costs: What a larger or another value costs.
    """

    name: str
    type: str
    rule: str
    default: str | None
    since: str
    words: str
    costs: str

    def to_dict(self) -> dict[str, Any]:
        """Return the key as plain JSON types."""
        return dataclasses.asdict(self)


@functools.cache
def keys() -> tuple[Key, ...]:
    """All keys, table after table as in a plan, those of the plan itself first."""
    own = [field for field in dataclasses.fields(StudyPlan) if not _is_table(field)]
    found = list(_of(StudyPlan, own, ""))
    for field in dataclasses.fields(StudyPlan):
        if _is_table(field):
            table: Any = field.type
            found += _of(table, dataclasses.fields(table), f"{field.name}.")
    return tuple(found)


def tables() -> dict[str, str]:
    """What each table of a plan is, in one sentence, by its name."""
    found = {field.name: field.type for field in dataclasses.fields(StudyPlan) if _is_table(field)}
    return {name: _first_line(kind) for name, kind in found.items()}


def _first_line(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def find(name: str) -> list[Key]:
    """The key of a dotted name, all keys of a table, or every key that is so called in any table.

    Args:
        name: For example "training.rounds", "training" or "rounds".

    Raises:
        PlanError: There is none; the nearest is named.
    """
    exact = [key for key in keys() if key.name == name]
    of_table = [key for key in keys() if key.name.startswith(f"{name}.")]
    if found := exact or of_table or [key for key in keys() if key.name.endswith(f".{name}")]:
        return found
    known = [key.name for key in keys()]
    near = difflib.get_close_matches(name, [*known, *(key.rpartition(".")[2] for key in known)], n=1)
    meant = f" Did you mean `{near[0]}`?" if near else ""
    raise PlanError(f"a plan has no key {name!r}.{meant} `wardround plan explain` lists all of them")


def in_toml(value: Any) -> str:
    """A value as it stands in a plan."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    if isinstance(value, float):
        return f"{value:g}" if re.search(r"[.e]", f"{value:g}") else f"{value:.1f}"
    return json.dumps(value, ensure_ascii=False)


def _of(cls: type[Table], fields: Iterable[dataclasses.Field[Any]], prefix: str) -> Iterator[Key]:
    hints, told = typing.get_type_hints(cls, include_extras=True), attributes(cls)
    found = bounds(cls)  # type: ignore[arg-type]  # mypy asks the class for its objects' hash
    for field in fields:
        yield Key(
            name=prefix + field.name,
            type=_type(hints[field.name]),
            rule="; ".join(bound.words for name, bound in found if name == field.name),
            default=None if field.default is dataclasses.MISSING else in_toml(field.default),
            since=since(field) or FIRST,
            words=told.get(field.name, ""),
            costs=cls.costs.get(field.name, "nothing"),
        )


def attributes(cls: type) -> dict[str, str]:
    """What a class's docstring says of each attribute, each as one line."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def _type(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return _type(get_args(hint)[0])
    if origin is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(hint))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_type, get_args(hint)))
    if origin is tuple:
        items = get_args(hint)
        return f"list of {_NAMES[items[0]]}s" if items[-1] is Ellipsis else f"{len(items)} {_NAMES[items[0]]}s"
    return _NAMES[hint]


def _is_table(field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(field.type)
