"""Make the fixtures of `tests/old` again, with the code of an old commit.

    python scripts/make_old_fixtures.py                # commit b90add3 into tests/old/b90add3
    python scripts/make_old_fixtures.py COMMIT OUT     # needs a recipe for that commit's names: --recipe FILE

The commit is checked out into a folder of its own and runs the recipe with this Python's libraries. Keys, noise and
certificates are drawn anew, so the bytes differ each time and `expected.json` with them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD = ROOT / "tests" / "old"
COMMIT = "b90add3"
"""The last commit with flat folders and without later plan keys."""
NEUTRAL = "/srv/wardround"
"""What stands in the fixtures where the old code wrote the folder that they were made in."""


def main() -> int:
    """Check out, run the recipe, put the result in place of the fixtures of before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default=COMMIT)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--recipe", type=Path, default=OLD / "recipe.py")
    chosen = parser.parse_args()
    out = chosen.out or OLD / chosen.commit
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made).resolve()
        make(chosen.commit, chosen.recipe, scratch)
        neutral(scratch / "out", scratch)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(scratch / "out", out)
    return 0


def make(commit: str, recipe: Path, scratch: Path) -> None:
    """Write the fixtures below `scratch`/out by the code of `commit`."""
    checkout = scratch / "checkout"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", checkout, commit], cwd=ROOT, check=True)
    try:
        for folder in ("out", "data"):
            (scratch / folder).mkdir()
        copied = shutil.copy(recipe, scratch / "recipe.py")
        # `-P`: modules come from the checkout alone, whose tests the recipe uses, too
        subprocess.run(
            [sys.executable, "-P", copied, scratch / "out", scratch / "data"],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            check=True,
        )
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", checkout], cwd=ROOT, check=True)


def neutral(made: Path, scratch: Path) -> None:
    """Name no folder of this machine."""
    for path in made.rglob("*"):
        if path.suffix in (".json", ".toml", ".jsonl") and str(scratch) in (text := path.read_text(encoding="utf-8")):
            path.write_text(text.replace(str(scratch), NEUTRAL), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
