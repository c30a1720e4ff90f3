"""Kills processes of a whole deployment at random while studies run, and counts what was lost.

    python -m tests.benchmarks.chaos --kills 60 [--seed 1] [--out FOLDER] [--skip-slow]

One coordinator and three hospitals on loopback (`deploy.install.lab`). While short studies run one after another, a
process of a random kind of a random party gets kill -9, `serve` itself included; what systemd would start again, this
does. In between, in turn (`tests.benchmarks.chaos_troubles`): a process is stopped for 20 s (SIGSTOP), a site's disk
and then the coordinator's takes no byte for 20 s (RLIMIT_FSIZE of 0 for its processes), the SuperLink is down for 90 s,
a site's clock is set back by two hours (where `faketime` is installed), a command is run as another user than the
home's owner, a site's home is copied and served beside the original, and a site's machine is cloned whole and both are
served, until the gateway notices and the hospital books both copies' spending in one and joins with new keys.

Printed at the end, from the ledgers, egress logs and checkpoints alone:
    studies finished            of those started; a paused one is resumed, and counted
    rounds repeated             answers that left a hospital again from its spool, because they were asked again
    finished replies lost       rounds a hospital settled and then booked afresh for the same request (wanted: 0)
    ledger undercounts          receipts that no settled reservation covers, or an epsilon above the ledger's (0)
    advice to restore           messages of commands, health and paused studies that ask for a backup (0)
    processes left behind       after everything was taken down (0)
    median time to recover      from a kill until its kind runs again and the party's own health checks are well
"""

import argparse
import collections
import contextlib
import json
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from client.ledger.ledger import Ledger
from common.errors import StateError
from common.plan.study_plan import StudyPlan
from deploy.install.lab import PLAN, Lab, Party
from server.study import progress
from server.study.study import Study
from tests.benchmarks.chaos_troubles import TROUBLES

SHORT = (
    PLAN.replace("rounds = 3", "rounds = 5").replace("deadline_s = 120", "deadline_s = 240\nretries = 10")
    .replace("epsilon = 8.0", "epsilon = 2.0").replace("images_per_label = 4", "images_per_label = 1")
)  # fmt: skip
KINDS = {
    "flower-superlink": "superlink", "server.coordinator.superexec": "superexec", "flwr-serverapp": "serverapp",
    "-m server.coordinator": "gateway", "daemon.forwarder": "forwarder", "daemon.runner": "runner",
    "daemon.supernode": "supernode", "daemon.zygote": "zygote", "daemon.task": "task", "daemon.warm": "warm",
}  # fmt: skip
PASSING = ("serverapp", "task", "warm", "other")
"""Kinds that exist only while there is work: once the party is well without them, it has recovered."""


@dataclass
class Wound:
    """One kill that has not healed yet."""

    party: Party
    kind: str
    at: float
    pid: int


@dataclass
class Chaos:
    lab: Lab
    random: random.Random
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    troubles: collections.Counter[str] = field(default_factory=collections.Counter)
    wounds: list[Wound] = field(default_factory=list)
    recovered: list[float] = field(default_factory=list)
    dead: list[tuple[Party, float]] = field(default_factory=list)
    paused: int = 0
    told: list[str] = field(default_factory=list)
    eager: float = 0.12

    @property
    def parties(self) -> list[Party]:
        return [self.lab.coordinator, *self.lab.sites]

    def processes(self, party: Party) -> dict[str, list[psutil.Process]]:
        """The party's live processes by kind."""
        found: dict[str, list[psutil.Process]] = collections.defaultdict(list)
        if party.daemon is None or party.daemon.poll() is not None:
            return found
        with contextlib.suppress(psutil.NoSuchProcess):
            daemon = psutil.Process(party.daemon.pid)
            found["serve"].append(daemon)
            for child in daemon.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    line = " ".join(child.cmdline())
                    if line and child.status() != psutil.STATUS_ZOMBIE:
                        kind = next((kind for mark, kind in KINDS.items() if mark in line), "other")
                        found["task" if kind == "zygote" and child.ppid() != daemon.pid else kind].append(child)
        return found

    def kill(self) -> None:
        """kill -9 one process: a random party, a random kind there, so that rare kinds are hit as often as others."""
        party = self.random.choice(self.parties)
        found = self.processes(party)
        if not found:
            return
        kind = self.random.choice(sorted(found))
        process = self.random.choice(found[kind])
        self.lab.note_processes()
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
            self.kills[kind] += 1
            self.wounds.append(Wound(party, kind, time.monotonic(), process.pid))
            say(f"kill {sum(self.kills.values())}: {kind} of {party.name}")

    def tend(self) -> None:
        """Start daemons that were killed, as systemd would after two seconds; see which wounds have healed."""
        now = time.monotonic()
        for party in self.parties:
            if party.daemon is not None and party.daemon.poll() is not None:
                self.dead.append((party, now))
                party.daemon = None
        for entry in list(self.dead):
            if now - entry[1] > 2:
                self.dead.remove(entry)
                entry[0].serve()
        for wound in list(self.wounds):
            if self.healed(wound):
                self.wounds.remove(wound)
                self.recovered.append(time.monotonic() - wound.at)

    def healed(self, wound: Wound) -> bool:
        alive = self.processes(wound.party)
        again = [process for process in alive.get(wound.kind, []) if process.pid != wound.pid]
        if not again and wound.kind not in PASSING:
            return False
        path = wound.party.home / ("state.json" if wound.party is self.lab.coordinator else "daemon/state.json")
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            return False
        self.told += [words for words in (state.get("health") or {}).values() if words]
        return bool(alive.get("serve")) and bool(state.get("health")) and not any(state["health"].values())

    def trouble(self, kind: str) -> None:
        """One of the other troubles, to its end."""
        say(kind)
        TROUBLES[kind](self)
        self.troubles[kind] += 1

    def hear(self, words: str) -> None:
        """Remember what a person was told."""
        self.told.append(words)
        say(words)

    def advice(self) -> int:
        """How many messages asked for a backup; no ledger was damaged, so each would have lost something."""
        outs = [(party.folder / "serve.out").read_text() for party in self.parties]
        bad = {
            line
            for text in [*self.told, *outs]
            for line in text.splitlines()
            if re.search(r"\brestore\b", line, re.IGNORECASE)
        }
        for line in sorted(bad):
            say(f"asks for a backup: {line[:300]}")
        return len(bad)

    def spend(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tend()
            time.sleep(0.25)

    def heal(self, seconds: float) -> None:
        """Wait until every wound has healed, at most so long."""
        end = time.monotonic() + seconds
        while self.wounds and time.monotonic() < end:
            self.spend(0.5)

    def study(self, number: int, *, kills: int, troubles: list[str], patience_s: float) -> bool:
        """Run one study among kills; whether it ended as studies do: released, or stopped by a hospital's verdict."""
        plan = self.lab.folder / f"chaos-{number}.toml"
        plan.write_text(SHORT.replace('"lab"', f'"chaos-{number}"'))
        for site in self.lab.sites:
            site.wardround("site", "approve", plan, "--home", site.home, "--by", "chaos", "--yes")
        insist(
            lambda: self.lab.coordinator.wardround("server", "start", plan, "--home", self.lab.coordinator.home), self
        )
        folder = self.lab.coordinator.home / "studies" / f"chaos-{number}"
        end, idle_since = time.monotonic() + patience_s, time.monotonic()
        while not (folder / "card.json").exists():
            if sum(self.kills.values()) < kills:
                self.kill()
                self.spend(self.random.uniform(1, 12))
                if self.random.random() < 0.6:  # else the next blow falls before the last has healed
                    self.heal(90)
            else:
                self.spend(1)
            if troubles and self.random.random() < self.eager:
                self.trouble(troubles.pop(0))
            state = progress.read(folder)
            if state.state == "paused" and "judged the candidate and says no" in state.message:  # noise decides here
                say(f"study {number} ended at the gate: {state.message[:120]}")
                return True
            idle_since = idle_since if state.state in ("interrupted", "prepared") else time.monotonic()
            if state.state == "paused" or time.monotonic() - idle_since > 120:
                idle_since = time.monotonic()
                self.paused += 1
                self.hear(f"{state.state}: {state.message}")
                insist(
                    lambda: self.lab.coordinator.wardround(
                        "server", "resume", f"chaos-{number}", "--home", self.lab.coordinator.home
                    ),
                    self,
                    over=lambda: (folder / "card.json").exists() or progress.read(folder).state == "running",
                )
            if time.monotonic() > end:
                say(f"study {number} did not end; see {folder}")
                return False
        say(f"study {number} is released")
        return True


def insist(command: object, chaos: Chaos, *, over: Callable[[], bool] = lambda: False) -> None:
    """Repeat an operator's command until it is taken, or needless: what it talks to may be dead just now."""
    end = time.monotonic() + 300
    while not over():
        try:
            command()  # type: ignore[operator]
        except StateError as error:
            if time.monotonic() > end:
                raise
            chaos.told.append(str(error))
            say(f"not taken: {str(error)[-160:]}")
            chaos.spend(3)
        else:
            return


@dataclass
class Audit:
    """What the files say at the end."""

    sent: int = 0
    receipts: int = 0
    lost: int = 0
    undercounts: int = 0
    missed: int = 0

    def examine(self, lab: Lab, studies: list[Path]) -> None:
        for site in lab.sites:
            ledger = Ledger(site.home / "ledger.sqlite")
            rows = ledger.rows()
            settled = {(row.plan, row.note.partition(":")[2]) for row in rows if row.kind == "settle"}
            booked = collections.Counter((r.plan, r.round, r.note) for r in rows if r.kind == "reserve")
            finished = {(row.plan, row.round) for row in rows if row.kind == "settle"}
            self.lost += sum(n - 1 for (p, r, _), n in booked.items() if (p, r) in finished)
            lines = [json.loads(line) for line in (site.home / "egress.jsonl").read_text().splitlines()]
            self.sent += sum(line["kind"] == "train" for line in lines)
            for folder in studies:
                self._study(Study.resume(folder), site.name, ledger, settled)

    def _study(self, study: Study, site: str, ledger: Ledger, settled: set[tuple[str, str]]) -> None:
        plan: StudyPlan = study.plan
        for record in study.records:
            if site not in record.replied:
                self.missed += 1
                continue
            self.receipts += 1
            self.undercounts += (plan.digest, record.replied[site].update) not in settled
        spent = ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest)
        self.undercounts += spent + 1e-9 < study.epsilon(site)


def say(words: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {words}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="Folder to create and keep.  [default: a temporary one]")
    parser.add_argument("--skip-slow", action="store_true", help="Kills alone: no stops, full disks and outages.")
    parser.add_argument("--minutes", type=float, default=1e6, help="Begin no other study after so long.")
    parser.add_argument("--eager", type=float, default=0.12, help="Chance of a trouble after each kill.")
    parser.add_argument("--troubles", default="", help="Only these, with commas between.  [default: all]")
    parser.add_argument("--patience", type=float, default=1500.0, help="Seconds a study may take among kills.")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="chaos-"))
    lab = Lab.build(arguments.out or scratch / "lab", say=say)
    for site in lab.sites:
        rules = (site.home / "site.toml").read_text()
        (site.home / "site.toml").write_text(rules.replace("max_epsilon_total = 10.0", "max_epsilon_total = 1000.0"))
    chaos = Chaos(lab, random.Random(arguments.seed))
    troubles = [] if arguments.skip_slow else [kind for kind in TROUBLES if kind != "clock" or shutil.which("faketime")]
    if arguments.troubles:
        troubles = [kind for kind in troubles if kind in arguments.troubles.split(",")]
    chaos.eager = arguments.eager
    released: list[bool] = []
    began = time.monotonic()
    end = began + 60 * arguments.minutes
    try:
        lab.up()
        while (sum(chaos.kills.values()) < arguments.kills or troubles or not released) and time.monotonic() < end:
            released.append(
                chaos.study(len(released) + 1, kills=arguments.kills, troubles=troubles, patience_s=arguments.patience)
            )
            if not released[-1]:
                break
        chaos.spend(20)
    except KeyboardInterrupt:
        say("interrupted: the figures are of what was done")
    finally:
        for party, _ in chaos.dead:
            party.daemon = None
        left = lab.down()
    studies = sorted((lab.coordinator.home / "studies").glob("chaos-*"))  # one that was interrupted, too
    audit = Audit()
    audit.examine(lab, studies)
    figures = {
        "kills": sum(chaos.kills.values()),
        "kills by kind": dict(sorted(chaos.kills.items())),
        "other troubles": {kind: n for kind, n in chaos.troubles.items() if n},
        "clock set back": "done" if chaos.troubles["clock"] > 0 else "not done (needs faketime)",
        "studies finished": f"{sum(released)} of {len(released)}",
        "resumed by hand": chaos.paused,
        "receipts": audit.receipts,
        "rounds a site missed": audit.missed,
        "rounds repeated (answered again from a spool)": audit.sent - audit.receipts,
        "finished replies lost": audit.lost,
        "ledger undercounts": audit.undercounts,
        "advice to restore": (advice := chaos.advice()),
        "processes left behind": len(left),
        "median time to recover, s": round(statistics.median(chaos.recovered), 1) if chaos.recovered else None,
        "longest time to recover, s": round(max(chaos.recovered), 1) if chaos.recovered else None,
        "wounds that had not healed at the end": [f"{w.kind} of {w.party.name}" for w in chaos.wounds],
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    for name, value in figures.items():
        print(f"{name:48} {value}")
    shutil.rmtree(scratch, ignore_errors=True)
    good = all(released) and not (audit.lost or audit.undercounts or advice or left)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
