"""Fail when a Python file passes 400 lines; ruff holds functions at 40 statements (PLR0915)."""

import subprocess
import sys
from pathlib import Path

LIMIT = 400


def main() -> int:
    """Print every tracked or new Python file over the limit; exit 1 if there is one."""
    root = Path(__file__).resolve().parents[1]
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    files = [root / name for name in listing.stdout.splitlines() if (root / name).exists()]
    long = [(len(path.read_text(encoding="utf-8").splitlines()), path) for path in files]
    for lines, path in (over := [entry for entry in long if entry[0] > LIMIT]):
        sys.stdout.write(f"{path.relative_to(root)}: {lines} lines, limit {LIMIT}\n")
    sys.stdout.write(f"{len(files)} files, longest {max(long)[0] if long else 0} lines\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
