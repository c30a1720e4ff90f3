"""docs/operations.md is followed command by command, as somebody would who knows only it: a hub and two hospitals."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.host import launch
from deploy.data.demo_data import write_demo_hospitals
from deploy.install.offline_bundle import ROOT
from server.coordinator.home import free_ports

DOCUMENT = ROOT / "docs" / "operations.md"
PROMPT = re.compile(r"(hub|north|south)([#$]) (.*)")
PATIENCE_S = 400.0
AS_ROOT = ("apt-get", "useradd", "install", "cp", "sudo", "./install.sh")
"""What root does to the machine itself; `tests/deploy/test_service_files.py` compares it with the units."""


@dataclass(frozen=True)
class Step:
    """One command of the document: whose, as whom, and the lines that it prints there."""

    party: str
    root: bool
    command: str
    prints: tuple[str, ...] = ()


def steps() -> Iterator[Step]:
    text = DOCUMENT.read_text(encoding="utf-8")
    for block in re.findall(r"(?ms)^```console\n(.*?)^```", text):
        current: Step | None = None
        for line in block.splitlines():
            if (found := PROMPT.fullmatch(line)) is not None:
                if current is not None:
                    yield current
                current = Step(found[1], found[2] == "#", found[3])
            elif current is not None:
                current = Step(current.party, current.root, current.command, (*current.prints, line))
        if current is not None:
            yield current


@dataclass
class Machine:
    """One party's machine: its files below a folder, its shell, its daemon."""

    name: str
    folder: Path
    address: str
    variables: dict[str, str] = field(default_factory=dict)
    daemon: subprocess.Popen[bytes] | None = None

    def here(self, text: str) -> str:
        """The text with this machine's places in place of a real machine's."""
        text = text.replace("/opt/wardround/bin", str(Path(sys.executable).parent))
        text = re.sub(r"(?<![\w/])(/var/lib/|/srv/)", rf"{self.folder}\1", text)
        return text.replace("hub.example.org:8443", self.address).replace("hub.example.org", self.address)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ, "HOME": str(self.folder), "FLWR_HOME": str(self.folder / "flwr"), "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1", "COLUMNS": "200", **self.variables,
        }  # fmt: skip

    def run(self, command: str, *, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run one line of the document in a shell; `export` stays in force."""
        command = self.here(command)
        if command.startswith("export "):
            for pair in shlex.split(command)[1:]:
                name, _, value = pair.partition("=")
                self.variables[name] = value.replace("$PATH", os.environ["PATH"])
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.run(
            ["bash", "-c", command], input=typed, env=self.environment(), cwd=self.folder, capture_output=True,
            text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def systemctl(self, words: list[str]) -> None:
        """What systemd does: run the unit's own line in the unit's own environment, or end it."""
        if words[0] == "stop":
            assert self.daemon is not None
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(timeout=60)
            return
        unit = (ROOT / "deploy" / "systemd" / f"{words[-1]}.service").read_text(encoding="utf-8")
        (line,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
        pairs = [p for row in re.findall(r"(?m)^Environment=(.*)$", unit) for p in shlex.split(self.here(row))]
        environment = {**self.environment(), **dict(pair.split("=", 1) for pair in pairs), "MPLCONFIGDIR": "/tmp"}
        command = launch.bound(shlex.split(self.here(line)))
        with (self.folder / "serve.out").open("ab") as out:
            self.daemon = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=out, stderr=out, start_new_session=True
            )


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    found = {name: Machine(name, tmp_path / name, address) for name in ("hub", "north", "south")}
    hospitals = write_demo_hospitals(tmp_path / "dicom", patients=(64, 60, 1))
    text = DOCUMENT.read_text(encoding="utf-8")
    (plan,) = re.findall(r"(?ms)^```toml\n(# chest\.toml\n.*?)^```", text)
    for machine in found.values():
        (machine.folder / "var" / "lib").mkdir(parents=True)
        (machine.folder / "chest.toml").write_text(plan, encoding="utf-8")
    for name, scans in zip(("north", "south"), hospitals, strict=False):
        (found[name].folder / "srv").mkdir()
        scans.rename(found[name].folder / "srv" / "scans")
    yield found
    for machine in reversed(found.values()):
        if machine.daemon is not None and machine.daemon.poll() is None:
            machine.daemon.send_signal(signal.SIGTERM)
    for machine in found.values():
        if machine.daemon is not None:
            machine.daemon.wait(timeout=90)


@pytest.mark.flows
@pytest.mark.timeout(1500)
def test_the_document_leads_from_empty_machines_to_a_release_renewal_restore_and_revocation(
    machines: dict[str, Machine],
) -> None:
    fingerprint = ""
    for step in steps():
        machine, words = machines[step.party], shlex.split(step.command)
        if words[0] == "systemctl":
            machine.systemctl([word for word in words[1:] if not word.startswith("--")])
            continue
        if step.root and words[0] in AS_ROOT:
            if words[0] == "install":
                Path(machine.here(words[-1])).mkdir(mode=0o700)
            continue
        bring(machines, machine, words)
        typed = f"{fingerprint}\n" if "join" in words else "y\n" if "approve" in words else ""
        done = repeat(machine, step) if "status" in words else machine.run(step.command, typed=typed)
        said = done.stdout + done.stderr
        allowed = {0, 8, 9} if "doctor" in words else {0}  # the machine of a test may have warnings of its own
        assert done.returncode in allowed, f"{step.party}: {step.command}\n{said[-2000:]}"
        assert missing(machine, step, said) == [], f"{step.party}: {step.command}\n{said[-2000:]}"
        if "invite" in words:
            fingerprint = said.strip().splitlines()[-1].strip()


def bring(machines: dict[str, Machine], machine: Machine, words: list[str]) -> None:
    """Carry the paper that a command names from the party that wrote it, by hand."""
    for word in words:
        if word.endswith((".invite.json", ".request.json", ".welcome.json")):
            papers = [other.folder / word for other in machines.values() if (other.folder / word).exists()]
            newest = max(papers, key=lambda path: path.stat().st_mtime_ns)
            if newest.parent != machine.folder:
                shutil.copy2(newest, machine.folder / word)


def repeat(machine: Machine, step: Step) -> subprocess.CompletedProcess[str]:
    """Ask until the status is as the document says, as a person would: each time costs half a second of CPU."""
    end, pause_s = time.monotonic() + PATIENCE_S, 1.0
    while True:
        done = machine.run(step.command)
        if (done.returncode == 0 and not missing(machine, step, done.stdout)) or time.monotonic() > end:
            return done
        time.sleep(pause_s)
        pause_s = min(4.0, pause_s + 1.0)


def missing(machine: Machine, step: Step, said: str) -> list[str]:
    """The printed lines of the document that a command did not say; what stands for … may be anything."""
    lines = said.splitlines()
    patterns = [".*".join(map(re.escape, machine.here(line).split("…"))) for line in step.prints]
    return [pattern for pattern in patterns if not any(re.search(pattern, line) for line in lines)]


def test_every_console_block_says_whose_it_is() -> None:
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"))
    alone = [block for block in blocks if not PROMPT.match(block)]
    assert [block.splitlines()[0] for block in alone] == ["$ scripts/lab_deploy"], "that one has a test of its own"
    assert len(list(steps())) > 50
