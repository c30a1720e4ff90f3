"""A checkpoint is whole or refused; nothing is overwritten."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import CheckpointCorrupt, OutputInUse, PlanError
from server.protocol import rounds
from server.study.study import KEPT, Study
from tests.server.sites import PLAN, ScriptedExchange


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "plan.toml").write_text(PLAN)
    study = Study.begin(folder)
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north")))
    return folder


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path, dirs_exist_ok=True))


def test_a_begun_study_is_not_begun_again(finished: Path) -> None:
    with pytest.raises(OutputInUse, match="--resume"):
        Study.begin(finished)


def test_the_last_checkpoints_are_kept_and_older_ones_go(finished: Path) -> None:
    kept = sorted(folder.name for folder in (finished / "checkpoints").iterdir())
    assert kept == ["00003", "00004", "00005"]
    assert len(kept) == KEPT


def test_without_a_plan_there_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(PlanError):
        Study.resume(tmp_path)


def spoil_weights(checkpoint: Path) -> None:
    path = checkpoint / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def truncate_weights(checkpoint: Path) -> None:
    path = checkpoint / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove_weights(checkpoint: Path) -> None:
    (checkpoint / "weights.safetensors").unlink()


def remove_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def forge_state(checkpoint: Path) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    state["rounds"][-1]["weights"] = "0" * 64
    (checkpoint / "state.json").write_text(json.dumps(state))


def drop_a_round(checkpoint: Path) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    state["rounds"].pop()
    (checkpoint / "state.json").write_text(json.dumps(state))


def other_plan(checkpoint: Path) -> None:
    plan = checkpoint.parents[1] / "plan.toml"
    plan.write_text(plan.read_text().replace("local_steps = 2", "local_steps = 3"))


@pytest.mark.parametrize(
    "harm",
    [
        spoil_weights,
        truncate_weights,
        remove_weights,
        remove_state,
        forge_state,
        drop_a_round,
        other_plan,
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_left_as_it_is(finished: Path, harm: object) -> None:
    last = finished / "checkpoints" / "00005"
    harm(last)  # type: ignore[operator]
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointCorrupt):
        Study.resume(finished)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


def test_a_checkpoint_of_another_version_is_refused_without_the_advice_to_remove_it(finished: Path) -> None:
    """Who removed every checkpoint of a running study would have its hospitals pay for all rounds again."""
    path = finished / "checkpoints" / "00005" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "schema": 1}))
    with pytest.raises(CheckpointCorrupt, match=r"has schema 1, this version reads 2.* keep it") as refusal:
        Study.resume(finished)
    assert "Remove" not in str(refusal.value)


def test_the_remedy_that_the_refusal_names_works(finished: Path) -> None:
    last = finished / "checkpoints" / "00005"
    spoil_weights(last)
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    study = Study.resume(finished)
    assert study.completed == 4
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north")))
    assert study.completed == 5


def test_a_crash_between_weights_and_state_leaves_the_round_before(finished: Path) -> None:
    draft = finished / "checkpoints" / ".00006.draft"
    draft.mkdir()
    (draft / "weights.safetensors").write_bytes(b"half")
    assert Study.resume(finished).completed == 5


def test_a_first_checkpoint_that_was_cut_off_does_not_lock_the_study(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "checkpoints" / ".00001.draft").mkdir(parents=True)
    study = Study.resume(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north")))
    assert study.completed == 5


def test_a_study_killed_at_any_operation_on_the_disk_goes_on_to_the_same_end(tmp_path: Path) -> None:
    step = int(os.environ.get("WARDROUND_TEST_KILL_EVERY", "13"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.kill_study", tmp_path, str(step)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    kills = [line.split() for line in done.stdout.splitlines()]
    assert len(kills) >= 5
    assert {saved for _, saved, _ in kills} >= {"0", "1"}
    assert [line for line in kills if line[2] != "True"] == []
