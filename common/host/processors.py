"""How many processors this process may use: not how many the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def processors(*, cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Return the processors that the scheduler lends: those of the affinity, within the quota of every control group.

    A container, a systemd unit or a batch system sets either; `os.cpu_count` sees neither. Half a processor counts as
    a whole one.

    Args:
        cgroups: Where the control groups are mounted.
        own: Which of them this process is in.
    """
    most = len(os.sched_getaffinity(0))
    return max(1, min([most, *(math.ceil(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Processors that this process's control group and those above it allow, of version 1 and 2."""
    for line in _words(own):
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers == "" or "cpu" in controllers.split(","):
            mounts = [cgroups] if controllers == "" else [cgroups / controllers, cgroups / "cpu"]
            for mount in mounts:
                for folder in _upwards(mount, place):
                    yield from _quota(folder)


def _upwards(mount: Path, place: str) -> Iterator[Path]:
    """The group's folder and those above it, up to the mount; a container may see its own as the mount alone."""
    parts = [part for part in place.split("/") if part not in ("", ".", "..")]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one control group; none where it sets none or is not there."""
    both = " ".join(_words(folder / "cpu.max")).split() or [
        *_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")
    ]  # fmt: skip
    try:
        quota, period = map(float, both)
    except ValueError:  # "max 100000", or no such files
        return
    if quota > 0 and period > 0:
        yield quota / period


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
