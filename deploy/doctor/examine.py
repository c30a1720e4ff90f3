"""Which side a home belongs to, and every check of that side."""

from pathlib import Path

from client.site import layout
from common.errors import StateError
from deploy.doctor.finding import Check, Finding, examine


def run_checks(home: Path) -> list[Finding]:
    """Examine a coordinator's or a hospital's home; changes nothing and never raises for what it finds.

    Args:
        home: A folder with a `server.toml` or a `site.toml`.

    Raises:
        StateError: It is neither.
    """
    return examine(_checks(home)[0])


def require_fit(home: Path) -> None:
    """What `serve` runs first: refuse to start on anything that must be fixed before.

    Only the checks that can block are run: they load no model library, which a daemon would keep for months.

    Raises:
        StateError: There is such a thing; the message names the first and how to fix it.
    """
    checks, before_serve = _checks(home)
    findings = examine({name: checks[name] for name in before_serve})
    if blocking := [finding for finding in findings if finding.blocks]:
        first = blocking[0]
        more = f" ({len(blocking) - 1} more: see `wardround doctor`)" if blocking[1:] else ""
        raise StateError(f"{first.check}: {first.finding}. {first.fix}{more}")


def _checks(home: Path) -> tuple[dict[str, Check], tuple[str, ...]]:
    """Every check of the home's side, and the names of those before `serve`."""
    if (home / "server.toml").exists():
        from deploy.doctor import coordinator

        return coordinator.checks(home.resolve()), coordinator.BEFORE_SERVE
    if (home / layout.RULES).exists():
        from deploy.doctor import hospital

        return hospital.checks(home.resolve()), hospital.BEFORE_SERVE
    raise StateError(
        f"{home} is neither a coordinator's home (server.toml) nor a hospital's (site.toml). Name one with --home"
    )
