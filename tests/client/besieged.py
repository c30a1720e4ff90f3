"""A hospital under siege, for tests of hostile messages: made from DICOM files, asked over real Flower messages."""

import shutil
from pathlib import Path
from typing import Any

from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.admission.ingest import ingest
from client.admission.settings import IngestSettings
from client.app import app
from client.ledger.ledger import Ledger
from client.site import policy
from common.model.study_model import initial
from common.model.weights import Weights
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, HelloReply, Refused, TrainReply, TrainRequest, read_reply
from tests.client.scans import cohort

PLAN = StudyPlan.parse(
    """
name = "besieged"
[data]
image_size = 28
min_patients = 8
[model]
latent = 3
channels = [4, 8]
base = 4
[training]
rounds = 2
local_steps = 2
sample_rate = 1.0
"""
)
SGD = 4
"""Number of the first round of the gradient phase."""


INITIAL = initial(PLAN).arrays()


class Daemon:
    """One hospital's app, asked over real messages."""

    def __init__(self, home: Path) -> None:
        self.home = home
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def ask(self, record: RecordDict, *, kind: str = "train", run_config: dict[str, Any] | None = None) -> RecordDict:
        """Send a record as a message of this Flower type; what the app raises comes out."""
        context = Context(
            run_id=1,
            node_id=1,
            node_config={"site-home": str(self.home)},
            state=RecordDict(),
            run_config=run_config or {},
        )
        message = Message(record, 1, kind)
        message.metadata.__dict__["_message_id"] = "m-1"
        return app(message=message, context=context).content

    def train(self, number: int = 1, *, weights: Weights | None = None) -> TrainReply | Refused:
        """Ask for a round."""
        return read_reply(self.ask(request(number, weights).to_record()), TrainReply)

    def refusal(self, record: RecordDict, *, kind: str = "train") -> str:
        """Send what must be refused, and return the type: the answer holds that, the site's name and nothing else."""
        before = self.state()
        answer = self.ask(record, kind=kind)
        assert set(answer) == {"message"}
        assert set(answer["message"]) == {"schema", "kind", "plan", "site", "reason"}
        refused = read_reply(answer, TrainReply)
        assert isinstance(refused, Refused)
        assert self.state() == before, "ledger or data changed"
        assert self.serves()
        return refused.reason

    def serves(self) -> bool:
        """Whether an honest server would still be answered."""
        answer = read_reply(self.ask(Hello(plan=PLAN.digest).to_record(), kind="query"), HelloReply)
        return isinstance(answer, HelloReply)

    def events(self) -> list[Any]:
        """What the ledger has booked."""
        return Ledger(self.home / "ledger.sqlite").events()

    def state(self) -> dict[str, Any]:
        """Everything a hostile message must leave alone: ledger, cache, approvals, policy, spool, keys."""
        ledger = Ledger(self.home / "ledger.sqlite")
        kept = [p for p in sorted(self.home.rglob("*")) if p.is_file()]
        loose = ("ledger", "egress.", "round.lock", "place.")  # a refusal is logged; the first use binds the home
        files = {str(p): p.read_bytes() for p in kept if not p.name.startswith(loose)}
        return {"events": ledger.events(), "head": ledger.head(), **files}


def make_hospital(place: Path) -> Path:
    """Make a hospital from DICOM files: ten patients, two images each, the plan approved; return its home."""
    cohort(place / "in", patients=10, images=2)
    home = place / "home"
    home.mkdir()
    (home / "site.toml").write_text(
        'name = "north"\n[limits]\nmin_patients = 8\n[resources]\ndevice = "cpu"\nthreads = 1\n'
    )
    summary = ingest(place / "in", home, IngestSettings.from_plan(PLAN), workers=1)
    assert (summary.admitted, summary.patients) == (20, 10)
    policy.approve(home, PLAN, approved_by="steward")
    return home


def copy_of(template: Path, place: Path) -> Daemon:
    """Start a daemon on a copy of a hospital."""
    shutil.copytree(template, place / "home")
    return Daemon(place / "home")


def request(number: int = 1, weights: Weights | None = None) -> TrainRequest:
    return TrainRequest(plan=PLAN.digest, round=number, arrays=INITIAL if weights is None else weights)


def with_scalars(**changes: Any) -> RecordDict:
    record = request().to_record()
    record["message"] = ConfigRecord({**record["message"], **changes})
    return record


def with_array(name: str, array: Array) -> RecordDict:
    record = request().to_record()
    record["arrays"][name] = array
    return record
