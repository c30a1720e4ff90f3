"""One place knows what a home's files are called, and one what a site may be called."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.site import layout
from common.wire.site_name import is_site_name

ROOT = Path(__file__).resolve().parents[2]
NAMES = {value for name, value in vars(layout).items() if name.isupper()}
FILES = {name for name in NAMES if "." in name}
RULE = "{0,31}"
"""What no other pattern of the product ends in but that of a site's name."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for floor in ("common", "client", "server", "deploy"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_module_but_the_layout_writes_the_name_of_a_homes_file() -> None:
    assert {"ledger.sqlite", "site.toml", "secret.key", "egress.jsonl"} <= FILES
    found = [
        (path, node.value)
        for path, tree in trees()
        if path.startswith(("client/", "deploy/")) and path != "client/site/layout.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in FILES
    ]
    assert not found


def test_no_module_of_a_hospital_writes_the_name_of_a_homes_folder_in_a_path() -> None:
    found = [
        (path, node.right.value)
        for path, tree in trees()
        if path.startswith("client/") and path != "client/daemon/home.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if isinstance(node.right, ast.Constant) and node.right.value in NAMES - FILES
    ]
    assert not found


def test_one_pattern_says_what_a_site_may_be_called() -> None:
    found = {
        path
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(f"[a-z0-9-]{RULE}")
    }
    assert found == {"common/wire/site_name.py"}


@pytest.mark.parametrize(("name", "right"), [
    ("north", True), ("7", True), ("st-mary-2", True), ("a" * 32, True), ("a" * 33, False), ("", False),
    ("-north", False), ("North", False), ("north\n", False), ("nörth", False), ("a b", False), ("../a", False),
])  # fmt: skip
def test_a_site_is_called_by_lower_case_letters_digits_and_dashes(name: str, *, right: bool) -> None:
    assert is_site_name(name) is right
