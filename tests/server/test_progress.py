"""A study says where it stands, one process at a time runs it, and only a released one is completed."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import OutputInUse, QuorumLost
from server.study import progress


def test_a_study_that_lost_its_quorum_is_paused_with_the_reason_until_it_runs_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "00001").mkdir(parents=True)
    with pytest.raises(QuorumLost), progress.watched(tmp_path):
        raise QuorumLost("round 3 got 1 usable replies")
    paused = progress.read(tmp_path)
    assert (paused.state, paused.reason) == ("paused", "QuorumLost")
    assert "round 3" in paused.message
    with progress.watched(tmp_path):
        assert progress.read(tmp_path).state == "running"
    assert progress.read(tmp_path).state == "interrupted"


def test_only_a_release_makes_a_study_completed(tmp_path: Path) -> None:
    assert progress.read(tmp_path).state == "prepared"
    (tmp_path / "checkpoints" / "00001").mkdir(parents=True)
    assert progress.read(tmp_path).state == "interrupted"
    (tmp_path / "card.json").write_text("{}")
    assert progress.read(tmp_path).state == "completed"


def test_two_processes_never_run_one_study_and_a_killed_one_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.3)
    hold = (
        "import sys, pathlib, time; from server.study import progress\n"
        "with progress.watched(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(300)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        try:
            assert holder.stdout.readline() == "held\n"
            assert progress.read(tmp_path).state == "running"
            with pytest.raises(OutputInUse, match="another process"), progress.watched(tmp_path):
                pass
        finally:
            holder.kill()
            holder.wait()
    monkeypatch.setattr(progress, "_PATIENCE_S", 30)
    with progress.watched(tmp_path):
        assert progress.read(tmp_path).state == "running"
