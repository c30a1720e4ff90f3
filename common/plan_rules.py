"""The one way in which a section of the plan refuses a value: by its dotted name and the rule it breaks."""

from common.errors import PlanError


def require(condition: bool, key: str, rule: str, value: object) -> None:
    """Raise `PlanError` unless `condition` holds.

    Args:
        condition: Whether the value keeps the rule.
        key: Dotted name of the key, e.g. "training.rounds".
        rule: What the value must be, to follow "must be".
        value: What it is.
    """
    if not condition:
        raise PlanError(f"plan: `{key}` must be {rule}, not {value!r}")
