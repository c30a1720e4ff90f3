"""Kills an ingest with SIGKILL at random points, runs it again, and compares the cache with an uninterrupted one.

    python -m tests.benchmarks.kill_ingest [--points 50] [--seed 0]

Half the points are random moments, half are random system events (open, rename, mkdir, remove ...) as Python's audit
hooks tell them: the former hit the decoding, the latter the few milliseconds in which files change places. Each point
starts from one of three states: no cache, an older cache with fewer files, or a cache whose files all changed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.errors import CacheCorrupt, CacheMissing
from tests.client.scans import cohort

SETTINGS = IngestSettings(image_size=32)
EVENTS = (
    "open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.rmtree", "fcntl.flock", "os.scandir",
)  # fmt: skip
STATES = ("none", "older", "changed")


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked child; return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watched(report: Path, kill_at: int | None) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that counts events into `report`, and kills the process at the one asked for."""
    seen = 0

    def hook(event: str, _args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if kill_at is not None and seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if kill_at is None:
                os.pwrite(sheet, f"{seen:9d}".encode(), 0)

    sheet = os.open(report, os.O_WRONLY | os.O_CREAT)
    return hook


def prepare(home: Path, folder: Path, state: str, secret: bytes) -> None:
    """Bring home and folder to the state before the ingest."""
    for path in (home, folder):
        shutil.rmtree(path, ignore_errors=True)
    home.mkdir()
    (home / "secret.key").write_bytes(secret)
    files = cohort(folder, patients=12, images=3)
    if state != "none":
        aside = [path for path in files if state == "older" and path.parent.name in ("p3", "p7")]
        for path in aside:
            path.rename(folder.with_name(path.parent.name + path.name))
        ingest(folder, home, SETTINGS)
        for path in aside:
            folder.with_name(path.parent.name + path.name).rename(path)
        for path in files if state == "changed" else ():
            os.utime(path)


def content(home: Path) -> dict[str, bytes]:
    """Every byte of the cache but the lock."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted((home / "cache").rglob("*")) if path.is_file() and path.name != "LOCK"
    }  # fmt: skip


def in_use(files: dict[str, bytes]) -> dict[str, bytes]:
    """The part of `content` that the pointer points at."""
    name = files.get("cache/CURRENT", b"").decode()
    return {path: data for path, data in files.items() if name and Path(path).parent.name == name}


def run(points: int, seed: int) -> dict[str, object]:
    """Kill and compare `points` times; returns the counts."""
    dice = random.Random(seed)
    secret = bytes(range(32))
    result: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="wardround-kill-") as root:
        home, folder, report = Path(root) / "home", Path(root) / "in", Path(root) / "report"
        for _ in range(2):  # the first time loads what a decoder and a cache need
            prepare(home, folder, "none", secret)
            began = time.monotonic()
            ingest(folder, home, SETTINGS)
        lasts, whole = time.monotonic() - began, content(home)
        for point in range(points):
            state = STATES[point % len(STATES)]
            prepare(home, folder, state, secret)
            before = content(home) if state != "none" else {}
            kill_at = None
            if point % 2:
                in_child(lambda: (sys.addaudithook(watched(report, None)), ingest(folder, home, SETTINGS))[0])
                kill_at = dice.randint(1, int(report.read_text()))
                prepare(home, folder, state, secret)
            result[struck(home, folder, report, kill_at, dice.random() * lasts)] += 1
            try:
                Cache.open(home)
                right = in_use(content(home)) in (in_use(before), in_use(whole))
                result["old or new after the kill" if right else "WRONG"] += 1
            except (CacheCorrupt, CacheMissing):
                result["absent after the kill, as before it"] += not before
                result["LOST"] += bool(before)
            ingest(folder, home, SETTINGS)
            result["equal after the re-run" if content(home) == whole else "DIFFERENT"] += 1
    return dict(result)


def struck(home: Path, folder: Path, report: Path, kill_at: int | None, moment: float) -> str:
    """Ingest in a child and kill it at an event, or after a moment (seconds)."""

    def work() -> None:
        if kill_at is not None:
            sys.addaudithook(watched(report, kill_at))
        ingest(folder, home, SETTINGS)

    if kill_at is not None:
        return "killed at an event" if in_child(work) == -signal.SIGKILL else "finished before the kill"
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return "killed at a moment" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) else "finished before the kill"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(run(options.points, options.seed), indent=2))
