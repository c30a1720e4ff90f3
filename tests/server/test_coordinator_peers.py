"""What the gateway remembers of each site's Flower, and how often it writes that down."""

import logging
from pathlib import Path

import pytest

from server.gateway.peers import FILE, Peers, read

OURS = "1.31.0"


def said(version: str) -> dict[str, str]:
    return {"flwr-package-version": version}


def test_a_site_that_alternates_two_versions_is_written_down_once_a_minute_and_the_newest_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    time = [0.0]
    peers = Peers(tmp_path, OURS, now=lambda: time[0])
    peers.heard("north", said(OURS))
    first = (tmp_path / FILE).stat().st_ino, (tmp_path / FILE).stat().st_mtime_ns
    for number in range(100):
        time[0] = 0.5 * number
        assert not peers.heard("north", said(f"1.{number % 2}.0")), "each is judged as it comes"
    assert ((tmp_path / FILE).stat().st_ino, (tmp_path / FILE).stat().st_mtime_ns) == first
    peers.heard("hill", said(OURS))  # another site's first word does not wait
    assert read(tmp_path)["hill"] == OURS
    time[0] = 60.0
    peers.heard("hill", said(OURS))  # and anybody's next request brings what has waited
    assert read(tmp_path) == {"north": "1.1.0", "hill": OURS}
    assert [record.getMessage().split()[3] for record in caplog.records] == ["north", "hill", "north"]


def test_versions_that_cannot_be_written_down_are_judged_all_the_same(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    peers = Peers(tmp_path, OURS)
    assert peers.heard("north", said(OURS))
    assert not peers.heard("north", said("1.2.0"))
