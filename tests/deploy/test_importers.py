"""An import gives hospitals whose patients do not overlap, reads every promised form, and writes whole or nothing."""

import csv
import gzip
import hashlib
import io
import logging
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.dicom.iods import derive_uid
from common.errors import SourceError
from deploy.data.dicom_scans import write_scan
from deploy.data.importers import ImportSummary, import_source

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets of shared/data are not here")


def picture(level: int, *, size: tuple[int, int] = (20, 24), dtype: Any = np.uint8) -> NDArray[Any]:
    ramp = np.arange(size[0] * size[1]).reshape(size) % 50
    return (ramp + level).astype(dtype)


def encoded(pixels: NDArray[Any], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def make_npz(path: Path, *, count: int = 12, **changes: Any) -> Path:
    arrays = {
        "train_images": np.stack([picture(number, size=(28, 28)) for number in range(count)]),
        "train_labels": np.arange(count).reshape(-1, 1) % 2,
        "test_images": np.stack([picture(200, size=(28, 28))] * 2),
        "test_labels": np.array([0, 1]),
    }
    np.savez(path, **{**arrays, **changes})
    return path


def make_table(folder: Path) -> tuple[Path, Path]:
    """Write a .zip of 12 pictures and a table: patient p0 has six, p1 three with two labels, p2 to p4 one each."""
    owners = ["p0"] * 6 + ["p1"] * 3 + ["p2", "p3", "p4"]
    views = ["ap"] * 6 + ["ap", "ap", "pa"] + ["pa", "ap", ""]
    rows = [f"{owner},i{number:02},{view}" for number, (owner, view) in enumerate(zip(owners, views, strict=True))]
    (folder / "table.csv").write_text("\n".join(["patient,image,view", *rows]))
    pictures = {f"i{number:02}.png": encoded(picture(number)) for number in range(12)}
    return make_zip(folder / "pictures.zip", pictures), folder / "table.csv"


def scans(site: Path) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(path) for path in sorted(site.rglob("*.dcm"))]


def patients(site: Path) -> set[str]:
    return {str(scan.PatientID) for scan in scans(site)}


def label_lines(site: Path) -> list[tuple[str, str, str]]:
    with (site / "labels.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["patient_id", "sop_instance_uid", "label"]
    return [(patient, uid, label) for patient, uid, label in lines]


def labels_by_image(site: Path) -> dict[str, str]:
    """The label of each SOP Instance UID as labels.csv gives it."""
    lines = label_lines(site)
    whole = {patient: label for patient, uid, label in lines if not uid}
    single = {uid: label for _, uid, label in lines if uid}
    return {
        str(scan.SOPInstanceUID): single.get(scan.SOPInstanceUID, whole.get(str(scan.PatientID), ""))
        for scan in scans(site)
    }


def digest(folder: Path) -> str:
    hasher = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        hasher.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def test_a_medmnist_file_becomes_sites_of_one_image_patients(tmp_path: Path) -> None:
    source = make_npz(tmp_path / "x.npz")
    summary = import_source(
        source,
        tmp_path / "out",
        sites=3,
        modality="US",
        body_part="BREAST",
        parts=("train", "test"),
        label_names=("malignant", "benign"),
    )
    sites = [tmp_path / "out" / site.name for site in summary.sites]
    assert [site.name for site in sites] == ["site-1", "site-2", "site-3"]
    assert (summary.patients, summary.images, summary.skipped) == (14, 14, 0)
    assert sum((Counter(site.labels) for site in summary.sites), Counter()) == {"malignant": 7, "benign": 7}
    found = [scan for site in sites for scan in scans(site)]
    assert {(scan.Modality, scan.BodyPartExamined) for scan in found} == {("US", "BREAST")}
    by_id = {str(scan.PatientID): scan for scan in found}
    np.testing.assert_array_equal(by_id["train-000003"].pixel_array, picture(3, size=(28, 28)))
    labels = {patient: label for site in sites for patient, _, label in label_lines(site)}
    assert labels["train-000003"] == "benign"
    assert labels["test-000000"] == "malignant"


def test_parts_and_names_have_defaults(tmp_path: Path) -> None:
    summary = import_source(make_npz(tmp_path / "x.npz"), tmp_path / "out", sites=1)
    assert summary.to_dict() == {
        "patients": 12,
        "images": 12,
        "skipped": 0,
        "twins": 0,
        "sites": [{"name": "site-1", "patients": 12, "images": 12, "labels": {"0": 6, "1": 6}}],
    }


@pytest.mark.parametrize("zipped", [False, True])
def test_class_folders_give_labels_and_limit_counts_each_class(tmp_path: Path, zipped: bool) -> None:
    entries = {
        **{f"Hand/{number}.jpeg": encoded(picture(number), "JPEG") for number in range(5)},
        **{f"CXR/{number}.png": encoded(picture(number)) for number in range(5)},
        "README.md": b"not an image",
    }
    source = make_zip(tmp_path / "mednist.zip", entries)
    if not zipped:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(tmp_path / "mednist")
        source = tmp_path / "mednist"
    summary = import_source(source, tmp_path / "out", sites=2, limit=3)
    assert sum((Counter(site.labels) for site in summary.sites), Counter()) == {"Hand": 3, "CXR": 3}
    assert patients(tmp_path / "out" / "site-1") | patients(tmp_path / "out" / "site-2") == {
        f"{kind}/{number}.{suffix}" for kind, suffix in (("Hand", "jpeg"), ("CXR", "png")) for number in range(3)
    }


@pytest.mark.parametrize("split", ["iid", "by-patient", "dirichlet:0.3"])
def test_a_patient_is_never_at_two_sites(tmp_path: Path, split: str) -> None:
    source, table = make_table(tmp_path)
    summary = import_source(
        source, tmp_path / "out", sites=3, split=split, csv=table, patient_column="patient", label_column="view"
    )
    groups = [patients(tmp_path / "out" / site.name) for site in summary.sites]
    assert sum(map(len, groups)) == len(set.union(*groups)) == summary.patients == 5
    assert summary.images == 12
    assert all(groups)


def test_a_table_gives_patients_and_labels_line_by_line_only_where_a_patient_has_two(tmp_path: Path) -> None:
    source, table = make_table(tmp_path)
    import_source(source, tmp_path / "out", sites=1, csv=table, patient_column="patient", label_column="view")
    site = tmp_path / "out" / "site-1"
    lines = label_lines(site)
    assert [line for line in lines if not line[1]] == [("p0", "", "ap"), ("p2", "", "pa"), ("p3", "", "ap")]
    assert [(patient, label) for patient, uid, label in lines if uid] == [("p1", "ap"), ("p1", "ap"), ("p1", "pa")]
    labels = labels_by_image(site)
    for scan in scans(site):
        number = int(scan.pixel_array[0, 0])
        expected = (["ap"] * 6 + ["ap", "ap", "pa"] + ["pa", "ap", ""])[number]
        assert labels[str(scan.SOPInstanceUID)] == expected


def test_dicom_files_are_copied_as_they_are_by_patient(tmp_path: Path) -> None:
    originals = {}
    for number in range(6):
        path = tmp_path / "archive" / f"series-{number % 2}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        uid = derive_uid(str(number))
        write_scan(path, picture(number), patient_id=f"P{number // 2}", study_uid=uid, series_uid=uid, instance_uid=uid)
        originals[uid] = path.read_bytes()
    (tmp_path / "archive" / "LICENSE").write_text("free")
    (tmp_path / "archive" / "preview.png").write_bytes(encoded(picture(0)))
    summary = import_source(tmp_path / "archive", tmp_path / "out", sites=3)
    assert [(site.patients, site.images, site.labels) for site in summary.sites] == [(1, 2, {})] * 3
    copied = {path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm")}
    assert copied == set(originals.values())
    assert label_lines(tmp_path / "out" / "site-1") == []


def test_mnist_idx_files_are_read(tmp_path: Path) -> None:
    images = np.stack([picture(number, size=(28, 28)) for number in range(4)])
    magic = struct.pack(">4B3I", 0, 0, 8, 3, 4, 28, 28)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(magic + images.tobytes()))
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes([7, 2, 1, 0]))
    )
    import_source(tmp_path / "mnist", tmp_path / "out", sites=1, parts=("test",))
    site = tmp_path / "out" / "site-1"
    assert [label for _, _, label in label_lines(site)] == ["7", "2", "1", "0"]
    np.testing.assert_array_equal([scan.pixel_array for scan in scans(site)], images)
    with pytest.raises(SourceError, match="part 'train'"):
        import_source(tmp_path / "mnist", tmp_path / "again", sites=1)


def test_sixteen_bit_pictures_keep_their_depth_and_colour_becomes_grey(tmp_path: Path) -> None:
    deep = picture(5000, dtype=np.uint16)
    colour = np.repeat(picture(9)[..., None], 3, axis=2)
    make_zip(tmp_path / "x.zip", {"a/deep.png": encoded(deep), "a/colour.png": encoded(colour)})
    import_source(tmp_path / "x.zip", tmp_path / "out", sites=1)
    by_bits = {scan.BitsStored: scan for scan in scans(tmp_path / "out")}
    np.testing.assert_array_equal(by_bits[16].pixel_array, deep)
    np.testing.assert_array_equal(by_bits[8].pixel_array, picture(9))
    assert (by_bits[16].WindowCenter, by_bits[16].WindowWidth) == (32768, 65536)


def test_written_scans_read_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for modality in ("CR", "CT", "MR", "US", "DX"):
        import_source(make_npz(tmp_path / "x.npz"), tmp_path / modality, sites=1, modality=modality, limit=2)
        for scan in scans(tmp_path / modality):
            str(scan)
            assert scan.pixel_array.shape == (28, 28)


def test_two_imports_are_the_same_byte_for_byte_and_the_seed_deals_anew(tmp_path: Path) -> None:
    source = make_npz(tmp_path / "x.npz")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        import_source(source, tmp_path / name, sites=2, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_a_picture_under_two_ids_is_written_once_at_a_site_and_counted(tmp_path: Path) -> None:
    """A hospital's ingest would count it for each id, as no patient's files may remove another's."""
    pictures = np.stack([picture(level, size=(28, 28)) for level in (1, 2, 1, 1)])
    make_npz(tmp_path / "x.npz", train_images=pictures, train_labels=np.zeros(4, dtype=int))
    summary = import_source(tmp_path / "x.npz", tmp_path / "out", sites=1)
    assert (summary.images, summary.patients, summary.twins, summary.skipped) == (2, 2, 2, 0)
    assert len(list((tmp_path / "out" / "site-1").glob("*.dcm"))) == 2


def test_a_picture_that_cannot_be_decoded_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = encoded(picture(1))
    entries = {"a/good.png": good, "a/half.png": good[: len(good) // 2], "a/text.jpeg": b"text", "a/empty.bmp": b""}
    make_zip(tmp_path / "x.zip", entries)
    with caplog.at_level(logging.WARNING):
        summary = import_source(tmp_path / "x.zip", tmp_path / "out", sites=1)
    assert (summary.images, summary.patients, summary.skipped) == (1, 1, 3)
    assert label_lines(tmp_path / "out" / "site-1") == [("a/good.png", "", "a")]
    assert "half" not in caplog.text


def test_a_site_left_without_an_image_fails_the_import(tmp_path: Path) -> None:
    make_zip(tmp_path / "x.zip", {"a/good.png": encoded(picture(1)), "a/text.png": b"text"})
    with pytest.raises(SourceError, match="no image that can be decoded"):
        import_source(tmp_path / "x.zip", tmp_path / "out", sites=2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_patient_ids_that_dicom_cannot_hold_are_hashed_and_stay_distinct(tmp_path: Path) -> None:
    names = ["p" * 80, "p" * 81, "a\\b", "1.23", "1.24"]
    rows = "".join(f"{name},i{number}\n" for number, name in enumerate(names))
    (tmp_path / "t.csv").write_text("patient,image\n" + rows)
    make_zip(tmp_path / "x.zip", {f"i{number}.png": encoded(picture(number)) for number in range(5)})
    summary = import_source(
        tmp_path / "x.zip", tmp_path / "out", sites=1, csv=tmp_path / "t.csv", patient_column="patient"
    )
    assert summary.patients == len(patients(tmp_path / "out")) == 5
    assert {"1.23", "1.24"} <= patients(tmp_path / "out")


def test_progress_counts_images_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    import_source(
        make_npz(tmp_path / "x.npz"),
        tmp_path / "out",
        sites=2,
        limit=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def run(tmp_path: Path, source: str, **options: Any) -> ImportSummary:
    return import_source(DATA / source, tmp_path / "out", **options)


@needs_data
def test_hannover_radiographs_split_by_patient_and_balance_images(tmp_path: Path) -> None:
    summary = run(
        tmp_path,
        "cxr_hannover/png_256.zip",
        sites=3,
        split="by-patient",
        csv=DATA / "cxr_hannover" / "data.csv",
        patient_column="patient_id",
        label_column="projection",
    )
    assert (summary.patients, [site.images for site in summary.sites]) == (71, [81, 81, 81])
    assert sum((Counter(site.labels) for site in summary.sites), Counter()) == {"ap": 194, "pa": 49}


@needs_data
def test_the_real_forms_of_the_other_sets_are_read(tmp_path: Path) -> None:
    breast = import_source(DATA / "medmnist28" / "breastmnist.npz", tmp_path / "b", sites=2, parts=("val",))
    assert (breast.images, breast.patients) == (78, 78)
    mednist = import_source(DATA / "mednist64", tmp_path / "m", sites=2, limit=5)
    assert sum((Counter(site.labels) for site in mednist.sites), Counter()) == {"AbdomenCT": 5, "CXR": 5, "Hand": 5}
    lungs = import_source(DATA / "dicom_lungct", tmp_path / "l", sites=2)
    assert sorted((site.patients, site.images) for site in lungs.sites) == [(1, 30), (1, 64)]
    digits = import_source(DATA / "mnist", tmp_path / "d", sites=2, parts=("test",), limit=20)
    assert digits.images == 20
