"""`make demo`: three phantom hospitals, one federated study, synthetic DICOM and a report; prints time and memory."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30


class PeakMemory(threading.Thread):
    """Samples the resident memory of this process and all its children, and keeps the largest sum."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample ten times a second until stopped."""
        me = psutil.Process()
        while not self._ended.wait(0.1):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        """End the sampling and return the peak, bytes."""
        self._ended.set()
        self.join()
        return self.peak


def main() -> int:
    """Run the demo in a fresh folder below `runs/` and print where its report lies."""
    folder = ROOT / "runs" / time.strftime("demo-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    memory = PeakMemory()
    memory.start()
    began = time.monotonic()
    hospitals, run = folder / "hospitals", folder / "run"
    wardround(["demo-data", str(hospitals)])
    sites = [part for site in sorted(hospitals.iterdir()) for part in ("--site", str(site))]
    wardround(
        [
            "simulate",
            str(ROOT / "deploy/examples/chest-phantoms.toml"),
            *sites,
            "--out",
            str(run),
            "--seed",
            "1",
        ]
    )
    seconds, peak = time.monotonic() - began, memory.stop()
    files = sum(1 for _ in (run / "synthetic").rglob("*.dcm"))
    sys.stdout.write(
        f"\n{files} synthetic DICOM files in {run / 'synthetic'}\nreport: {run / 'report.html'}\n"
        f"took {seconds:.0f} s, peak memory of the whole process tree {peak / GIB:.2f} GiB\n"
    )
    return 0


def wardround(arguments: list[str]) -> None:
    """Run the installed command; its failure ends the demo with its own message and exit code."""
    done = subprocess.run([str(Path(sys.executable).parent / "wardround"), *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
