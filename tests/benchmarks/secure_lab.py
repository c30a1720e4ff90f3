"""A secure study of four hospitals as real processes with TLS, one of them killed for good in the middle.

    python -m tests.benchmarks.secure_lab [--out FOLDER]

One coordinator and four hospitals on loopback, each with its own home, daemons and certificates. Each makes its roster
entry, checks the roster and approves the plan by the product's own commands (c = 1, d = 1). After the first round one
hospital is killed with all of its processes and never comes back. The study must go on to its release without it.

Exit code 0 only if every round is done, the killed hospital is missing from the last ones by name, and no process is
left behind.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from client.site import layout
from deploy.data.demo_data import write_demo_hospitals
from deploy.install.lab import Lab, Party
from server.coordinator.home import SUPERLINK, free_ports

PLAN = """\
name = "secure-lab"
[data]
modality = ["CR", "DX"]
body_part = "CHEST"
image_size = 28
labels = ["normal", "lesion"]
min_patients = 12
[model]
latent = 4
channels = [4, 8]
base = 6
[training]
rounds = 0
[privacy]
epsilon = 8.0
phases = ["moments"]
[aggregation]
secure = true
hospitals = 4
colluding = 1
dropouts = 1
min_sites = 3
deadline_s = 600
[release]
images_per_label = 0
"""
NAMES = ("hill", "north", "river", "valley")
KILLED = "river"


def main() -> int:
    """Run the whole journey; print each step and one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Folder to create and keep.  [default: a temporary one]")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secure-lab-") as scratch:
        return journey(chosen.out or Path(scratch) / "lab")


def journey(folder: Path) -> int:
    """Everything, in order; the daemons are taken down in any case."""
    began = time.monotonic()
    lab = build(folder)
    try:
        lab.up()
        submit(lab)
        checkpoints = lab.run_dir / "checkpoints"
        lab.wait("the first round is saved", lambda: any(checkpoints.glob("[0-9]*")), patience_s=600)
        kill(lab, next(site for site in lab.sites if site.name == KILLED))
        card = lab.finish(patience_s=900)
    finally:
        left = lab.down()
    rounds = [{"replied": sorted(record["replied"]), "missing": record["missing"]} for record in card["rounds"]]
    ended = KILLED in rounds[-1]["missing"] and len(rounds[-1]["replied"]) == 3 and len(rounds) == 3
    result = {"rounds": rounds, "left_behind": left, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(result))
    return 0 if ended and not left else 1


def build(folder: Path) -> Lab:
    """Homes, phantoms, enrolments, one roster that every hospital checks, and approvals; nothing that stays runs."""
    folder.mkdir(parents=True, mode=0o700)
    folder = folder.resolve()
    parties = [Party(name, folder / name) for name in ("coordinator", *NAMES)]
    for party in parties:
        party.folder.mkdir(mode=0o700)
    lab = Lab(folder, parties[0], parties[1:], say=say)
    plan = folder / "plan.toml"
    plan.write_text(PLAN, encoding="utf-8")
    write_demo_hospitals(folder / "dicom", patients=(40, 36, 34))
    write_demo_hospitals(folder / "more", patients=(38, 1, 1), seed=11)
    (folder / "more" / "north").rename(folder / "dicom" / "valley")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    lab.coordinator.wardround("server", "init", lab.coordinator.home, "--host", address)
    entries = [admit(lab, site, plan) for site in lab.sites]
    roster = folder / "roster.json"
    made = lab.coordinator.wardround("server", "roster", *entries, "--out", roster)
    plan.write_text(PLAN.replace("deadline_s", f'roster = "{made["digest"]}"\ndeadline_s'), encoding="utf-8")
    for site in lab.sites:
        say(f"{site.name}: checking the roster, approving")
        checked = site.wardround("site", "roster", "check", roster, "--home", site.home)
        assert checked["digest"] == made["digest"]
        site.wardround("site", "approve", plan, "--home", site.home, "--by", "data steward", "--yes")
    return lab


def admit(lab: Lab, site: Party, plan: Path) -> Path:
    """One hospital's home, scans, enrolment, and its entry of the roster."""
    say(f"{site.name}: admitting scans, enrolling")
    (lab.folder / "dicom" / site.name).rename(site.folder / "dicom")
    site.wardround("site", "init", "--name", site.name, "--home", site.home)
    rules = site.home / layout.RULES
    text = rules.read_text(encoding="utf-8").replace("min_patients = 50", "min_patients = 12")
    text = text.replace("max_epsilon_alone = 0.0", "max_epsilon_alone = 16.0")
    rules.write_text(text.replace("threads = 0", "threads = 1"), encoding="utf-8")
    site.wardround("site", "ingest", site.folder / "dicom", "--home", site.home, "--plan", plan, "--no-ocr",
                   "--workers", "1")  # fmt: skip
    lab.enrol(site)
    entry = lab.folder / f"{site.name}.member.json"
    site.wardround("site", "roster", "entry", "--legal", f"Hospital {site.name}", "--home", site.home, "--out", entry)
    return entry


def submit(lab: Lab) -> None:
    """Prepare the study with its roster and start it by `flwr run`."""
    party = lab.coordinator
    made = party.wardround("server", "prepare", lab.folder / "plan.toml", "--home", party.home,
                           "--roster", lab.folder / "roster.json")  # fmt: skip
    say("flwr run")
    flwr, app = str(Path(party.python).parent / "flwr"), str(Path(__file__).parents[2] / "deploy" / "flower_app")
    party.run([flwr, "run", app, SUPERLINK, "--run-config", f'run-dir="{made["run_dir"]}"'], timeout_s=300)


def kill(lab: Lab, site: Party) -> None:
    """End a hospital's daemon and all that it has started, at once and for good."""
    assert site.daemon is not None
    say(f"{site.name}: killed for good")
    parent = psutil.Process(site.daemon.pid)
    lab.note_processes()
    for process in [parent, *parent.children(recursive=True)]:
        process.kill()
    site.daemon.wait(timeout=60)
    lab.sites.remove(site)  # else the lab takes its end for a fault


def say(words: str) -> None:
    """Print a step on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {words}\n")


if __name__ == "__main__":
    sys.exit(main())
