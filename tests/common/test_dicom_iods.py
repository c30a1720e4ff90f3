"""Both writers' base: UIDs that give nothing away, attributes the standard requires, pixels that fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, JPEG2000Lossless

from common.dicom.iods import derive_uid, new_image, save, set_pixels

UIDS = {"image_uid": "2.25.1", "series_uid": "2.25.2", "study_uid": "2.25.3"}


def test_a_uid_depends_on_every_part_and_on_where_a_part_ends() -> None:
    uids = [derive_uid(*parts) for parts in (("a", "b"), ("a", "c"), ("ab",), ("a", "b", ""), ("a", "b"))]
    assert len(set(uids)) == 4
    assert uids[0] == uids[4]
    assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)


@pytest.mark.parametrize(
    ("modality", "keywords"),
    [
        ("CR", ["ViewPosition"]),
        (
            "DX",
            [
                "PresentationIntentType",
                "ImageLaterality",
                "DetectorType",
                "ImagerPixelSpacing",
                "PresentationLUTShape",
                "PixelIntensityRelationshipSign",
                "AcquisitionContextSequence",
            ],
        ),
        ("CT", ["KVP", "RescaleSlope", "RescaleIntercept", "FrameOfReferenceUID", "PixelSpacing"]),
        ("MR", ["ScanningSequence", "SequenceVariant", "EchoTime", "FrameOfReferenceUID", "PixelSpacing"]),
        (
            "MG",
            ["PresentationIntentType", "ImageLaterality", "ViewCodeSequence", "PositionerType", "BreastImplantPresent"],
        ),
        ("OT", ["ConversionType"]),
    ],
)
def test_an_image_has_the_attributes_that_its_iod_requires(modality: str, keywords: list[str]) -> None:
    image = new_image(modality, body_part="CHEST", **UIDS)
    set_pixels(image, np.zeros((4, 4), dtype=np.uint8))
    common = ["PatientID", "PatientBirthDate", "StudyDate", "StudyID", "SeriesNumber", "Manufacturer", "Rows"]
    assert [keyword for keyword in common + keywords if keyword not in image] == []


def test_the_anatomic_region_of_a_digital_xray_is_coded_where_the_code_is_known() -> None:
    assert new_image("DX", body_part="CHEST", **UIDS).AnatomicRegionSequence[0].CodeMeaning == "Chest"
    assert len(new_image("DX", body_part="", **UIDS).AnatomicRegionSequence) == 0


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_eight_bits_are_widened_where_the_standard_allows_only_sixteen(modality: str) -> None:
    image = new_image(modality, body_part="", **UIDS)
    set_pixels(image, np.full((4, 4), 200, dtype=np.uint8))
    assert (image.BitsAllocated, image.BitsStored) == (16, 12)
    assert int(image.pixel_array.max()) == 200


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")])
def test_a_digital_xray_says_twice_which_end_is_white(photometric: Any, shape: str) -> None:
    image = new_image("DX", body_part="", **UIDS)
    set_pixels(image, np.zeros((4, 4), dtype=np.uint16), photometric=photometric)
    assert (image.PhotometricInterpretation, image.PresentationLUTShape) == (photometric, shape)


def test_values_above_the_stored_bits_are_refused() -> None:
    image = new_image("CR", body_part="", **UIDS)
    with pytest.raises(ValueError, match="4096"):
        set_pixels(image, np.full((4, 4), 4096, dtype=np.uint16), bits_stored=12)


def test_a_codec_that_cannot_hold_the_image_is_refused_by_name(tmp_path: Path) -> None:
    image = new_image("CR", body_part="", **UIDS)
    set_pixels(image, np.zeros((28, 64), dtype=np.uint8))
    with pytest.raises(ValueError, match="JPEG 2000 needs 32 pixels"):
        save(image, tmp_path / "x.dcm", transfer_syntax=JPEG2000Lossless)
    save(image, tmp_path / "x.dcm")
    assert pydicom.dcmread(tmp_path / "x.dcm").file_meta.ImplementationVersionName == "WARDROUND"
