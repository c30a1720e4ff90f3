"""Bring up one coordinator and its hospitals on loopback, run a study through `flwr run`, release, take all down.

Exit status 0 only if the study was released, images were drawn from its decoder and no process is left behind.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from deploy.install.lab import Lab


def main() -> int:
    """Run the whole journey; print each step and one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Folder to create and keep.  [default: a temporary one]")
    parser.add_argument("--hospitals", type=int, choices=(2, 3), default=3, help="How many.  [default: 3]")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wardround-lab-") as scratch:
        return journey(chosen.out or Path(scratch) / "lab", hospitals=chosen.hospitals)


def journey(folder: Path, *, hospitals: int) -> int:
    """Everything, in order; the daemons are taken down whatever happens."""
    began = time.monotonic()
    lab = Lab.build(folder, hospitals=hospitals, say=say)
    left: list[int] = []
    try:
        lab.up()
        lab.submit()
        card = lab.finish()
        say("drawing images from the released decoder")
        drawn = lab.coordinator.wardround("generate", lab.run_dir, "--out", folder / "images", "--count", "4")
    finally:
        left = lab.down()
    result = {
        "rounds": len(card["rounds"]),
        "epsilon_by_site": card["privacy"]["epsilon_by_site"],
        "images": sum(drawn["images"].values()),
        "synthetic": sum(1 for _ in (lab.run_dir / "synthetic").rglob("*.dcm")),
        "left_behind": left,
        "seconds": round(time.monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if left else 0


def say(words: str) -> None:
    """Print a step on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {words}\n")


if __name__ == "__main__":
    sys.exit(main())
