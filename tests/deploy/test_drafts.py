"""An output folder is there whole or not at all, and never on top of something else."""

from pathlib import Path

import pytest

from common.errors import OutputInUse
from deploy.release.drafts import whole_folder


@pytest.mark.parametrize("exists", [False, True])
def test_a_block_that_ends_well_leaves_the_folder_and_nothing_beside_it(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with whole_folder(out) as draft:
        (draft / "a.txt").write_text("a")
        assert not (out / "a.txt").exists()
    assert (out / "a.txt").read_text() == "a"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half_way() -> None:
        with whole_folder(tmp_path / "out") as draft:
            (draft / "a.txt").write_text("a")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_an_output_in_use_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputInUse, match="holds something"), whole_folder(out):
        pytest.fail("the block ran")
    assert sorted(tmp_path.rglob("*")) == before
