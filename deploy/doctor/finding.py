"""What a check found: how bad it is, what is true, how to fix it."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from common.errors import DiskFull, FileLocked, WardroundError

log = logging.getLogger(__name__)

Level = Literal["ok", "warning", "failure"]
Check = Callable[[], Iterable["Finding"]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table. It holds no patient identifier.

    Attributes:
        check: What was looked at.
        level: "warning" works for now; "failure" does not work, or must not.
        finding: What is true.
        fix: What to do about it; "" where nothing is.
        blocks: The daemon must not start before it is fixed. A coordinator that cannot be reached does not block: the
            daemon keeps trying.
    """

    check: str
    level: Level
    finding: str
    fix: str = ""
    blocks: bool = False


def ok(check: str, finding: str) -> Finding:
    """All is well."""
    return Finding(check=check, level="ok", finding=finding)


def warning(check: str, finding: str, fix: str) -> Finding:
    """It works for now.

    Args:
        check: Name of the check.
        finding: What is true.
        fix: What to do next.
    """
    return Finding(check=check, level="warning", finding=finding, fix=fix)


def failure(check: str, finding: str, fix: str, *, blocks: bool = False) -> Finding:
    """It does not work, or must not.

    Args:
        check: Name of the check.
        finding: What is true.
        fix: What to do next.
        blocks: Whether `serve` must not start with it.
    """
    return Finding(check=check, level="failure", finding=finding, fix=fix, blocks=blocks)


def examine(checks: dict[str, Check]) -> list[Finding]:
    """Run every check; one that breaks is a finding of its own and stops no other."""
    found: list[Finding] = []
    for name, check in checks.items():
        try:
            found += check()
        except WardroundError as error:
            passes = isinstance(error, DiskFull | FileLocked)
            said = f"{type(error).__name__}: {error}"
            found.append(failure(name, said, "Do what the message says", blocks=not passes))
        except Exception as error:
            log.exception("the check %s broke", name)
            found.append(warning(name, f"the check broke ({type(error).__name__})", "Run with -v and report it"))
    return found


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among the findings."""
    levels = {finding.level for finding in findings}
    return "failure" if "failure" in levels else "warning" if "warning" in levels else "ok"
