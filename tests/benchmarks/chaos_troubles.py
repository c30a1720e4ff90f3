"""The troubles of `tests.benchmarks.chaos` that are not kills, each to its end."""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from client.site.place import PLACE, Place
from common.errors import StateError
from deploy.install.lab import Party

OTHER_USER = 54321
Chaos = Any
"""`tests.benchmarks.chaos.Chaos`, which imports this module."""


def stop(chaos: Chaos) -> None:
    """A process stands still for 20 s."""
    victims = [p for party in chaos.parties for group in chaos.processes(party).values() for p in group]
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        victim = chaos.random.choice(victims)
        victim.suspend()
        chaos.spend(20)
        victim.resume()


def full_disk(chaos: Chaos) -> None:
    """A site's disk takes no byte for 20 s."""
    _full(chaos, _site(chaos))


def full_coordinator(chaos: Chaos) -> None:
    """The coordinator's disk takes no byte for 20 s."""
    _full(chaos, chaos.lab.coordinator)


def outage(chaos: Chaos) -> None:
    """The SuperLink is gone for 90 s: killed, while who would start it again stands still."""
    chaos.heal(90)
    found = chaos.processes(chaos.lab.coordinator)
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        daemon, superlink = found["serve"][0], found["superlink"][0]
        daemon.suspend()
        superlink.kill()
        time.sleep(90)
        daemon.resume()


def clock(chaos: Chaos) -> None:
    """A site's wall clock is set back by two hours for a minute; what only goes forward goes on."""
    site = _site(chaos)
    _end(site)
    faked = {**site.environment(), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    command = ["faketime", "-f", "-2h", sys.executable, "-P", "-m", "deploy.cli", "site", "serve", "--home"]
    with (site.folder / "serve.out").open("ab") as out:
        site.daemon = subprocess.Popen(
            [*command, str(site.home)], env=faked, cwd=site.folder, stdout=out, stderr=out, start_new_session=True
        )
    chaos.spend(60)
    _end(site)
    site.serve()


def sudo(chaos: Chaos) -> None:
    """Commands are run as another user than the home's owner: refused, and no file is made."""
    site = _site(chaos)
    os.chown(site.home, OTHER_USER, OTHER_USER)
    try:
        for command in (("budget",), ("pause", "--by", "chaos"), ("withdrawn",)):
            _refused(chaos, site, "site", *command, "--home", site.home)
    finally:
        os.chown(site.home, os.geteuid(), os.getegid())


def copied(chaos: Chaos) -> None:
    """A site's home is copied and served beside the original: the copy refuses."""
    site = _site(chaos)
    twin = _copy(chaos, site)
    twin.serve()
    assert twin.daemon is not None
    code = twin.daemon.wait(timeout=180)
    words = (twin.folder / "serve.out").read_text()
    chaos.hear(f"the copy ends with {code}: {words[-300:].strip()}")
    if code != StateError.exit_code or "not where it was bound" not in words:
        raise AssertionError("a copy of a home serves")


def cloned(chaos: Chaos) -> None:
    """A site's machine is cloned whole and both are served; then the way back, as docs/operations.md has it."""
    chaos.heal(90)
    site = _site(chaos)
    twin = _copy(chaos, site)
    entries = json.loads((twin.home / PLACE).read_text())
    here = dataclasses.asdict(Place.here(twin.home))  # what a cloned machine would see is what it was bound to
    (twin.home / PLACE).write_text(json.dumps([{**entries[-1], **here}]))
    twin.serve()
    end = time.monotonic() + 240
    while not chaos.lab.status()["sites"][site.name]["two_places"] and time.monotonic() < end:
        chaos.spend(1)
    seen = chaos.lab.status()["sites"][site.name]["two_places"]
    chaos.hear(f"two copies of {site.name} serve; seen by the coordinator: {seen or 'NO'}")
    _end(twin)
    _end(site)
    booked = site.wardround("site", "adopt", "--home", site.home, "--merge", twin.home, "--yes", "--by", "chaos")
    chaos.hear(f"booked out of the copy: {booked['booked']} reservations")
    (site.home / "identity").rename(site.folder / f"identity-{time.monotonic_ns()}")
    _insist(chaos, lambda: chaos.lab.enrol(site))
    site.serve()
    if not seen:
        raise AssertionError("the coordinator did not notice one node key in two places")


TROUBLES: dict[str, Callable[[Chaos], None]] = {
    "stop": stop, "full disk": full_disk, "full coordinator": full_coordinator, "outage": outage, "clock": clock,
    "sudo": sudo, "copy": copied, "clone": cloned,
}  # fmt: skip


def _site(chaos: Chaos) -> Party:
    """A site whose daemon runs."""
    chaos.heal(60)
    alive = [site for site in chaos.lab.sites if site.daemon is not None and site.daemon.poll() is None]
    found: Party = chaos.random.choice(alive or chaos.lab.sites)
    return found


def _full(chaos: Chaos, party: Party) -> None:
    _limit(chaos, party, 0)
    chaos.spend(20)
    _limit(chaos, party, resource.RLIM_INFINITY)


def _limit(chaos: Chaos, party: Party, most: int) -> None:
    for group in chaos.processes(party).values():
        for process in group:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def _end(party: Party) -> None:
    """Stop a daemon of ours, so that nothing starts it again."""
    if party.daemon is not None and party.daemon.poll() is None:
        party.daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            party.daemon.wait(timeout=60)
        if party.daemon.poll() is None:
            party.daemon.kill()
            party.daemon.wait()
    party.daemon = None


def _copy(chaos: Chaos, site: Party) -> Party:
    """`cp -a` of a home while it is served; files that come and go meanwhile are left out."""
    folder = chaos.lab.folder / f"{site.name}-copy-{time.monotonic_ns()}"
    folder.mkdir(mode=0o700)
    twin = Party(site.name, folder)
    for _ in range(10):
        shutil.rmtree(twin.home, ignore_errors=True)
        with contextlib.suppress(shutil.Error):
            return Party(site.name, Path(shutil.copytree(site.home, twin.home, symlinks=True)).parent)
        chaos.spend(0.5)
    raise StateError(f"{site.home} could not be copied while it is served")


def _refused(chaos: Chaos, party: Party, *arguments: str | Path) -> None:
    try:
        party.wardround(*arguments)
    except StateError as error:
        chaos.hear(str(error)[-300:])
        if "sudo -u" in str(error):
            return
    raise AssertionError(f"{arguments[1]} ran as another user than the home's owner")


def _insist(chaos: Chaos, command: Callable[[], None]) -> None:
    for _ in range(60):
        try:
            command()
        except StateError as error:
            chaos.hear(str(error)[-200:])
            chaos.spend(3)
        else:
            return
    raise StateError("the site could not join again")
