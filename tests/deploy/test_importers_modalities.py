"""Import by modality, limit and colour: what is written is what our own ingest admits, pixel for pixel."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.dicom.iods import OWN_CLASSES, SCAN_CLASSES
from common.errors import SourceError
from deploy.data.importers import import_source
from tests.client.scans import picture
from tests.deploy.test_importers import encoded, make_npz, make_zip, scans

SIDE = 40
REGIONS = {"OP": "EYE", "MG": "BREAST", "SM": "", "XC": "HAND"}


def folder_of(root: Path, pixels: list[NDArray[Any]]) -> Path:
    (root / "in" / "x").mkdir(parents=True)
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(root / "in" / "x" / f"{number}.png")
    return root / "in"


@pytest.mark.parametrize("modality", SCAN_CLASSES)
@pytest.mark.parametrize("bits", [8, 16])
def test_imported_scans_of_every_modality_are_admitted_as_the_picture_they_were(
    tmp_path: Path, modality: str, bits: int
) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = [picture(number, rows=SIDE, columns=SIDE, bits=bits).astype(kind) for number in range(3)]
    import_source(folder_of(tmp_path, pixels), tmp_path / "out", sites=1, modality=modality,
                  body_part=REGIONS.get(modality, "CHEST"))  # fmt: skip
    settings = IngestSettings(image_size=SIDE, modality=(modality,), labels=("x",))
    summary = ingest(tmp_path / "out" / "site-1", tmp_path / "home", settings, workers=1)
    assert (summary.admitted, summary.refused, summary.quarantined) == (3, 0, 0)
    cache = Cache.open(tmp_path / "home")
    found = sorted((np.asarray(cache.patient(number)[0][0, 0]) for number in range(3)), key=lambda image: image.sum())
    top = (1 << bits) - 1
    expected = sorted((values.astype(np.float64) * 2 / top - 1 for values in pixels), key=lambda image: image.sum())
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=1e-3)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy (Debian's dicom3tools) on this machine")
@pytest.mark.parametrize("modality", SCAN_CLASSES)
def test_imported_scans_break_no_rule_of_their_class(tmp_path: Path, modality: str) -> None:
    pixels = picture(1, rows=SIDE, columns=SIDE, bits=8).astype(np.uint8)
    import_source(folder_of(tmp_path, [pixels]), tmp_path / "out", sites=1, modality=modality,
                  body_part=REGIONS.get(modality, "CHEST"))  # fmt: skip
    (file,) = (tmp_path / "out").rglob("*.dcm")
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert any(re.fullmatch(r"\w*Image\w*", line) for line in said), "dciodvfy did not name the IOD"
    assert [line for line in said if line.startswith("Error")] == []


def test_modalities_without_a_class_of_their_own_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="modality ECG was asked for, but only CR, DX, CT, MR, MG, US, OP, XC, SM"):
        import_source(make_npz(tmp_path / "x.npz"), tmp_path / "out", sites=1, modality="ECG")
    assert set(OWN_CLASSES) < set(SCAN_CLASSES)


def table_of(root: Path, labels: list[str]) -> tuple[Path, Path]:
    """One picture a patient, sorted by class as public tables are."""
    rows = [f"p{number:02},i{number:02}.png,{label}" for number, label in enumerate(labels)]
    (root / "table.csv").write_text("\n".join(["patient,image,view", *rows]))
    pictures = {f"i{number:02}.png": encoded(picture(number, rows=32, columns=32, bits=8).astype(np.uint8))
                for number in range(len(labels))}  # fmt: skip
    return make_zip(root / "pictures.zip", pictures), root / "table.csv"


@pytest.mark.parametrize(
    ("labels", "limit", "expected"),
    [
        (["a"] * 9 + ["b"] * 3, 6, {"a": 3, "b": 3}),
        (["a"] * 9 + ["b"] * 2, 6, {"a": 4, "b": 2}),
        (["a"] * 4 + ["b"] * 4 + ["c"] * 4, 7, {"a": 3, "b": 2, "c": 2}),
        (["a"] * 8 + [""] * 4, 4, {"a": 2}),
        (["a"] * 3 + ["b"] * 3, 60, {"a": 3, "b": 3}),
    ],
)
def test_a_limit_with_a_table_takes_as_many_of_each_class(
    tmp_path: Path, labels: list[str], limit: int, expected: dict[str, int]
) -> None:
    source, table = table_of(tmp_path, labels)
    summary = import_source(source, tmp_path / "out", sites=1, limit=limit, csv=table, patient_column="patient",
                            label_column="view")  # fmt: skip
    assert summary.sites[0].labels == expected
    assert summary.images == min(limit, len(labels))
    assert len(scans(tmp_path / "out")) == summary.images


def colours() -> NDArray[np.uint8]:
    return np.stack([picture(number, rows=32, columns=32, bits=8).astype(np.uint8) for number in range(3)], axis=-1)


@pytest.mark.parametrize("form", ["RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_colour_is_refused_in_whichever_form_a_picture_holds_it(tmp_path: Path, form: str, suffix: str) -> None:
    if (form, suffix) in {("CMYK", "png"), ("RGBA", "jpg"), ("P", "jpg")}:
        pytest.skip("the file format has no such form")
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.fromarray(colours()).convert(form).save(tmp_path / "in" / "a" / f"0.{suffix}")
    with pytest.raises(SourceError, match="the source holds pictures in colour"):
        import_source(tmp_path / "in", tmp_path / "out", sites=1)
    assert not (tmp_path / "out").exists()


def test_colour_of_four_channels_in_arrays_is_refused_in_the_same_words(tmp_path: Path) -> None:
    alpha = np.concatenate([np.stack([colours()] * 12), np.full((12, 32, 32, 1), 255, np.uint8)], axis=-1)
    with pytest.raises(SourceError, match="the source holds pictures in colour"):
        import_source(make_npz(tmp_path / "x.npz", train_images=alpha), tmp_path / "out", sites=1)


def test_arrays_of_one_channel_are_grey(tmp_path: Path) -> None:
    grey = np.stack([picture(number, rows=28, columns=28, bits=8).astype(np.uint8) for number in range(12)])
    import_source(make_npz(tmp_path / "x.npz", train_images=grey[..., None]), tmp_path / "out", sites=1)
    np.testing.assert_array_equal(scans(tmp_path / "out")[0].pixel_array, grey[0])


@pytest.mark.parametrize("values", [np.float32(0.5), np.int32(70_000), np.int32(-1)])
def test_pictures_whose_values_would_be_cut_are_left_out_and_counted(tmp_path: Path, values: Any) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    good = picture(1, rows=32, columns=32, bits=8).astype(np.uint8)
    Image.fromarray(good).save(tmp_path / "in" / "a" / "0.png")
    Image.fromarray(np.full((32, 32), values)).save(tmp_path / "in" / "a" / "1.tif")
    summary = import_source(tmp_path / "in", tmp_path / "out", sites=1)
    assert (summary.images, summary.skipped) == (1, 1)
