"""From a TOML table to a frozen dataclass: unknown keys and wrong types are refused by their dotted name."""

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin

from common.errors import WardroundError

_T = TypeVar("_T")


def build(cls: type[_T], table: dict[str, Any], *, what: str, error: type[WardroundError], prefix: str = "") -> _T:
    """Make the dataclass `cls` from a TOML table.

    Args:
        cls: A dataclass whose fields are dataclasses, scalars, Literals or tuples of scalars.
        table: What `tomllib` read.
        what: Names the file in messages, e.g. "plan".
        error: Type of the error raised.
        prefix: Dotted path of this table, for messages.

    Raises:
        WardroundError: (as `error`) an unknown key, a missing key or a value of the wrong type.
    """
    reader = _Reader(what, error)
    return reader.table(cls, table, prefix)


@dataclasses.dataclass(frozen=True)
class _Reader:
    what: str
    error: type[WardroundError]

    def table(self, cls: type[_T], table: dict[str, Any], prefix: str) -> _T:
        hints = typing.get_type_hints(cls)
        if unknown := sorted(set(table) - set(hints)):
            known = ", ".join(sorted(hints))
            raise self.error(f"{self.what}: unknown key `{prefix}{unknown[0]}`. Known here: {known}")
        values = {key: self.value(hints[key], value, prefix + key) for key, value in table.items()}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and field.name not in values:
                raise self.error(f"{self.what}: `{prefix}{field.name}` is missing")
        return cls(**values)

    def value(self, hint: Any, value: object, key: str) -> Any:
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, dict):
                raise self._wrong(key, "a table", value)
            return self.table(hint, value, f"{key}.")
        if get_origin(hint) in (types.UnionType, typing.Union):
            scalar, sequence = get_args(hint)
            return self.value(sequence if isinstance(value, list) else scalar, value, key)
        if get_origin(hint) is tuple:
            return self._tuple(get_args(hint), value, key)
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise self._wrong(key, " or ".join(map(str, get_args(hint))), value)
            return value
        return self._scalar(hint, value, key)

    def _tuple(self, items: tuple[Any, ...], value: object, key: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        if items[-1] is not Ellipsis and len(value) != len(items):
            raise self._wrong(key, f"a list of {len(items)} values", value)
        return tuple(self.value(items[0], item, key) for item in value)

    def _scalar(self, hint: type, value: object, key: str) -> Any:
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            raise self._wrong(key, f"of type {hint.__name__}", value)
        return value

    def _wrong(self, key: str, rule: str, value: object) -> WardroundError:
        return self.error(f"{self.what}: `{key}` must be {rule}, not {value!r}")
