"""A hospital's daemon and its home: a copy is not taken for the original, and new keys are taken up while it serves."""

import json
import os
import shutil
from pathlib import Path

from client.daemon import join, serve
from client.daemon.home import DaemonHome
from client.daemon.status import Status
from client.site import place
from common.host.files import write_atomically
from common.host.supervisor import Supervisor
from tests.client.hospitals import build_home, tiny_plan


def test_the_status_of_a_copy_is_not_that_of_the_original_whose_process_id_it_bears(tmp_path: Path) -> None:
    home = build_home(tmp_path / "north", tiny_plan())
    site = DaemonHome(home)
    place.require(home)
    write_atomically(site.state, json.dumps({"pid": os.getpid(), "ports": {"health": 1}}).encode())
    assert Status.of(home).running
    copy = home.parent / "copy"
    shutil.copytree(home, copy)
    seen = Status.of(copy)
    assert (seen.running, seen.serving) == (False, False)
    assert "site adopt" in seen.text()
    assert Status.of(home).moved == ""


def test_a_new_node_key_starts_the_supernode_again_and_a_missing_one_does_not(tmp_path: Path) -> None:
    home = build_home(tmp_path / "north", tiny_plan())
    site, restarted = DaemonHome(home), list[str]()
    join.prepare(site)
    supervisor = Supervisor([])
    supervisor.restart = restarted.append  # type: ignore[method-assign]
    keeper = serve.Keeper(site, supervisor)
    keeper.look()
    site.node_key.rename(home / "old.key")
    keeper.look()
    assert restarted == []
    join.prepare(site)
    keeper.look()
    keeper.look()
    assert restarted == ["supernode"]
