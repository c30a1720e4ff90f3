"""A whole deployment on one machine: one coordinator and hospitals as separate processes, by nothing but commands.

Every party has a folder of its own for home, files, temporary files and FLWR_HOME. Everything listens on loopback, with
the certificates and keys of a real deployment. For trying out, for tests and for the chaos benchmark.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from client.site import layout
from common.display.terminal import say
from common.errors import StateError
from common.host import launch
from common.host.processors import processors
from common.plan.study_plan import StudyPlan
from deploy.data.demo_data import HOSPITALS, write_demo_hospitals
from server.coordinator import status
from server.coordinator.home import SUPERLINK, Home, free_ports

PLAN = """\
name = "lab"

[data]
modality = ["CR", "DX"]
body_part = "CHEST"
image_size = 28
labels = ["normal", "lesion"]
min_patients = 12

[model]
latent = 4
channels = [4, 8]
base = 8

[training]
rounds = 3
local_steps = 3
sample_rate = 0.2

[privacy]
epsilon = 8.0
phases = ["sgd"]

[aggregation]
min_sites = 2
deadline_s = 120

[release]
images_per_label = 4

[evaluation]
held_out_share = 0.2
images_per_label = 50
min_fidelity = 0.0
min_utility = 0.0
max_copied = 1.0
"""
PATIENTS = (30, 26, 24)
_COMMAND = ["-P", "-m", "deploy.cli"]
_NO_PATIENCE_S = 180.0


@dataclass
class Party:
    """The coordinator or a hospital: its folder, and its daemon while that runs.

    Attributes:
        name: "coordinator" or the site's name.
        folder: Everything it has.
        daemon: The running `serve`.
        python: The interpreter that its commands run in: another one has another version of Flower.
    """

    name: str
    folder: Path
    daemon: subprocess.Popen[bytes] | None = None
    python: str = sys.executable

    @property
    def home(self) -> Path:
        """Its home."""
        return self.folder / "home"

    def environment(self) -> dict[str, str]:
        """Its own: nothing is shared with another party but the installed code."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        flwr_home = self.home / "flwr" if self.name == "coordinator" else self.folder / "flwr"
        return {
            **os.environ,
            "FLWR_HOME": str(flwr_home),
            "TMPDIR": str(self.folder / "tmp"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }

    def wardround(self, *arguments: str | Path, timeout_s: float = 300) -> dict[str, Any]:
        """Run one command of `wardround` with --json as this party and return its result.

        Raises:
            StateError: The command failed; its last words are in the message.
        """
        text = self.run([self.python, *_COMMAND, *map(str, arguments), "--json"], timeout_s=timeout_s)
        result: dict[str, Any] = json.loads(text)
        return result

    def run(self, command: Sequence[str], *, timeout_s: float = 300) -> str:
        """Run any command as this party; return its standard output. Raises `StateError` when it fails."""
        done = subprocess.run(
            launch.bound(command), env=self.environment(), cwd=self.folder, capture_output=True, encoding="utf-8",
            timeout=timeout_s, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise StateError(f"{self.name}: {' '.join(command[4:7])} failed: {done.stderr.strip()[-600:]}")
        return done.stdout

    def serve(self) -> None:
        """Start its daemon, in a session of its own."""
        kind = "server" if self.name == "coordinator" else "site"
        with (self.folder / "serve.out").open("ab") as out:
            self.daemon = subprocess.Popen(
                launch.bound([self.python, *_COMMAND, kind, "serve", "--home", str(self.home)]),
                env=self.environment(), cwd=self.folder, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def stop(self, *, within_s: float = 60.0) -> None:
        """End its daemon as an operator does, and wait; raises `StateError` when it does not end."""
        if self.daemon is None:
            return
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(timeout=within_s)
        except subprocess.TimeoutExpired as error:
            raise StateError(f"the daemon of {self.name} did not end within {within_s:.0f} s") from error
        self.daemon = None


@dataclass
class Lab:
    """One coordinator and its hospitals.

    Attributes:
        folder: Where everything lies.
        coordinator: The coordinator.
        sites: The hospitals.
        say: Told each step in a few words.
    """

    folder: Path
    coordinator: Party
    sites: list[Party]
    say: Callable[[str], None] = say
    _seen: dict[int, psutil.Process] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        folder: Path,
        *,
        plan: str = PLAN,
        patients: tuple[int, int, int] = PATIENTS,
        hospitals: int = len(HOSPITALS),
        python: str = sys.executable,
        say: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Make homes, phantoms, enrolments and approvals; start nothing that stays.

        Args:
            folder: Folder to create.
            plan: The study's `plan.toml`.
            patients: Phantoms at each of the three hospitals.
            hospitals: How many of the three take part.
            python: The interpreter of every party, to begin with.
            say: Told each step in a few words.

        Raises:
            StateError: A step failed.
        """
        folder.mkdir(parents=True, mode=0o700)
        folder = folder.resolve()
        names = ("coordinator", *(hospital.name for hospital in HOSPITALS[:hospitals]))
        parties = [Party(name, folder / name, python=python) for name in names]
        for party in parties:
            party.folder.mkdir(mode=0o700)
        lab = cls(folder, parties[0], parties[1:], say=say)
        (folder / "plan.toml").write_text(plan, encoding="utf-8")
        say("writing phantoms")
        write_demo_hospitals(folder / "dicom", patients=patients)
        say("making the coordinator")
        address = f"127.0.0.1:{free_ports(1)[0]}"
        lab.coordinator.wardround("server", "init", lab.coordinator.home, "--host", address)
        with ThreadPoolExecutor(max_workers=processors()) as pool:
            list(pool.map(lab.admit, lab.sites))
        return lab

    @property
    def plan(self) -> StudyPlan:
        """The study's plan."""
        return StudyPlan.load(self.folder / "plan.toml")

    @property
    def run_dir(self) -> Path:
        """The study's folder at the coordinator."""
        return self.coordinator.home / "studies" / self.plan.name

    def admit(self, site: Party) -> None:
        """Bring one hospital in: home, scans, enrolment by the three files, approval."""
        self.say(f"{site.name}: admitting scans, enrolling, approving")
        (self.folder / "dicom" / site.name).rename(site.folder / "dicom")
        site.wardround("site", "init", "--name", site.name, "--home", site.home)
        rules = site.home / layout.RULES
        lowered = rules.read_text(encoding="utf-8").replace("min_patients = 50", "min_patients = 12")
        rules.write_text(lowered.replace("threads = 0", "threads = 1"), encoding="utf-8")
        plan = self.folder / "plan.toml"
        site.wardround("site", "ingest", site.folder / "dicom", "--home", site.home, "--plan", plan, "--no-ocr",
                       "--workers", "1")  # fmt: skip
        self.enrol(site)
        site.wardround("site", "approve", plan, "--home", site.home, "--by", "data steward", "--yes")

    def enrol(self, site: Party) -> None:
        """The three legs, each file carried by hand from one party to the other."""
        papers = {leg: self.folder / f"{site.name}.{leg}.json" for leg in ("invite", "request", "welcome")}
        home = self.coordinator.home
        invited = self.coordinator.wardround("server", "invite", site.name, "--home", home, "--out", papers["invite"])
        site.wardround(
            "site", "join", papers["invite"], "--home", site.home, "--fingerprint", invited["fingerprint"],
            "--out", papers["request"],
        )  # fmt: skip
        self.coordinator.wardround("server", "enrol", papers["request"], "--home", home, "--out", papers["welcome"])
        site.wardround("site", "join", papers["welcome"], "--home", site.home)

    def up(self) -> None:
        """Start every daemon and wait until all sites are online.

        Raises:
            StateError: They are not within some minutes.
        """
        self.say("starting the coordinator")
        self.coordinator.serve()
        self.wait("the coordinator is healthy", lambda: bool(self.status()["healthy"]))
        self.say("starting the hospitals")
        for site in self.sites:
            site.serve()
        self.wait("every site is online", lambda: set(self.online()) == {site.name for site in self.sites})

    def submit(self) -> None:
        """Prepare the study and start it by `flwr run`, as Flower's documentation says."""
        party = self.coordinator
        made = party.wardround("server", "prepare", self.folder / "plan.toml", "--home", party.home)
        self.say("flwr run")
        flwr = str(Path(party.python).parent / "flwr")
        app = str(Path(__file__).parents[1] / "flower_app")
        party.run([flwr, "run", app, SUPERLINK, "--run-config", f'run-dir="{made["run_dir"]}"'], timeout_s=120)

    def finish(self, *, patience_s: float = 900.0) -> dict[str, Any]:
        """Wait for the study's release and return its card."""
        self.say("waiting for the study")
        self.wait("the study is released", (self.run_dir / "card.json").exists, patience_s=patience_s)
        card: dict[str, Any] = json.loads((self.run_dir / "card.json").read_text(encoding="utf-8"))
        return card

    def down(self) -> list[int]:
        """End every daemon by its process id, hospitals first; return the processes that are left over."""
        self.say("taking everything down")
        self.note_processes()
        for party in [*self.sites, self.coordinator]:
            if party.daemon is not None and party.daemon.poll() is None:
                party.daemon.send_signal(signal.SIGTERM)
        for party in [*self.sites, self.coordinator]:
            if party.daemon is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    party.daemon.wait(timeout=60)
        return self.leftovers()

    def note_processes(self) -> list[psutil.Process]:
        """Remember every process below the daemons, so that `leftovers` can look for it; return those alive."""
        for party in [self.coordinator, *self.sites]:
            if party.daemon is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    parent = psutil.Process(party.daemon.pid)
                    self._seen |= {p.pid: p for p in [parent, *parent.children(recursive=True)]}
        return [process for process in self._seen.values() if process.is_running()]

    def leftovers(self, *, within_s: float = 15.0) -> list[int]:
        """Processes of this lab that still run: those seen below a daemon, and any whose command names our folder."""
        end = time.monotonic() + within_s
        while (left := sorted({p.pid for p in [*self._alive(), *self._named()]})) and time.monotonic() < end:
            time.sleep(0.2)
        return left

    def status(self) -> dict[str, Any]:
        """What `wardround server status --json` says; asked here, because a process a second would load the machine."""
        return status.table(Home.open(self.coordinator.home))

    def online(self) -> list[str]:
        """The sites that the SuperLink says are online."""
        return [name for name, site in self.status()["sites"].items() if site["connection"] == "online"]

    def wait(self, what: str, happened: Callable[[], bool], *, patience_s: float = _NO_PATIENCE_S) -> None:
        """Poll until it has happened; raises `StateError` when it does not in time, or a daemon has ended.

        Args:
            what: What is waited for, in words.
            happened: Whether it has happened.
            patience_s: Longest wait in seconds.
        """
        end = time.monotonic() + patience_s
        while not happened():
            for party in [self.coordinator, *self.sites]:
                if party.daemon is not None and party.daemon.poll() is not None:
                    words = (party.folder / "serve.out").read_text(encoding="utf-8")[-600:]
                    raise StateError(f"the daemon of {party.name} ended with {party.daemon.returncode}: {words}")
            if time.monotonic() > end:
                raise StateError(f"not within {patience_s:.0f} s: {what}. Look below {self.folder} in */home/logs")
            self.note_processes()
            time.sleep(0.5)

    def _alive(self) -> Iterator[psutil.Process]:
        for process in self._seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _named(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if process.pid != os.getpid() and any(f"{self.folder}/" in part for part in command):
                yield process
