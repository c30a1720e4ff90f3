"""Which rooms may import a library is an allow-list in pyproject.toml, and no library is left out of it."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"common", "client", "server", "deploy"}
EVERYWHERE = {"numpy"}
"""Arrays are what all rooms pass on."""


def libraries() -> Iterator[tuple[str, str]]:
    """Every library that the product imports, with the file that does."""
    for floor in sorted(OURS):
        for path in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for name in names:
                    yield name.split(".")[0], path.relative_to(ROOT).as_posix()


def test_every_library_that_the_product_imports_has_its_rooms() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    known = {name for contract in contracts for name in contract.get("protected_modules", ())}
    assert {"flwr", "opacus", "pydicom", "click", "starlette", "torch"} <= known
    found = {name: path for name, path in libraries() if name not in OURS | EVERYWHERE | sys.stdlib_module_names}
    assert found.keys() <= known, found
