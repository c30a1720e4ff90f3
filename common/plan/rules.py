"""The one way in which a section of the plan refuses a value: by its dotted name and the rule it breaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from common.errors import PlanError

_FAULTS: ContextVar[list[str] | None] = ContextVar("faults", default=None)


def require(condition: bool, key: str, rule: str, value: object) -> None:
    """Raise `PlanError` unless `condition` holds; within `gathered`, note the fault and go on.

    Args:
        condition: Whether the value keeps the rule.
        key: Dotted name of the key, e.g. "training.rounds".
        rule: What the value must be, to follow "must be".
        value: What it is.
    """
    if condition:
        return
    fault = f"`{key}` must be {rule}, not {value!r}"
    if (faults := _FAULTS.get()) is None:
        raise PlanError(f"plan: {fault}")
    faults.append(fault)


@contextmanager
def gathered() -> Iterator[list[str]]:
    """Have `require` note faults in the list that is yielded, so that one table shows all of its faults at once.

    What is made within is not to be used when the list is not empty in the end. A check behind a failed one may rest on
    what that has found wrong, so any error it ends with is left out.
    """
    faults: list[str] = []
    token = _FAULTS.set(faults)
    try:
        yield faults
    except Exception:
        if not faults:
            raise
    finally:
        _FAULTS.reset(token)
