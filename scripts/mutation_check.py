"""Take each guard of the privacy core out, one at a time, and see that a test notices.

    .venv/bin/python scripts/mutation_check.py              every mutation of `scripts/mutations.py`
    .venv/bin/python scripts/mutation_check.py noise clip   those whose name holds one of the words
    .venv/bin/python scripts/mutation_check.py --list       which guards there are, and whether each still applies
    .venv/bin/python scripts/mutation_check.py --stale      only those that no longer apply, as `scripts/check` does

A guard is known by its function or class and its text there, not by its line (`scripts/mutation_place.py`).
The source is patched in a temporary copy of the tree, never in place, and only the tests that the guard names run.
Exit code 1 if a mutation survives its tests, 2 if one no longer applies to the source.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mutation import Mutation
from mutation_place import fault, mutated, places
from mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[1]
_COPIED = ("common", "client", "server", "deploy", "tests", "pyproject.toml")
_PASSED = 0
"""Exit code of pytest where every test passed."""


def main(words: list[str]) -> int:
    """Check the mutations whose name holds one of the words (all without any) and print a table."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    if faults := [f"{mutation.name}: {why}" for mutation in chosen if (why := fault(ROOT, mutation))]:
        _say("\n".join(faults))
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy_tree(copy)
        _check_sound(copy, chosen)
        survivors = [mutation.name for mutation in chosen if not _check(copy, mutation)]
    _say(f"\n{len(chosen)} guards taken out, {len(chosen) - len(survivors)} noticed")
    for name in survivors:
        _say(f"SURVIVED: {name}")
    return 1 if survivors else 0


def list_guards(*, stale_only: bool) -> int:
    """Print guards and whether their mutations still apply; exit code 2 if one does not."""
    stale = {mutation: why for mutation in MUTATIONS if (why := fault(ROOT, mutation))}
    for mutation in stale if stale_only else MUTATIONS:
        state = "STALE" if mutation in stale else "ok   "
        _say(f"{state}  {mutation.name:58}  {mutation.file}  {stale.get(mutation, '')}")
    _say(f"{len(MUTATIONS)} guards, {len(stale)} stale")
    return 2 if stale else 0


def _copy_tree(copy: Path) -> None:
    """Copy every tracked or new file, and see that the copy is what Python would import there."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *_COPIED],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    found = subprocess.run(
        [sys.executable, "-c", "import client; print(client.__file__)"],
        cwd=copy, env=_environment(copy), capture_output=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip
    if not Path(found.strip()).is_relative_to(copy.resolve()):
        raise SystemExit(f"the copy is shadowed by {found.strip()}; nothing would have been mutated")


def _check_sound(copy: Path, chosen: list[Mutation]) -> None:
    """See that the tests pass while every guard is there: a test that fails anyway notices nothing."""
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    done = _run_tests(copy, tests)
    if done.returncode != _PASSED:
        raise SystemExit(f"the tests fail with every guard in place\n{done.stdout[-4000:]}{done.stderr[-2000:]}")


def _run_tests(copy: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line",
         f"--basetemp={copy / '.pytest'}", *tests],
        cwd=copy, env=_environment(copy), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def _check(copy: Path, mutation: Mutation) -> bool:
    """Apply one mutation in the copy, run its tests, undo it; whether a test failed."""
    (place,) = places(copy, mutation)
    path, sound = place.path, place.path.read_text(encoding="utf-8")
    path.write_text(mutated(place, mutation), encoding="utf-8")
    try:
        done = _run_tests(copy, mutation.tests)
    finally:
        path.write_text(sound, encoding="utf-8")
    noticed = re.search(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)
    if noticed is None and done.returncode < 0:  # without the guard a library killed the process, as one of C can
        _say(f"{mutation.name:58}  killed by {signal.Signals(-done.returncode).name}")
        return True
    if noticed is None and done.returncode != _PASSED:  # an error in a fixture is no verdict
        raise SystemExit(f"{mutation.name}: its tests did not run\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    _say(f"{mutation.name:58}  {noticed.group(1) if noticed else 'SURVIVED'}")
    return noticed is not None


def _environment(copy: Path) -> dict[str, str]:
    """The copy first on the path, also in child processes; no byte code that would outlive its source."""
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    listing = {"--list", "--stale"}.intersection(arguments)
    sys.exit(list_guards(stale_only="--stale" in listing) if listing else main(arguments))
