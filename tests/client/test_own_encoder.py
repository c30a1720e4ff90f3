"""Where a plan federates the decoder alone, the encoder never leaves its site, and a crash makes no second draw."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from client import hospital
from client.egress import egress, spool
from client.ledger import noise_key
from client.mechanism import local_encoder
from client.site.site import Site
from common.errors import EgressRefused, MessageRefused, PlanError, StateError
from common.mechanism.registry import leaving
from common.model.array_table import shapes, shared_shapes
from common.model.study_model import encoder_arrays, initial
from common.model.weights import digest
from common.plan.schedule import schedule, whole_cost
from common.plan.study_plan import StudyPlan
from common.wire.messages import TrainReply, TrainRequest
from tests.client import hospitals
from tests.client.hospitals import build_home, request

DECODER = '\nfederated = "decoder"\n'
TEXT = hospitals.PLAN.replace("local_steps = 2\n", "local_steps = 2" + DECODER)
PLAN = StudyPlan.parse(TEXT)
FIRST, SECOND = (step for step in schedule(PLAN) if step.phase == "sgd")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build_home(tmp_path / "north", PLAN)


def train(home: Path, number: int, *, seed: int | None = None, shift: float = 0.0) -> TrainReply:
    return hospital.train(Site.open(home, simulation_seed=seed), request(PLAN, number, shift=shift))


def stored(home: Path) -> list[str]:
    return sorted(path.stem for path in (home / local_encoder.FOLDER).rglob("*.safetensors"))


def test_the_cost_and_the_noise_are_those_of_the_whole_model() -> None:
    whole = StudyPlan.parse(hospitals.PLAN)
    assert schedule(PLAN) == schedule(whole)
    assert whole_cost(PLAN) == whole_cost(whole)
    assert shapes(PLAN) == shapes(whole)


def test_what_is_shared_is_the_model_without_any_array_of_the_encoder() -> None:
    encoder = encoder_arrays(PLAN, initial(PLAN).arrays())
    assert {name.split(".")[0] for name in encoder} == {"encode", "mu", "logvar"}
    assert {name.split(".")[0] for name in shared_shapes(PLAN)} == {"decode", "decodeL", "start"}
    assert set(shared_shapes(PLAN)) | set(encoder) == set(shapes(PLAN))


def test_nothing_but_decoder_arrays_leaves_in_any_round(home: Path) -> None:
    for step in schedule(PLAN):
        reply = train(home, step.number)
        if step.phase == "sgd":
            assert {name.split(".")[0] for name in reply.arrays} == {"decode", "decodeL"}
    for line in (home / egress.LOG).read_text().splitlines():
        assert not [key for key in json.loads(line)["keys"] if key.startswith(("encode.", "mu.", "logvar."))]
    for path in (home / "spool").rglob("*.safetensors"):
        assert b"logvar" not in path.read_bytes()


def test_the_door_refuses_a_reply_that_holds_an_encoder(home: Path) -> None:
    reply = train(home, FIRST.number)
    for name in ("mu.weight", "logvar.bias"):
        more = {**reply.arrays, name: np.zeros(shapes(PLAN)[name], np.float32)}
        with pytest.raises(EgressRefused, match=f"{name}' is unknown"):
            egress.seal(site="north", plan=PLAN, step=FIRST, arrays=more, epsilon=1.0, ledger_head="0" * 64)


def test_a_server_cannot_hand_a_site_an_encoder(home: Path) -> None:
    honest = request(PLAN, FIRST.number)
    sent = TrainRequest(plan=PLAN.digest, round=FIRST.number, arrays=initial(PLAN).arrays())
    assert set(sent.arrays) > set(honest.arrays)
    with pytest.raises(MessageRefused, match="is unknown"):
        hospital.train(Site.open(home), sent)


def test_the_encoder_goes_on_from_round_to_round_and_a_lost_one_starts_from_the_plans(home: Path) -> None:
    """In a simulation, where the draws are the same: what differs is where the encoder began."""
    train(home, FIRST.number, seed=3)
    assert stored(home) == [f"{FIRST.number:05d}"]
    public = encoder_arrays(PLAN, initial(PLAN).arrays())
    kept = local_encoder.for_round(home, PLAN, SECOND.number)
    assert digest(kept) != digest(public)
    assert digest(local_encoder.for_round(home, PLAN, FIRST.number)) == digest(public)
    lost = Path(shutil.copytree(home, home.with_name("lost")))
    shutil.rmtree(lost / local_encoder.FOLDER)
    assert digest(local_encoder.for_round(lost, PLAN, SECOND.number)) == digest(public)
    went_on, began_anew = (train(folder, SECOND.number, seed=3) for folder in (home, lost))
    assert digest(went_on.arrays) != digest(began_anew.arrays)
    assert went_on.epsilon == began_anew.epsilon


def test_a_damaged_encoder_counts_as_lost(home: Path) -> None:
    train(home, FIRST.number)
    path = next((home / local_encoder.FOLDER).rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    public = encoder_arrays(PLAN, initial(PLAN).arrays())
    assert digest(local_encoder.for_round(home, PLAN, SECOND.number)) == digest(public)
    assert set(train(home, SECOND.number).arrays) == set(leaving(PLAN, "sgd"))


def test_a_round_that_a_crash_cut_short_is_the_same_draw_from_the_same_encoder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(home, FIRST.number)
    attempts = []

    def dies(_home: Path, _request: TrainRequest, finished: spool.Finished) -> None:
        attempts.append(digest(finished.answer.arrays))
        raise StateError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "keep", dies)
        for _ in range(2):
            with pytest.raises(StateError):
                train(home, SECOND.number)
    assert stored(home) == [f"{FIRST.number:05d}"]  # nobody sees what a cut round made of it
    assert attempts == [digest(train(home, SECOND.number).arrays)] * 2


def test_the_encoder_is_seen_only_once_the_reply_is_stored_and_the_key_is_gone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, seen = local_encoder.keep, []

    def watched(*arguments: object) -> None:
        seen.append((spool.find(home, request(PLAN, FIRST.number)) is not None, list((home / "keys").glob("*.key"))))
        keep(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(local_encoder, "keep", watched)
    reply = train(home, FIRST.number)
    assert seen == [(True, [])]
    assert digest(train(home, FIRST.number).arrays) == digest(reply.arrays)
    assert len(seen) == 1  # from the spool: nothing was computed


def test_a_crash_before_the_encoder_is_stored_costs_the_encoder_and_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(local_encoder, "write", full)
        with pytest.raises(StateError, match="the round's reply is stored"):
            train(home, FIRST.number)
    before = Site.open(home).ledger.events(plan=PLAN.digest)
    train(home, FIRST.number)
    assert Site.open(home).ledger.events(plan=PLAN.digest) == before
    assert stored(home) == []
    name = noise_key.name_of(PLAN.digest, FIRST.number, digest(request(PLAN, FIRST.number).arrays), "")
    assert noise_key.kept(home, name) is None


def test_only_the_newest_encoders_are_kept(home: Path) -> None:
    public = encoder_arrays(PLAN, initial(PLAN).arrays())
    for number in range(1, 6):
        local_encoder.keep(home, PLAN, number, public)
    assert stored(home) == ["00004", "00005"]


def test_a_plan_that_shares_everything_keeps_no_encoder(tmp_path: Path) -> None:
    plan = StudyPlan.parse(hospitals.PLAN)
    home = build_home(tmp_path / "north", plan)
    hospital.train(Site.open(home), request(plan, FIRST.number))
    assert not (home / local_encoder.FOLDER).exists()
    assert local_encoder.for_round(home, plan, SECOND.number) == {}


def test_a_warmed_encoder_has_no_way_to_the_sites_so_the_plan_is_refused() -> None:
    with pytest.raises(PlanError, match=r"`training\.federated`"):
        StudyPlan.parse(TEXT + '[privacy]\nphases = ["warm", "sgd"]\n')
