"""A whole deployment on loopback for the daemon's tests: a coordinator and hospitals, all of them real processes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.plan.study_plan import StudyPlan
from server.coordinator.home import free_ports
from tests.client import hospitals

ROOT = Path(__file__).parents[2]
CLI = (sys.executable, "-m", "deploy.cli")


def plan_text(*, name: str = "tiny", rounds: int = 2, sites: int = 1, deadline_s: float = 300) -> str:
    """The tiny plan of the hospital tests, for fewer sites."""
    text = hospitals.PLAN.replace('"tiny"', f'"{name}"').replace("rounds = 2", f"rounds = {rounds}")
    return text.replace("min_sites = 2", f"min_sites = {sites}\ndeadline_s = {deadline_s}")


def environment() -> dict[str, str]:
    """What every process of a lab gets: this clone's code, and no proxy of the machine."""
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run(*arguments: object, cwd: Path, check: bool = True) -> dict[str, Any]:
    """Run a command of ours with --json; its result."""
    done = subprocess.run(
        [*CLI, *map(str, arguments), "--json"],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout)) if done.stdout.strip() else {}


def wait_until(condition: Callable[[], Any], what: str, *, within_s: float = 120, every_s: float = 0.1) -> Any:
    """Poll until the condition holds; returns what it returned. A condition that runs a command is asked less often."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, f"never seen: {what}"
        time.sleep(every_s)
    return found


@dataclass
class Lab:
    """One coordinator and its hospitals below `folder`."""

    folder: Path
    host: str = "127.0.0.1"
    listen: str = ""
    plans: tuple[StudyPlan, ...] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    def site(self, name: str) -> Path:
        """A hospital's home; its path holds a patient's name, which must turn up nowhere."""
        return self.folder / "DOE^JANE" / name

    def found(self) -> None:
        """Make the coordinator."""
        port = free_ports(1)[0]
        run("server", "init", self.coordinator, "--host", f"{self.host}:{port}", "--listen",
            f"{self.listen or self.host}:{port}", cwd=self.folder)  # fmt: skip

    def enrol(self, name: str, *plans: StudyPlan) -> None:
        """Make a hospital that has approved `plans`, and take it through the three papers of its enrolment."""
        home = self.site(name)
        hospitals.build_home(home, *plans, patients=300)
        policy = (home / "site.toml").read_text().replace('"north"', f'"{name}"')
        (home / "site.toml").write_text(policy)
        invited = run("server", "invite", name, "--home", self.coordinator, cwd=self.folder)
        run("site", "join", f"{name}.invite.json", "--home", home, "--fingerprint", invited["fingerprint"],
            cwd=self.folder)  # fmt: skip
        run("server", "enrol", f"{name}.request.json", "--home", self.coordinator, cwd=self.folder)
        run("site", "join", f"{name}.welcome.json", "--home", home, cwd=self.folder)

    def serve(self, side: str, home: Path) -> subprocess.Popen[bytes]:
        """Start a daemon: side "server" or "site"."""
        env = {"PYTHONPATH": f"{ROOT / 'tests' / 'client' / 'misbehave'}{os.pathsep}{ROOT}"} if side == "site" else {}
        with (self.folder / f"{home.name}.out").open("ab") as out:
            process = subprocess.Popen(
                [*CLI, side, "serve", "--home", str(home)],
                cwd=self.folder, env={**environment(), **env}, stdout=out, stderr=out,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def end(self) -> None:
        """End every daemon, hospitals first."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def state(self, name: str) -> dict[str, Any]:
        """What a hospital's daemon says of itself."""
        return read(self.site(name) / "daemon" / "state.json")

    def pid(self, name: str, child: str) -> int | None:
        found = self.state(name).get("children", {}).get(child, {}).get("pid")
        return found if isinstance(found, int) else None

    def serving(self, name: str) -> bool:
        """Whether every check of the hospital's health is well."""
        health = self.state(name).get("health")
        return bool(health) and not any(health.values())

    def attack(self, app: Path, **config: str) -> dict[str, Any]:
        """Have the coordinator run a Flower app of its own making, by `flwr run`; what its ServerApp wrote down."""
        out = self.folder / f"{app.name}.json"
        settings = " ".join(f'{key}="{value}"' for key, value in {"out": str(out), **config}.items())
        env = {**environment(), "FLWR_HOME": str(self.coordinator / "flwr"), "FLWR_TELEMETRY_ENABLED": "0",
               "FLWR_DISABLE_UPDATE_CHECK": "1"}  # fmt: skip
        command = [str(Path(sys.executable).parent / "flwr"), "run", str(app), "wardround", "--run-config", settings]
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(wait_until(lambda: read(out), "the attack's result"))

    def start(self, plan: str, name: str = "tiny") -> None:
        """Start a study."""
        path = self.folder / f"{name}.toml"
        path.write_text(plan)
        run("server", "start", path, "--home", self.coordinator, cwd=self.folder)

    def rounds(self, name: str = "tiny") -> int:
        """Rounds of a study that are saved."""
        path = self.coordinator / "studies" / name / "rounds.csv"
        return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0

    def said(self, name: str) -> str:
        """Everything in a hospital's log files, and what its daemon printed."""
        files = [*(self.site(name) / "logs").glob("*"), self.folder / f"{name}.out"]
        return "".join(path.read_text() for path in files if path.exists())


def read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def lab(
    folder: Path, *sites: str, plans: tuple[str, ...] = (), host: str = "127.0.0.1", listen: str = ""
) -> Iterator[Lab]:
    """A running deployment of these hospitals, all of which approved these plans."""
    made = Lab(folder, host, listen, tuple(StudyPlan.parse(text) for text in plans))
    made.found()
    for name in sites:
        made.enrol(name, *made.plans)
    try:
        made.serve("server", made.coordinator)
        for name in sites:
            made.serve("site", made.site(name))
        yield made
    finally:
        made.end()
