"""Check of Flower's database at the coordinator: whether the Flower that is installed knows the form it is in."""

import contextlib
import importlib.util
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from common.wire import flower_version
from deploy.doctor.finding import Finding, failure, ok

_REVISION = re.compile(r"(?m)^revision(?:\s*:\s*str)?\s*=\s*[\"']([0-9a-f]+)[\"']")


def database(path: Path) -> Iterator[Finding]:
    """Whether Flower can open its database; a newer one that was here before has brought it into a newer form."""
    if not path.exists():
        yield ok("database", "not begun")
        return
    form, known = revisions(path), known_revisions()
    if form and known and not form <= known:
        yield failure(
            "database",
            f"a newer Flower has brought {path.name} into a form that {flower_version.installed()} does not know",
            "Install the newer version again, or put back the copy that was made before the upgrade: see "
            "*Upgrade* in docs/operations.md", blocks=True,
        )  # fmt: skip
    else:
        yield ok("database", f"of a form that Flower {flower_version.installed()} knows")


def revisions(path: Path) -> set[str]:
    """What the database says of its form; nothing where it says none or cannot be read now."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            return {str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")}
    except sqlite3.Error:
        return set()


def known_revisions() -> set[str]:
    """Every form that the installed Flower can begin with; nothing where it keeps them elsewhere."""
    found = importlib.util.find_spec("flwr")
    folders = found.submodule_search_locations if found else None
    known: set[str] = set()
    for folder in folders or ():
        for path in (Path(folder) / "supercore" / "state" / "alembic" / "versions").glob("*.py"):
            known |= set(_REVISION.findall(path.read_text(encoding="utf-8", errors="replace")))
    return known
