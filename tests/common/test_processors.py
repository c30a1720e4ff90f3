"""A container's or a unit's quota counts, of both versions of control groups, and so does the affinity."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.host.processors import processors

MANY = 64


@pytest.fixture(autouse=True)
def big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))


def seen(folder: Path, own: str, files: dict[str, str]) -> int:
    for name, text in files.items():
        (folder / "cg" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cg" / name).write_text(text)
    (folder / "own").write_text(own)
    return processors(cgroups=folder / "cg", own=folder / "own")


@pytest.mark.parametrize(("own", "files", "expected"), [
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
    ("0::/\n", {"cpu.max": "max 100000\n"}, MANY),
    ("0::/system.slice/wardround-site.service\n",
     {"system.slice/cpu.max": "800000 100000\n", "system.slice/wardround-site.service/cpu.max": "300000 100000\n"}, 3),
    ("0::/system.slice/wardround-site.service\n",
     {"system.slice/cpu.max": "100000 100000\n", "system.slice/wardround-site.service/cpu.max": "max 100000\n"}, 1),
    ("4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n",
     {"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 4),
    ("4:cpuacct,cpu:/docker/abc\n",
     {"cpu/docker/abc/cpu.cfs_quota_us": "500000\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"}, 5),
    ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MANY),
    ("", {}, MANY),
    ("0::/../outside\n", {"cpu.max": "no number\n"}, MANY),
])  # fmt: skip
def test_the_smallest_quota_on_the_way_up_counts(
    tmp_path: Path, own: str, files: dict[str, str], expected: int
) -> None:
    assert seen(tmp_path, own, files) == expected


def test_the_affinity_of_this_very_process_counts() -> None:
    words = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from common.host.processors import processors; print(processors())"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "1\n", done.stderr


def test_nothing_else_asks_how_many_the_machine_has() -> None:
    root = Path(__file__).resolve().parents[2]
    asking = [
        str(path.relative_to(root))
        for package in ("common", "client", "server", "deploy")
        for path in (root / package).rglob("*.py")
        if "cpu_count(" in path.read_text(encoding="utf-8")
    ]
    assert asking == []
