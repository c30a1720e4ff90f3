"""The demo hospitals are unlike each other on disk, alike once read, and the same every time."""

import csv
import hashlib
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.pixels import apply_rescale, apply_voi_lut

from client.admission.ingest import ingest
from client.admission.settings import IngestSettings
from common.errors import OutputInUse
from common.images.phantoms import public_phantoms
from deploy.data.demo_data import HOSPITALS, Hospital, write_demo_hospitals

PATIENTS = (40, 30, 20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "hospitals"
    write_demo_hospitals(out, patients=PATIENTS)
    return out


def scans(folder: Path) -> list[pydicom.FileDataset]:
    """Read the good files of one hospital strictly, warnings being errors."""
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*/study-*/*.dcm"))]


def shown(scan: pydicom.FileDataset) -> NDArray[np.float64]:
    """Grey levels in [-1, 1] as pydicom's own pipeline shows them."""
    values = apply_voi_lut(apply_rescale(scan.pixel_array, scan), scan).astype(np.float64)
    if scan.Modality == "CR":  # pydicom spreads the window over the range of the rescaled values
        low = float(scan.get("RescaleIntercept", 0))
        high = low + float(scan.get("RescaleSlope", 1)) * ((1 << scan.BitsStored) - 1)
    else:
        low, high = 0.0, 255.0
    unit = (values - low) / (high - low) * 2 - 1
    return -unit if scan.PhotometricInterpretation == "MONOCHROME1" else unit


def labels_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> str:
    hasher = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        hasher.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def test_every_hospital_has_its_patients_with_one_to_four_images_each(demo: Path) -> None:
    assert sorted(path.name for path in demo.iterdir()) == ["hill", "north", "river"]
    for hospital, count in zip(HOSPITALS, PATIENTS, strict=True):
        images = Counter(str(scan.PatientID) for scan in scans(demo / hospital.name))
        assert len(images) == count
        assert set(images.values()) <= {1, 2, 3, 4}
        assert 1.1 < np.mean(list(images.values())) < 2.3


def test_every_scan_reads_strictly_and_as_its_hospital_writes(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    syntaxes = set()
    for hospital in HOSPITALS:
        for scan in scans(demo / hospital.name):
            str(scan)
            syntaxes.add(str(scan.file_meta.TransferSyntaxUID))
            assert (scan.Rows, scan.Columns) == scan.pixel_array.shape == (hospital.rows, hospital.columns)
            assert (scan.BitsStored, scan.Modality) == (hospital.bits_stored, hospital.modality)
            assert scan.PhotometricInterpretation == hospital.photometric
            assert scan.PatientSex in ("F", "M")
    assert len(syntaxes) == 3


def test_all_uids_are_distinct(demo: Path) -> None:
    every = [scan for hospital in HOSPITALS for scan in scans(demo / hospital.name)]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        assert len({getattr(scan, keyword) for scan in every}) == len(every)


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.name)
def test_the_tags_undo_what_the_archive_did_to_the_grey_levels(demo: Path, hospital: Hospital) -> None:
    mean = np.mean([shown(scan) for scan in scans(demo / hospital.name)], axis=0)
    rows, columns = mean.shape
    phantoms = public_phantoms(60, size=rows)[0][:, 0].numpy().mean(0)
    crop = (rows - columns) // 2
    assert np.abs(mean - phantoms[:, crop : crop + columns]).mean() < 0.06


def test_labels_name_every_patient_once_or_every_image_once_and_nobody_else(demo: Path) -> None:
    for hospital in HOSPITALS:
        lines = labels_of(demo / hospital.name)
        found = scans(demo / hospital.name)
        assert {line["patient_id"] for line in lines} == {str(scan.PatientID) for scan in found}
        assert {line["label"] for line in lines} <= {"normal", "lesion"}
        if hospital.label_lines == "image":
            assert sorted(line["sop_instance_uid"] for line in lines) == sorted(scan.SOPInstanceUID for scan in found)
        else:
            assert {line["sop_instance_uid"] for line in lines} == {""}
            assert len(lines) == len({line["patient_id"] for line in lines})


def test_the_case_mix_differs_between_hospitals(tmp_path: Path) -> None:
    folders = write_demo_hospitals(tmp_path / "out", patients=(60, 60, 60))
    shares = []
    for folder in folders:
        by_patient = {line["patient_id"]: line["label"] for line in labels_of(folder)}
        shares.append(sum(label == "lesion" for label in by_patient.values()) / 60)
    assert shares[0] < shares[1] - 0.05
    assert shares[0] < shares[2] - 0.15


def test_same_seed_same_bytes_and_another_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo_hospitals(tmp_path / name, patients=(2, 2, 2), seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_progress_counts_patients_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folders = write_demo_hospitals(
        tmp_path / "out", patients=(2, 1, 1), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [folder.is_dir() for folder in folders] == [True] * 3


def test_an_output_in_use_is_refused_before_anything_is_written(demo: Path) -> None:
    before = digest(demo)
    with pytest.raises(OutputInUse):
        write_demo_hospitals(demo, patients=(1, 1, 1))
    assert digest(demo) == before


def test_a_hospital_without_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        write_demo_hospitals(tmp_path / "out", patients=(1, 0, 1))


@pytest.mark.parametrize("hospital", [hospital.name for hospital in HOSPITALS])
def test_the_bad_files_are_bad_in_the_way_they_claim(demo: Path, hospital: str) -> None:
    folder = demo / hospital / "unsorted"
    assert (folder / "empty.dcm").stat().st_size == 0
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(folder / "readme.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truncated = pydicom.dcmread(folder / "truncated.dcm")
    assert "PixelData" not in truncated or len(truncated.PixelData) < truncated.Rows * truncated.Columns
    report = pydicom.dcmread(folder / "report.dcm")
    assert report.Modality == "SR"
    assert "PixelData" not in report
    assert "PixelData" not in pydicom.dcmread(folder / "no-pixels.dcm")
    assert len(np.unique(pydicom.dcmread(folder / "constant.dcm").pixel_array)) == 1
    screenshot = pydicom.dcmread(folder / "screenshot.dcm")
    assert screenshot.SOPClassUID.name == "Secondary Capture Image Storage"
    assert screenshot.BurnedInAnnotation == pydicom.dcmread(folder / "burned-in.dcm").BurnedInAnnotation == "YES"
    absurd = pydicom.dcmread(folder / "absurd-rows.dcm")
    assert absurd.Rows * absurd.Columns > 100 * len(absurd.PixelData)


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.name)
def test_the_hospitals_own_reader_admits_every_good_file_and_gives_each_bad_one_its_reason(
    demo: Path, tmp_path: Path, hospital: Hospital
) -> None:
    settings = IngestSettings(image_size=32, modality=("CR", "DX"), labels=("normal", "lesion"))
    summary = ingest(demo / hospital.name, tmp_path, settings, workers=1)
    assert summary.admitted == len(scans(demo / hospital.name))
    assert {name.removeprefix("unsorted/"): reason for name, reason in summary.refusals} == {
        "truncated.dcm": "truncated",
        "readme.dcm": "not_dicom",
        "report.dcm": "unsupported_object",
        "no-pixels.dcm": "no_pixels",
        "empty.dcm": "not_dicom",
        "constant.dcm": "constant_image",
        "screenshot.dcm": "secondary_capture",
        "burned-in.dcm": "burned_in",
        "absurd-rows.dcm": "truncated",
    }
