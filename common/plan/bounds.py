"""What a key of the plan may hold, as an annotation of its type: `Annotated[float, Within(0, 1, above=True)]`.

A table that is made checks every key by the bounds of its annotation (`Table`). What two keys say of each other stays
code, in `_check` of the table that holds both.
"""

import dataclasses
import functools
import operator
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from common.plan.rules import require


class Bound(Protocol):
    """One rule for the value of a key.

    Attributes:
        words: What the value must be, to follow "must be".
    """

    @property
    def words(self) -> str: ...  # noqa: D102 - see the class

    def keeps(self, value: Any) -> bool:
        """Whether the value keeps the rule; a value of another type may raise anything."""


@dataclass(frozen=True)
class Within:
    """A number between two others.

    Attributes:
        low: Least value.
        high: Largest value; None where there is none.
        above: Whether `low` itself is too low.
        below: Whether `high` itself is too high.
    """

    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    @property
    def words(self) -> str:
        """See `Bound`."""
        low = _plain(self.low)
        if self.high is None:
            return f"above {low}" if self.above else f"{low} or more"
        high = _plain(self.high)
        if self.above:
            return f"above {low} and {'below' if self.below else 'at most'} {high}"
        return f"from {low} to {'below ' if self.below else ''}{high}"

    def keeps(self, value: float) -> bool:
        """See `Bound`; nan lies between no two numbers."""
        enough = value > self.low if self.above else value >= self.low
        return enough and (self.high is None or (value < self.high if self.below else value <= self.high))


@dataclass(frozen=True)
class Matching:
    """A text that a pattern describes whole, or a list of such texts.

    Attributes:
        pattern: Regular expression.
        words: The pattern in words.
    """

    pattern: str
    words: str

    def keeps(self, value: str | tuple[str, ...]) -> bool:
        """See `Bound`."""
        texts = value if isinstance(value, tuple) else (value,)
        return all(re.fullmatch(self.pattern, text) for text in texts)


@dataclass(frozen=True)
class Such:
    """Any other rule for one value: a condition and its words."""

    holds: Callable[[Any], bool]
    words: str

    def keeps(self, value: Any) -> bool:
        """See `Bound`."""
        return self.holds(value)


class Table:
    """One table of the plan: a dataclass whose annotations carry bounds.

    Attributes:
        table: Its name in the plan, "" for the plan itself.
        costs: What another value of a key costs (budget, noise, time, space), by key; a key that is not here costs none
            of these.
    """

    table: ClassVar[str] = ""
    costs: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name, bound in bounds(type(self)):  # type: ignore[arg-type]  # mypy asks the class for its objects' hash
            self.must(bound.keeps(getattr(self, name)), name, bound.words)
        self._check()

    def _check(self) -> None:
        """Refuse values that do not go together. Each of them keeps its own bounds, or was refused already."""

    def must(self, condition: bool, name: str, words: str) -> None:
        """Refuse the value of a key unless a condition holds, as `common.plan.rules.require` does.

        Args:
            condition: Whether the value keeps the rule.
            name: The key in this table, dotted where it is in a table of this one.
            words: What the value must be, to follow "must be".
        """
        value = operator.attrgetter(name)(self)
        key = f"{self.table}.{name}" if self.table else name
        require(condition, key, words, list(value) if isinstance(value, tuple) else value)


@functools.cache
def bounds(cls: type) -> tuple[tuple[str, Bound], ...]:
    """Every bound of a table, with its key, in the order of the keys."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = ((field.name, getattr(hints[field.name], "__metadata__", ())) for field in dataclasses.fields(cls))
    return tuple((name, bound) for name, metadata in found for bound in metadata)


def _plain(number: float) -> str:
    """A number as a person writes it: 10000000, 0.5, 1e-12."""
    return str(number) if isinstance(number, int) else f"{number:g}"
