"""From a TOML table to a frozen dataclass: every fault of the table is named by its dotted key, all of them at once."""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin

from common.errors import WardroundError
from common.plan.rules import gathered

_T = TypeVar("_T")
_MISSING = object()


def build(cls: type[_T], table: dict[str, Any], *, what: str, error: type[WardroundError], prefix: str = "") -> _T:
    """Make the dataclass `cls` from a TOML table.

    Args:
        cls: A dataclass whose fields are dataclasses, scalars, Literals or tuples of scalars.
        table: What `tomllib` read.
        what: Names the file in messages, e.g. "plan".
        error: Type of the error raised.
        prefix: Dotted path of this table, for messages.

    Raises:
        WardroundError: (as `error`) unknown keys, missing keys and values of the wrong type or against a rule; the
            message names them all.
    """
    reader = _Reader(cls)
    made = reader.table(cls, table, prefix)
    if not reader.faults:
        return made  # type: ignore[no-any-return]
    several = f"{len(reader.faults)} faults: " if reader.faults[1:] else ""
    raise error(f"{what}: {several}{'; '.join(reader.faults)}")


class _Reader:
    """Reads one file; what is wrong with it gathers in `faults`."""

    def __init__(self, root: type) -> None:
        self.faults: list[str] = []
        self._known = list(_dotted(root))

    def table(self, cls: type, table: dict[str, Any], prefix: str) -> Any:
        """The dataclass of a table, or `_MISSING` where anything in the table is wrong."""
        before, hints = len(self.faults), typing.get_type_hints(cls)
        for key in sorted(set(table) - set(hints)):
            self.faults.append(self._unknown(key, prefix, hints))
        values = {key: self.value(hints[key], value, prefix + key) for key, value in table.items() if key in hints}
        for field in dataclasses.fields(cls):
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and field.name not in values:
                self.faults.append(f"`{prefix}{field.name}` is missing")
        made: Any = _MISSING
        if not any(value is _MISSING for value in values.values()) and (before == len(self.faults)):
            with gathered() as faults:
                made = cls(**values)
            self.faults += faults
        return made if before == len(self.faults) else _MISSING

    def value(self, hint: Any, value: object, key: str) -> Any:
        """The value of a key, or `_MISSING` where it is wrong."""
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, dict):
                return self._wrong(key, "a table", value)
            return self.table(hint, value, f"{key}.")
        if get_origin(hint) in (types.UnionType, typing.Union):
            scalar, sequence = get_args(hint)
            return self.value(sequence if isinstance(value, list) else scalar, value, key)
        if get_origin(hint) is tuple:
            return self._tuple(get_args(hint), value, key)
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                return self._wrong(key, " or ".join(map(str, get_args(hint))), value)
            return value
        return self._scalar(hint, value, key)

    def _tuple(self, items: tuple[Any, ...], value: object, key: str) -> Any:
        if not isinstance(value, list):
            return self._wrong(key, "a list", value)
        if items[-1] is not Ellipsis and len(value) != len(items):
            return self._wrong(key, f"a list of {len(items)} values", value)
        made = tuple(self.value(items[0], item, key) for item in value)
        return _MISSING if any(item is _MISSING for item in made) else made

    def _scalar(self, hint: type, value: object, key: str) -> Any:
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            return self._wrong(key, f"of type {hint.__name__}", value)
        return value

    def _wrong(self, key: str, rule: str, value: object) -> Any:
        self.faults.append(f"`{key}` must be {rule}, not {value!r}")
        return _MISSING

    def _unknown(self, key: str, prefix: str, here: dict[str, Any]) -> str:
        """Name the nearest known key: of this table by its letters, or of another table by its very name."""
        near = [prefix + name for name in difflib.get_close_matches(key, here, n=1)]
        near = near or [dotted for dotted in self._known if dotted.rpartition(".")[2] == key]
        near = near or difflib.get_close_matches(prefix + key, self._known, n=1)
        meant = f"Did you mean `{near[0]}`? " if near else ""
        return f"unknown key `{prefix}{key}`. {meant}Known here: {', '.join(sorted(here))}"


def _dotted(cls: type, prefix: str = "") -> typing.Iterator[str]:
    """Every key of a dataclass and of those in it, dotted."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _dotted(hint, f"{prefix}{name}.")
