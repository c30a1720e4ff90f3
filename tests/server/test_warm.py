"""The warm-up is on public images, at the coordinator, once; hospitals see its result and nothing of it costs them."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from common.errors import CheckpointCorrupt, DataError, PlanError, QuorumLost, StudyStopped
from common.model.array_table import PREFIX as START
from common.model.study_model import initial, trained
from common.model.weights import Weights, digest
from common.plan.schedule import schedule, whole_cost
from common.plan.study_plan import StudyPlan
from common.wire.messages import Hello, TrainRequest
from server.model import scores, warm, warm_data
from server.protocol import rounds
from server.study import release
from server.study.study import Study
from tests.server.sites import PLAN, ScriptedExchange

NAMES = ("hill", "north")
WARM = "[warm]\nsteps = 3\nimages = 64\nlearning_rate = 0.002\n"


def text(phases: str, *, table: str = WARM) -> str:
    return PLAN + f"{table}[privacy]\nphases = {phases}\n[release]\nimages_per_label = 0\n"


def begin(folder: Path, phases: str = '["warm", "moments", "sgd"]', *, table: str = WARM) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.toml").write_text(text(phases, table=table))
    return Study.begin(folder)


def run_heard(study: Study, *, fails_at: int = 0) -> tuple[list[Weights], list[Weights]]:
    """Run it; return what was asked with in each round and the weights after each."""
    asked: list[Weights] = []
    after: list[Weights] = []

    def heard(question: Hello | TrainRequest, record: RecordDict) -> RecordDict | None:
        if isinstance(question, TrainRequest):
            if question.round == fails_at:
                return None
            asked.append(question.arrays)
        return record

    exchange = ScriptedExchange(study.plan, NAMES, {"hill": heard})
    rounds.run(study, exchange, on_round=lambda _: after.append(study.weights))
    return asked, after


def same(one: Weights, two: Weights) -> bool:
    return digest(one) == digest(two)


@pytest.mark.parametrize("phases", ['["warm", "moments", "sgd"]', '["warm", "moments"]', '["warm", "sgd"]'])
def test_a_warm_phase_is_no_round_and_changes_no_cost_and_no_noise(phases: str) -> None:
    warmed = StudyPlan.parse(text(phases))
    plain = StudyPlan.parse(text(phases.replace('"warm", ', "")))
    assert schedule(warmed) == schedule(plain)
    assert whole_cost(warmed) == whole_cost(plain)
    assert warmed.digest != plain.digest


@pytest.mark.parametrize("phases", ['["moments", "warm"]', '["warm"]', '["sgd", "warm"]', '["warm", "warm", "sgd"]'])
def test_a_warm_phase_stands_first_and_never_alone(phases: str) -> None:
    with pytest.raises(PlanError, match=r"`privacy\.phases`"):
        StudyPlan.parse(text(phases))


def test_after_the_moments_the_nets_are_warmed_above_the_start_which_stays_as_it_was(tmp_path: Path) -> None:
    study = begin(tmp_path)
    cold = trained(study.plan, study.weights)
    asked, after = run_heard(study)
    for weights in asked[:3]:
        assert same(trained(study.plan, weights), cold)  # the moments need no nets
    warmed = asked[3]
    assert same(warmed, after[2])
    assert not same(trained(study.plan, warmed), cold)
    assert all(np.abs(warmed[START + name]).max() > 0 for name in ("mean", "basis"))
    unwarmed = {**warmed, **cold}
    again = warm.up(study.plan, tmp_path, unwarmed)
    for name, value in again.items():
        np.testing.assert_allclose(value, warmed[name], rtol=1e-3, atol=1e-5, err_msg=name)
        if name.startswith(START):
            assert value.tobytes() == unwarmed[name].tobytes(), name


@pytest.mark.parametrize("phases", ['["warm", "moments", "sgd"]', '["warm", "moments"]'])
def test_gradients_of_patients_begin_at_the_closed_form_even_where_the_nets_are_warm(
    tmp_path: Path, phases: str
) -> None:
    study = begin(tmp_path, phases)
    model = initial(study.plan)
    model.load_arrays(warm.up(study.plan, tmp_path, study.weights))
    latent, labels = torch.randn((4, 3)), torch.tensor([0, 1, 0, 1])
    linear = model.start.decode(latent, model.one_hot(labels)).view(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(model.decode_latents(latent, labels), linear) is ("sgd" in phases)


def test_without_moments_the_first_request_is_warm_already(tmp_path: Path) -> None:
    study = begin(tmp_path, '["warm", "sgd"]')
    cold = study.weights
    asked, _ = run_heard(study)
    assert not same(asked[0], cold)
    stored = warm.before_the_first_round(study.plan, tmp_path, cold)
    assert same(asked[0], stored)


def test_warming_on_phantoms_redraws_other_phantoms_better(tmp_path: Path) -> None:
    table = "[warm]\nsteps = 60\nimages = 256\nlearning_rate = 0.005\n"
    study = begin(tmp_path, '["warm", "sgd"]', table=table)
    before = scores.utility(study.plan, study.weights)
    assert scores.utility(study.plan, warm.up(study.plan, tmp_path, study.weights)) < 0.7 * before


@pytest.mark.parametrize(("phases", "fails_at"), [('["warm", "sgd"]', 1), ('["warm", "moments", "sgd"]', 4)])
def test_a_study_that_stops_right_after_its_warm_up_never_warms_twice(
    tmp_path: Path, phases: str, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(tmp_path / "whole", phases)
    asked, _ = run_heard(study)
    cut = begin(tmp_path / "cut", phases)
    with pytest.raises(QuorumLost):
        run_heard(cut, fails_at=fails_at)

    def refuse(*_: object) -> None:
        raise AssertionError("warmed again")

    monkeypatch.setattr(warm_data, "load", refuse)
    resumed = Study.resume(tmp_path / "cut")
    after, _ = run_heard(resumed)
    assert same(after[0], asked[fails_at - 1])
    assert same(resumed.weights, study.weights)


def test_stored_warm_weights_that_are_damaged_or_of_another_plan_are_refused(tmp_path: Path) -> None:
    study = begin(tmp_path, '["warm", "sgd"]')
    warm.before_the_first_round(study.plan, tmp_path, study.weights)
    other = dataclasses.replace(study.plan, name="other")
    with pytest.raises(CheckpointCorrupt, match="another plan"):
        warm.before_the_first_round(other, tmp_path, study.weights)
    path = tmp_path / warm.FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointCorrupt):
        warm.before_the_first_round(study.plan, tmp_path, study.weights)


def test_a_rash_learning_rate_stops_the_study_before_any_hospital_is_asked(tmp_path: Path) -> None:
    study = begin(tmp_path, '["warm", "sgd"]', table="[warm]\nsteps = 3\nimages = 64\n")
    spoiled = {name: np.full_like(array, 1e30) for name, array in study.weights.items()}
    with pytest.raises(StudyStopped, match=r"warm\.learning_rate"):
        warm.up(study.plan, tmp_path, spoiled)


def test_card_and_report_say_what_warmed_the_nets_and_that_it_was_free(tmp_path: Path) -> None:
    study = begin(tmp_path, '["warm", "moments"]')
    run_heard(study)
    release.publish(study, simulated=True)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["warm"] == {
        "source": "phantoms", "images": 64, "steps": 3, "learning_rate": 0.002, "public": True, "epsilon": 0.0,
        "after_round": 3,
    }  # fmt: skip
    assert "first trained on 64 procedural phantoms, 3 steps" in (tmp_path / "report.html").read_text()


def public_file(path: Path, **changes: np.ndarray) -> str:
    """Write an .npz of public images; return its digest."""
    random = np.random.default_rng(1)
    arrays = {"images": random.integers(0, 256, (70, 40, 36), np.uint8), "labels": np.arange(70) % 2}
    np.savez(path, **{**arrays, **changes})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_file(source: str) -> StudyPlan:
    return StudyPlan.parse(text('["warm", "sgd"]', table=f'[warm]\nsteps = 2\nsource = "{source}"\n'))


def test_public_images_from_a_file_are_kept_with_the_study_and_brought_to_the_plans_size(tmp_path: Path) -> None:
    plan = with_file(public_file(tmp_path / "public.npz"))
    warm_data.keep(plan, tmp_path / "public.npz", tmp_path / "study")
    images, labels = warm_data.load(plan, tmp_path / "study")
    assert images.shape == (70, 1, 28, 28)
    assert float(images.abs().max()) <= 1
    assert labels.tolist() == [i % 2 for i in range(70)]
    assert not same(warm.up(plan, tmp_path / "study", initial(plan).arrays()), initial(plan).arrays())


def test_only_the_file_of_the_plans_digest_is_taken(tmp_path: Path) -> None:
    plan = with_file(public_file(tmp_path / "public.npz"))
    public_file(tmp_path / "other.npz", labels=np.zeros(70, np.int64))
    for given, match in (
        (tmp_path / "other.npz", "not the file"),
        (None, "--warm-data"),
        (tmp_path / "no", "cannot be read"),
    ):
        with pytest.raises((PlanError, DataError), match=match):
            warm_data.keep(plan, given, tmp_path / "study")
    assert not (tmp_path / "study" / warm_data.FILE).exists()
    phantoms = StudyPlan.parse(text('["warm", "sgd"]'))
    with pytest.raises(PlanError, match="Leave --warm-data out"):
        warm_data.keep(phantoms, tmp_path / "public.npz", tmp_path / "study")


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((70, 40, 36, 3), np.uint8)},
        {"images": np.zeros((10, 40, 36), np.uint8), "labels": np.zeros(10, np.int64)},
        {"images": np.full((70, 40, 36), 2.0)},
        {"images": np.full((70, 40, 36), np.nan)},
        {"images": np.array([{"a": 1}] * 70, dtype=object)},
        {"labels": np.full(70, 2)},
        {"labels": np.full(70, -1)},
        {"labels": np.zeros(69, np.int64)},
        {"labels": np.full(70, 0.5)},
        {"images": np.zeros((0, 40, 36), np.uint8), "labels": np.zeros(0, np.int64)},
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_never_unpickled(
    tmp_path: Path, changes: dict[str, np.ndarray]
) -> None:
    plan = with_file(public_file(tmp_path / "public.npz", **changes))
    with pytest.raises(DataError):
        warm_data.keep(plan, tmp_path / "public.npz", tmp_path / "study")


def test_what_is_no_archive_at_all_is_a_data_error(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 half an archive", b"\x93NUMPY"):
        (tmp_path / "public.npz").write_bytes(content)
        plan = with_file(hashlib.sha256(content).hexdigest())
        with pytest.raises(DataError):
            warm_data.keep(plan, tmp_path / "public.npz", tmp_path / "study")


def test_an_archive_whose_compressed_images_are_damaged_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "public.npz"
    np.savez_compressed(path, images=np.zeros((70, 40, 36), np.uint8), labels=np.zeros(70, np.int64))
    content = bytearray(path.read_bytes())
    begin = content.index(b"images.npy") + 40
    content[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))
    plan = with_file(hashlib.sha256(bytes(content)).hexdigest())
    with pytest.raises(DataError, match=r"not a \.npz file"):
        warm_data.keep(plan, path, tmp_path / "study")
