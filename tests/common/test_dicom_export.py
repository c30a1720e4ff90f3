"""A synthetic image says what it is, says where it comes from, and can hold nothing of a patient."""

import dataclasses
import gc
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.fileset import FileSet
from pydicom.uid import ImplicitVRLittleEndian

from common.dicom.export import Provenance, synthetic_bytes
from tests.common.synthetic_files import read_provenance, write_synthetic

PROVENANCE = Provenance(
    study="chest-2026",
    plan_digest="a" * 64,
    decoder_digest="b" * 64,
    epsilon=7.91,
    delta=1e-5,
    seed=2**80 + 1,
)
SOP_CLASS = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "XC": "1.2.840.10008.5.1.4.1.1.7",
}


@pytest.fixture(autouse=True)
def strict_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pydicom refuse, while reading, whatever breaks the standard's value rules."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)


def grey(dtype: Any = np.uint8, shape: tuple[int, int] = (33, 31)) -> NDArray[Any]:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, endpoint=True).astype(dtype)


def write(path: Path, **changes: Any) -> bytes:
    given: dict[str, Any] = {
        "pixels": grey(),
        "modality": "CR",
        "body_part": "CHEST",
        "label": "lesion",
        "index": 3,
        "provenance": PROVENANCE,
    }
    given.update(changes)
    write_synthetic(path, given.pop("pixels"), **given)
    return path.read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("modality", sorted(SOP_CLASS))
def test_every_modality_reads_back_strictly_with_its_own_sop_class(tmp_path: Path, modality: str, dtype: Any) -> None:
    write(tmp_path / "x.dcm", modality=modality, pixels=grey(dtype))
    image = pydicom.dcmread(tmp_path / "x.dcm")
    str(image)
    assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID == SOP_CLASS[modality]
    assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
    assert image.Modality == modality
    assert image.BodyPartExamined == "CHEST"
    np.testing.assert_array_equal(image.pixel_array, grey(dtype))
    assert (image.WindowCenter, image.WindowWidth) == ((128, 256) if dtype == np.uint8 else (32768, 65536))


@pytest.mark.parametrize("modality", sorted(SOP_CLASS))
def test_an_image_is_marked_synthetic_wherever_a_reader_looks(tmp_path: Path, modality: str) -> None:
    write(tmp_path / "x.dcm", modality=modality)
    image = pydicom.dcmread(tmp_path / "x.dcm")
    assert image.SyntheticData == "YES"
    assert list(image.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert str(image.PatientName) == "SYNTHETIC^WARDROUND"
    assert re.fullmatch(r"SYNTHETIC-[0-9a-f]{12}-3", image.PatientID)
    assert image.PatientID.split("-")[1] == image.StudyID
    assert image.PatientIdentityRemoved == "YES"
    assert "No patient" in image.DeidentificationMethod
    assert image.BurnedInAnnotation == "NO"
    assert "SYNTHETIC IMAGE, NOT A PATIENT" in image.ImageComments
    assert "epsilon 7.91" in image.ImageComments
    assert image.SeriesDescription == "Synthetic lesion"
    assert image.Manufacturer == "wardround"
    assert image.ContributingEquipmentSequence[0].Manufacturer == "wardround"
    (purpose,) = image.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodeMeaning) == ("109100", "Synthesizing Equipment")
    uids = [image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID]
    assert len(set(uids)) == 3
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_old_validators_get_a_file_without_the_attribute_they_do_not_know(tmp_path: Path) -> None:
    write(tmp_path / "x.dcm", edition="2022")
    assert "SyntheticData" not in pydicom.dcmread(tmp_path / "x.dcm")


def test_provenance_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "x.dcm")
    assert read_provenance(tmp_path / "x.dcm") == PROVENANCE


@pytest.mark.parametrize("epsilon", [np.float64(0.1), 8, float("inf"), 0.0])
def test_any_honest_epsilon_survives_the_round_trip(tmp_path: Path, epsilon: float) -> None:
    provenance = dataclasses.replace(PROVENANCE, epsilon=epsilon)
    write(tmp_path / "x.dcm", provenance=provenance)
    assert read_provenance(tmp_path / "x.dcm") == provenance
    without = "WITHOUT differential privacy" in pydicom.dcmread(tmp_path / "x.dcm").ImageComments
    assert without == (epsilon == float("inf"))


def test_provenance_survives_an_archive_that_converts_to_implicit_vr(tmp_path: Path) -> None:
    write(tmp_path / "x.dcm")
    image = pydicom.dcmread(tmp_path / "x.dcm")
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    image.save_as(tmp_path / "implicit.dcm", implicit_vr=True)
    assert read_provenance(tmp_path / "implicit.dcm") == PROVENANCE


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.dcm") == write(tmp_path / "b.dcm")


@pytest.mark.parametrize(
    "change",
    [
        {"index": 4},
        {"label": "normal"},
        {"provenance": dataclasses.replace(PROVENANCE, seed=1)},
        {"provenance": dataclasses.replace(PROVENANCE, decoder_digest="c" * 64)},
        {"provenance": dataclasses.replace(PROVENANCE, study="another")},
        {"pixels": grey(np.uint8)[::-1]},
    ],
    ids=["index", "label", "seed", "decoder", "study", "pixels"],
)
def test_another_draw_has_another_identity(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", **change)
    first, second = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(tmp_path / "b.dcm")
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.StudyInstanceUID != second.StudyInstanceUID
    assert first.PatientID != second.PatientID  # an archive joins what has one


def test_a_study_never_holds_two_patients(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", index=1)
    write(tmp_path / "b.dcm", index=2)
    first, second = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(tmp_path / "b.dcm")
    assert first.PatientID != second.PatientID
    assert first.StudyInstanceUID != second.StudyInstanceUID


def test_no_date_is_one_that_a_scan_could_have(tmp_path: Path) -> None:
    write(tmp_path / "x.dcm")
    timed = [item for item in pydicom.dcmread(tmp_path / "x.dcm").iterall() if item.VR in ("DA", "TM", "DT")]
    assert timed
    assert {str(item.value) for item in timed} <= {"", "19000101", "000000"}


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
@pytest.mark.parametrize("modality", sorted(SOP_CLASS))
def test_a_dicomdir_takes_the_images(tmp_path: Path, modality: str) -> None:
    files = FileSet()
    for index in range(3):
        write(tmp_path / f"{index}.dcm", modality=modality, index=index)
        files.add(tmp_path / f"{index}.dcm")
    files.write(tmp_path / "set")
    assert len(FileSet(tmp_path / "set" / "DICOMDIR").find_values("PatientID")) == 3
    del files
    gc.collect()  # pydicom's own folder goes here, where its warning is expected


def test_no_argument_could_carry_an_attribute_of_a_real_scan() -> None:
    taken = set(inspect.signature(synthetic_bytes).parameters)
    assert taken == {"pixels", "modality", "body_part", "label", "index", "provenance", "edition", "window"}
    fields = {field.name for field in dataclasses.fields(Provenance)}
    assert fields == {"study", "plan_digest", "decoder_digest", "epsilon", "delta", "seed"}


def test_a_file_without_the_block_has_no_provenance(tmp_path: Path) -> None:
    write(tmp_path / "x.dcm")
    image = pydicom.dcmread(tmp_path / "x.dcm")
    image.remove_private_tags()
    image.save_as(tmp_path / "x.dcm")
    with pytest.raises(KeyError, match="Private creator"):
        read_provenance(tmp_path / "x.dcm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"seed": -1}, "seed"),
        ({"study": ""}, "study"),
        ({"plan_digest": "a\\b"}, "plan_digest"),
        ({"decoder_digest": "a" * 65}, "decoder_digest"),
    ],
)
def test_impossible_provenance_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PROVENANCE, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": grey(np.int16)}, "uint8 or uint16"),
        ({"pixels": grey(shape=(1, 4))[0]}, "2-D"),
        ({"index": -1}, "index"),
        ({"modality": "cr"}, "modality"),
        ({"body_part": "chest\\x"}, "body_part"),
    ],
)
def test_what_dicom_cannot_hold_is_refused_before_a_file_exists(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "x.dcm", **change)
    assert not (tmp_path / "x.dcm").exists()


@pytest.mark.parametrize("window", [(40.0, 400.0), (-600.0, 1500.0), (0.3, 7.0), (1 / 3, 1e5 / 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_ct_is_in_hounsfield_units_where_the_plan_has_a_window_in_them(
    tmp_path: Path, window: tuple[float, float], dtype: Any
) -> None:
    pixels = grey(dtype)
    write(tmp_path / "x.dcm", modality="CT", pixels=pixels, window=window)
    image = pydicom.dcmread(tmp_path / "x.dcm")
    top, (centre, width) = np.iinfo(dtype).max, window
    units = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    np.testing.assert_allclose(units, centre + (pixels / top - 0.5) * width, rtol=1e-6, atol=width * 1e-6)
    assert (image.RescaleType, image.VOILUTFunction) == ("HU", "LINEAR_EXACT")
    assert (float(image.WindowCenter), float(image.WindowWidth)) == pytest.approx(window)


@pytest.mark.parametrize("modality", sorted(SOP_CLASS))
def test_numbers_whose_unit_is_not_known_say_so(tmp_path: Path, modality: str) -> None:
    write(tmp_path / "x.dcm", modality=modality, window=None if modality == "CT" else (40.0, 400.0))
    assert pydicom.dcmread(tmp_path / "x.dcm").get("RescaleType", "US") == "US"


@pytest.mark.parametrize("modality", sorted(SOP_CLASS))
def test_a_spacing_that_the_standard_demands_is_marked_as_made_up_and_no_other_is_there(
    tmp_path: Path, modality: str
) -> None:
    write(tmp_path / "x.dcm", modality=modality)
    image = pydicom.dcmread(tmp_path / "x.dcm")
    sized = "PixelSpacing" in image or "ImagerPixelSpacing" in image
    assert sized == (modality in ("CT", "MR", "DX", "MG"))
    assert sized == ("placeholders: do not measure" in image.DerivationDescription)


@pytest.mark.parametrize("modality", sorted(SOP_CLASS))
@pytest.mark.parametrize(("body_part", "paired"), [("HAND", True), ("BREAST", True), ("CHEST", False), ("", False)])
def test_no_side_is_claimed(tmp_path: Path, modality: str, body_part: str, paired: bool) -> None:
    write(tmp_path / "x.dcm", modality=modality, body_part=body_part)
    image = pydicom.dcmread(tmp_path / "x.dcm")
    if modality in ("DX", "MG"):
        assert image.ImageLaterality == ("B" if paired or modality == "MG" else "U")
    elif modality in ("CR", "CT", "MR", "US"):
        assert ("Laterality" in image) == paired
    assert not image.get("Laterality")


def test_the_software_that_drew_an_image_is_named(tmp_path: Path) -> None:
    write(tmp_path / "x.dcm")
    image = pydicom.dcmread(tmp_path / "x.dcm")
    version = importlib.metadata.version("wardround")
    assert image.SoftwareVersions == image.ContributingEquipmentSequence[0].SoftwareVersions == version
