"""A guard is known by its function and its text: a reformat, an indent or a move to another file does not lose it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from mutation import Mutation
from mutation_place import fault, mutated, places

GUARD = Mutation(
    name="door: anybody may enter",
    file="client/door.py",
    at="Door.enter",
    old='        if not self._known(name, at="gate"):\n',
    new="        if False:\n",
    tests=(),
)
SOURCE = """
class Door:
    def enter(self, name):
        if not self._known(name, at="gate"):
            raise ValueError(name)

    def leave(self, name):
        if not self._known(name, at="gate"):
            return
"""
REFORMATTED = """
class Door:
    def enter(self, name):
        with self.lock:
            if not self._known(
                name,
                at="gate",
            ):
                raise ValueError(name)
"""


def _tree(root: Path, **files: str) -> Path:
    for room, text in files.items():
        (root / room).mkdir(parents=True)
        (root / room / "door.py").write_text(text)
    return root


def test_the_text_is_looked_for_inside_the_function_alone(tmp_path: Path) -> None:
    (place,) = places(_tree(tmp_path, client=SOURCE), GUARD)
    assert mutated(place, GUARD) == SOURCE.replace('if not self._known(name, at="gate"):', "if False:", 1)
    assert fault(tmp_path, GUARD) == ""


def test_a_reformat_and_a_new_indent_do_not_lose_a_guard(tmp_path: Path) -> None:
    (place,) = places(_tree(tmp_path, client=REFORMATTED), GUARD)
    assert "            if False:\n                raise ValueError(name)\n" in mutated(place, GUARD)


def test_a_function_that_moved_to_another_file_is_found_there(tmp_path: Path) -> None:
    (place,) = places(_tree(tmp_path, client="", common=SOURCE), GUARD)
    assert place.path == tmp_path / "common" / "door.py"
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "door.py").write_text(SOURCE)
    assert fault(tmp_path, GUARD).startswith("its text occurs 2 times in Door.enter"), "two places are no place"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"old": "if not self.known(name):"}, "occurs 0 times"),
        ({"at": ""}, "occurs 2 times"),
        ({"at": "", "old": "raise ValueError(name)"}, 'write at="Door.enter"'),
        ({"new": "if ("}, "is no Python"),
    ],
)
def test_a_guard_that_does_not_apply_says_why(tmp_path: Path, change: dict[str, str], why: str) -> None:
    fields = {name: getattr(GUARD, name) for name in ("name", "file", "at", "old", "new", "tests")}
    assert why in fault(_tree(tmp_path, client=SOURCE), Mutation(**{**fields, **change}))
