"""What an import refuses or leaves out: labels, colour and forms that it cannot read, each by type and with a cure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.errors import OutputInUse, SourceError
from deploy.data.importers import import_source
from tests.deploy.test_importers import make_npz, make_zip, picture, scans


@pytest.mark.parametrize("label", ["gut/normal", "-x", "a" * 33, "a\x1b[31m"])
def test_a_label_that_no_plan_could_name_is_refused_before_anything_is_written(tmp_path: Path, label: str) -> None:
    source = tmp_path / "set.npz"
    images = np.zeros((2, 28, 28), np.uint8)
    np.savez(source, train_images=images, train_labels=np.array([0, 1]))
    with pytest.raises(SourceError, match="a label must be at most 32 letters"):
        import_source(source, tmp_path / "out", sites=1, label_names=("normal", label))
    assert not (tmp_path / "out").exists()


def test_a_folders_accents_are_written_as_a_plan_names_them(tmp_path: Path) -> None:
    for name in ("normal", "o\u0308dem"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32), len(name), np.uint8)).save(tmp_path / "in" / name / "a.png")
    summary = import_source(tmp_path / "in", tmp_path / "out", sites=1)
    assert set(summary.sites[0].labels) == {"normal", "\u00f6dem"}


def test_an_output_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputInUse):
        import_source(make_npz(tmp_path / "x.npz"), tmp_path / "out", sites=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def colour_images() -> NDArray[np.uint8]:
    colour = np.zeros((12, 28, 28, 3), dtype=np.uint8)
    colour[..., 0] = 200
    return colour


def test_three_channels_that_say_the_same_are_grey_in_arrays_and_pictures(tmp_path: Path) -> None:
    grey = np.stack([picture(number, size=(28, 28)) for number in range(12)])
    make_npz(tmp_path / "x.npz", train_images=np.repeat(grey[..., None], 3, axis=-1))
    import_source(tmp_path / "x.npz", tmp_path / "arrays", sites=1)
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.fromarray(grey[0]).convert("RGB").save(tmp_path / "in" / "a" / "0.png")
    import_source(tmp_path / "in", tmp_path / "pictures", sites=1)
    np.testing.assert_array_equal(scans(tmp_path / "pictures")[0].pixel_array, grey[0])
    assert len(scans(tmp_path / "arrays")) == 12


def test_colour_is_refused_in_the_same_words_in_arrays_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.fromarray(colour_images()[0]).save(tmp_path / "in" / "a" / "0.png")
    said = set()
    for source in (make_npz(tmp_path / "x.npz", train_images=colour_images()), tmp_path / "in"):
        with pytest.raises(SourceError, match="colour") as caught:
            import_source(source, tmp_path / "out", sites=1)
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_limit_is_shared_by_the_classes_of_a_sorted_source(tmp_path: Path) -> None:
    make_npz(tmp_path / "x.npz", train_labels=np.arange(12).reshape(-1, 1) // 8)
    import_source(tmp_path / "x.npz", tmp_path / "out", sites=1, limit=6)
    lines = next((tmp_path / "out").rglob("labels.csv")).read_text().splitlines()[1:]
    assert sorted(line.rsplit(",", 1)[1] for line in lines) == ["0"] * 3 + ["1"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("valid",)}, "no part 'valid'; it has test, train"),
        ({"label_names": ("one",)}, "labels up to 1, but 1 names"),
        ({"sites": 13}, "13 sites were asked for, but the source has 12 patients"),
        ({"split": "fair"}, "known are iid"),
        ({"patient_column": "patient"}, "no table"),
        ({"modality": "OPT"}, "CR, DX, CT, MR, MG, US, OP, XC, SM, PT, NM are written as scans"),
        ({"modality": "xray"}, "modality must be a DICOM code"),
        ({"body_part": "chest/lung"}, "body_part must be a DICOM code"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    source = make_npz(tmp_path / "x.npz")
    with pytest.raises(SourceError, match=message):
        import_source(source, tmp_path / "out", **{"sites": 2, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": colour_images()}, "colour"),
        ({"train_images": np.zeros((12, 28, 28))}, "grey uint8"),
        ({"train_labels": np.zeros((12, 14), dtype=np.uint8)}, "168 labels for 12 images"),
        ({"train_labels": np.array([None] * 12, dtype=object)}, "npz of plain arrays"),
    ],
)
def test_arrays_of_another_kind_are_refused_and_never_unpickled(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        import_source(make_npz(tmp_path / "x.npz", **arrays), tmp_path / "out", sites=1)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("absent.zip", None, "is not there. Accepted: a MedMNIST"),
        ("x.npz", b"no zip", "neither a folder nor a zip-like file"),
        ("x.tar", b"no zip", "neither a folder nor a zip-like file"),
    ],
)
def test_an_unknown_form_is_refused_with_what_is_accepted(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        import_source(tmp_path / name, tmp_path / "out", sites=1)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "holds 0 files"),
        ({"a.txt": b"text", "LICENSE": b"text"}, r"holds 2 files \(.txt, no suffix\).*Accepted: a MedMNIST"),
        ({"a.dcm": b"text"}, "none is an image that can be imported"),
        ({"a.png": b"text"}, "no class folder"),
        ({"../a/b.png": b"text"}, "leaves its folder"),
    ],
)
def test_a_zip_without_anything_to_import_is_refused_with_what_was_found(
    tmp_path: Path, entries: dict[str, bytes], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        import_source(make_zip(tmp_path / "x.zip", entries), tmp_path / "out", sites=1)
