"""A deployment on IPv6, from `init` to a registered SuperNode, and its move to an IPv4 address while it runs."""

from pathlib import Path

import pytest

from server.coordinator.home import Home
from tests.client.daemon_lab import lab, plan_text, read, run, wait_until


@pytest.mark.flows
@pytest.mark.timeout(600)
def test_a_site_reaches_its_coordinator_by_ipv6_and_follows_it_to_another_address(tmp_path: Path) -> None:
    with lab(tmp_path, "north", plans=(plan_text(),), host="[::1]", listen="[::]") as running:
        site, home = running.site("north"), Home.open(running.coordinator)
        port = home.settings.address.rpartition(":")[2]
        assert home.settings.address == f"[::1]:{port}"
        assert home.settings.listen == f"[::]:{port}"
        wait_until(lambda: read(site / "daemon" / "link.json").get("registered"), "the site at the coordinator")

        moved = f"127.0.0.1:{port}"
        refused = run("site", "move", moved, "--home", site, cwd=tmp_path, check=False)
        assert refused["error"] == "StateError", "the gateway's certificate does not hold that address"
        assert read(site / "identity" / "coordinator.json")["address"] == f"[::1]:{port}"

        told = run("server", "move", moved, "--home", running.coordinator, cwd=tmp_path)
        assert (told["address"], told["restart_serve"]) == (moved, False)
        wait_until(
            lambda: "error" not in run("site", "move", moved, "--home", site, cwd=tmp_path, check=False),
            "the gateway with its new certificate",
            every_s=1.0,
        )
        since = float(read(site / "daemon" / "link.json")["registered"])

        def registered_again() -> bool:
            ours = running.said("north").count("the settings have changed; starting again")
            return bool(ours) and float(read(site / "daemon" / "link.json").get("registered", 0)) > since

        wait_until(registered_again, "the site at the new address")
        wait_until(lambda: running.serving("north"), "the site's health")
