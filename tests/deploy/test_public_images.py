"""Public pictures become one file that a coordinator takes as warm data, the same bytes for the same pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from common.errors import SourceError
from common.plan.study_plan import StudyPlan
from deploy.cli import main
from deploy.data.public_images import write_public_images
from server.model import warm_data

PLAN = """
name = "warmed"
[data]
image_size = 32
labels = ["a", "b"]
[model]
covariance = "class"
channels = []
denoiser = [4, 8]
[warm]
studies = 8
source = "{source}"
[privacy]
phases = ["warm", "moments"]
"""


def pictures(folder: Path, *, count: int, kinds: tuple[str, ...], seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            content = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (40, 30), np.uint8)).save(content, "PNG")
            (folder / kind / f"{number:03}.png").write_bytes(content.getvalue())
    return folder


def test_a_coordinator_takes_what_was_packed_by_the_digest_that_was_printed(tmp_path: Path) -> None:
    sources = [pictures(tmp_path / "one", count=20, kinds=("chest", "hand")), pictures(tmp_path / "two", count=30,
               kinds=("skull",), seed=1)]  # fmt: skip
    out = tmp_path / "public.npz"
    result = CliRunner().invoke(
        main, ["public-images", *map(str, sources), "--to", str(out), "--size", "32", "--json"], catch_exceptions=False
    )
    said = json.loads(result.output)
    assert said["kinds"] == {"one: chest": 20, "one: hand": 20, "two: skull": 30}
    plan = StudyPlan.parse(PLAN.format(source=said["source"]))
    warm_data.keep(plan, out, tmp_path / "study")
    images, labels = warm_data.load(plan, tmp_path / "study")
    assert images.shape == (70, 1, 32, 32)
    assert np.bincount(labels.numpy()).tolist() == [20, 20, 30]


def test_the_same_pictures_give_the_same_file(tmp_path: Path) -> None:
    source = pictures(tmp_path / "one", count=70, kinds=("chest",))
    one = write_public_images([source], tmp_path / "a.npz", size=24)
    two = write_public_images([source], tmp_path / "b.npz", size=24)
    assert one.digest == two.digest
    assert one.digest != write_public_images([source], tmp_path / "c.npz", size=28).digest


def test_a_broken_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    source = pictures(tmp_path / "one", count=70, kinds=("chest",))
    (source / "chest" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    written = write_public_images([source], tmp_path / "a.npz", size=24)
    assert (written.broken, written.kinds) == (1, {"one: chest": 69})


def test_too_few_pictures_and_a_file_that_is_there_are_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "one", count=20, kinds=("chest",))
    with pytest.raises(SourceError, match="64 are needed"):
        write_public_images([source], tmp_path / "a.npz", size=24)
    assert not (tmp_path / "a.npz").exists()
    (tmp_path / "a.npz").write_bytes(b"mine")
    with pytest.raises(SourceError, match="there already"):
        write_public_images([source], tmp_path / "a.npz", size=24)
    assert (tmp_path / "a.npz").read_bytes() == b"mine"
