"""A clock that only goes forward, and the boot of the machine that it counts from."""

import time
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def uptime_s() -> float:
    """Seconds since this machine was booted, the same in all its processes; it cannot be set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def boot() -> str:
    """Id of this machine's boot; "" where it tells none."""
    try:
        return _BOOT.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
