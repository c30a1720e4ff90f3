"""Makes the fixtures of `tests/old` with the code of an old commit; `scripts/make_old_fixtures.py` runs it there.

So every import names a module of that commit, b90add3, before modules moved into rooms and before plan keys were added
later. The data are phantoms, and the keys belong to nobody.
"""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import torch
from common.synthesis import Decoder
from common.weights import digest
from deploy.demo_data import write_demo_hospitals
from deploy.local_grid import LocalGrid
from deploy.simulate import SETUP, prepare, start
from flwr.app import Context, Message, RecordDict

import client.app
import server.app
from client import hospital
from client.ledger import Ledger
from client.site import Site
from common.errors import QuorumLost
from common.simulation import SimulationSetup
from server.coordinator import invitations
from server.coordinator.home import Home
from tests.client.hospitals import build_home, request, tiny_plan
from tests.server.coordinators import Visitor

BOOKED = 4
"""Rounds of the study that the hospital answered; the fifth is booked and was cut short."""
SAVED = 4
"""Rounds of the run that are saved, of five."""
RUN_PLAN = """
name = "old-phantoms"
[data]
modality = ["CR", "DX"]
body_part = "CHEST"
image_size = 28
labels = ["normal", "lesion"]
min_patients = 10
[model]
latent = 4
channels = [4, 8]
base = 8
[training]
rounds = 2
local_steps = 3
sample_rate = 0.2
[privacy]
epsilon = 8
mean_clip = 0.65
deviation_clip = 0.25
[aggregation]
min_sites = 2
deadline_s = 120
[release]
images_per_label = 2
"""


def hospital_home(home: Path) -> dict[str, object]:
    """A hospital with four answered rounds, a fifth that a crash cut short, and a second plan that is only approved."""
    plan, waiting = tiny_plan(), tiny_plan(name="waiting")
    build_home(home, plan, waiting)
    replies = [hospital.train(Site.open(home), request(plan, number)) for number in range(1, BOOKED + 1)]
    hospital._compute, compute = _switched_off, hospital._compute
    with contextlib.suppress(KeyboardInterrupt):
        hospital.train(Site.open(home), request(plan, BOOKED + 1))
    hospital._compute = compute
    ledger = Ledger(home / "ledger.sqlite")
    return {
        "plan": plan.digest,
        "waiting": waiting.digest,
        "replies": [digest(reply.arrays) for reply in replies],
        "head": replies[-1].ledger_head,
        "epsilon": ledger.epsilon(delta=plan.privacy.delta, plan=plan.digest),
        "events": len(ledger.events()),
        "cohort": Site.open(home).cohort(plan).identity,
    }


def _switched_off(*_: object) -> None:
    raise KeyboardInterrupt


def half_done_run(run: Path, released: Path, scratch: Path) -> dict[str, object]:
    """A simulated study that lost its sites after the fourth round, and what the same study is at its end."""
    plan = scratch / "plan.toml"
    plan.write_text(RUN_PLAN)
    folders = write_demo_hospitals(scratch / "hospitals", patients=(36, 32, 11), seed=3)[:2]
    prepare(plan, folders, run, seed=5, workers=1)
    with contextlib.suppress(QuorumLost):
        _run_until(run, SAVED)
    ended = scratch / "ended"
    shutil.copytree(run, ended)
    start(ended, workers=1)
    released.mkdir()
    kept = ("plan.toml", "decoder.safetensors", "card.json", "report.html", "manifest.*", "rounds.csv")
    for path in {path for pattern in kept for path in ended.glob(pattern)}:
        shutil.copy(path, released / path.name)
    decoder = Decoder.load(released / "decoder.safetensors")
    drawn = torch.stack(list(decoder.draw("lesion", 2, seed=11)))
    return {
        "plan": decoder.plan.digest,
        "saved": SAVED,
        "decoder": decoder.digest,
        "drawn": [round(float(value), 6) for value in drawn.flatten()[::37]],
        "privacy": json.loads((released / "card.json").read_text())["privacy"],
    }


def _run_until(run: Path, rounds: int) -> None:
    """Run the study in this process; every site fails from the round after `rounds` on."""
    seen: dict[int, int] = {}

    def fault(node: int, message: Message) -> None:
        if message.metadata.message_type == "train":
            seen[node] = seen.get(node, 0) + 1
            if seen[node] > rounds:
                raise RuntimeError("the machine was switched off")

    config = {"run-dir": str(run), "simulation": str(run / SETUP)}
    nodes = len(SimulationSetup.load(run / SETUP).homes)
    grid = LocalGrid(client.app.app, nodes=nodes, run_config=config, workers=1, fault=fault)
    try:
        server.app.app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config))
    finally:
        grid.close()


def coordinator_home(root: Path) -> dict[str, object]:
    """A coordinator with one enrolled site, one that is revoked and one that is invited."""
    home = Home.init(root, host="127.0.0.1:8443")
    north = Visitor.enrolled(home, "north")
    Visitor.enrolled(home, "gone")
    invitations.revoke(home, "gone")
    invitations.invite(home, "hill")
    return {"north": north.welcome.certificate}


def main(out: Path, scratch: Path) -> None:
    """Write all fixtures below `out`, which must be empty."""
    torch.set_num_threads(1)
    made = {
        "hospital": hospital_home(out / "hospital"),
        "run": half_done_run(out / "run", out / "released", scratch),
        "coordinator": coordinator_home(out / "coordinator"),
    }
    (out / "expected.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
