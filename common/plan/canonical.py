"""The canonical form of settings: plain JSON types, without the later keys that keep their default.

A plan's digest names it in approvals, ledgers and spools. A key that a later version adds must not change the digest of
a plan that does not use it. Such a key is declared with `later`, and `canonical` leaves it out at its default. The
default of a later key therefore never changes: the same digest would name another study.
"""

import dataclasses
from typing import Any, TypeVar

_T = TypeVar("_T")
_SINCE = "since"


def later(default: _T, *, since: str) -> _T:
    """Declare a key, or a whole table, that did not exist before version `since`.

    Args:
        default: The value that means what every version before `since` did; immutable.
        since: The version that added the key, e.g. "0.1.0".
    """
    return dataclasses.field(default=default, metadata={_SINCE: since})


def since(field: dataclasses.Field[Any]) -> str:
    """The version that added a key; "" for one that the first version had."""
    return str(field.metadata.get(_SINCE, ""))


def later_keys(cls: type, prefix: str = "") -> dict[str, tuple[str, Any]]:
    """Version and default of every later key of a settings class, by its dotted name."""
    found: dict[str, tuple[str, Any]] = {}
    for field in dataclasses.fields(cls):
        if _SINCE in field.metadata:
            found[prefix + field.name] = (field.metadata[_SINCE], field.default)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= later_keys(field.type, f"{prefix}{field.name}.")
    return found


def canonical(value: Any) -> Any:
    """Plain JSON types of settings: dataclasses become tables, tuples become lists, later keys at defaults go."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [field for field in dataclasses.fields(value) if not _unused(field, getattr(value, field.name))]
        return {field.name: canonical(getattr(value, field.name)) for field in kept}
    return [canonical(item) for item in value] if isinstance(value, tuple) else value


def _unused(field: dataclasses.Field[Any], value: object) -> bool:
    return _SINCE in field.metadata and value == field.default
