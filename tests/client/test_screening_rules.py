"""What is no picture of a patient, or may carry a name, whatever class it was written into."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    EnhancedMRImageStorage,
    IntravascularOpticalCoherenceTomographyImageStorageForPresentation,
    IntravascularOpticalCoherenceTomographyImageStorageForProcessing,
    MRImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLWholeSlideMicroscopyImageStorage,
    WideFieldOphthalmicPhotographyStereographicProjectionImageStorage,
)

from client.dicom import text_finder
from client.dicom.text_finder import jagged
from common.dicom.export import Edition, Provenance
from tests.client.decoding import decode, decode_file
from tests.client.scans import picture, scan
from tests.common.synthetic_files import write_synthetic

DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"
needs_ocr = pytest.mark.skipif(not text_finder.installed(), reason="the extra `ocr` is not installed")


def reason(**values: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanners write values that the standard does not allow
        return decode(scan(picture(1), **values))[1]


# --- generated images ---


@pytest.mark.parametrize("edition", ["2022", "current"])
@pytest.mark.parametrize("modality", ["CR", "DX", "CT", "MR", "US", "MG"])
def test_our_own_synthetic_images_are_no_patients(tmp_path: Path, modality: str, edition: Edition) -> None:
    where = Provenance(study="s", plan_digest="a" * 64, decoder_digest="b" * 64, epsilon=1.0, delta=1e-5, seed=0)
    pixels = (picture(1) >> 4).astype(np.uint8)
    write_synthetic(tmp_path / "a.dcm", pixels, modality=modality, body_part="CHEST", label="x", index=1,
                    provenance=where, edition=edition)  # fmt: skip
    assert decode_file(tmp_path / "a.dcm") == ([], "synthetic")


def purpose(code: str) -> Sequence:
    equipment, item = Dataset(), Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", "x"
    equipment.PurposeOfReferenceCodeSequence = [item]
    return Sequence([equipment])


@pytest.mark.parametrize(
    "values",
    [
        {"SyntheticData": "YES"},
        {"ImageType": ["DERIVED", "SECONDARY", "SYNTHETIC"]},
        {"ConversionType": "SYN"},
        {"PatientName": "SYNTHETIC^WARDROUND"},
        {"PatientID": "SYNTHETIC-4"},
        {"PatientID": "synthetic_0001"},
        {"StudyDescription": "SYNTHETIC - NOT A PATIENT"},
        {"ImageComments": "Synthetic image, not for diagnosis"},
        {"SeriesDescription": "AI-generated chest"},
        {"DerivationDescription": "sampled from a generative model"},
        {"ContributingEquipmentSequence": purpose("109100")},
    ],
)
def test_every_mark_of_a_generated_image_is_seen(values: dict[str, Any]) -> None:
    assert reason(**values) == "synthetic"


def test_our_private_block_alone_is_a_mark() -> None:
    dataset = scan(picture(1))
    dataset.private_block(0x0991, "WARDROUND SYNTHETIC 1", create=True).add_new(0, "LO", "s")
    assert decode(dataset) == ([], "synthetic")


@pytest.mark.parametrize(
    "values",
    [
        {"SyntheticData": "NO"},
        {"SeriesDescription": "Synthetic T2w SyMRI", "Manufacturer": "SyntheticMR AB"},
        {"PatientName": "SYNTHETICOS^MARIA"},
        {"ContributingEquipmentSequence": purpose("109102")},
    ],
)
def test_pictures_computed_from_a_patients_own_data_are_the_patients(values: dict[str, Any]) -> None:
    assert reason(**values) == ""


# --- pages and screens ---


@pytest.mark.parametrize("sop_class", [CTImageStorage, MRImageStorage, ComputedRadiographyImageStorage])
@pytest.mark.parametrize(
    "kinds",
    [
        ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"],
        ["DERIVED", "SECONDARY", "OTHER", "CT_SOM7 PROT"],
        ["DERIVED", "SECONDARY", "SCREENSAVE"],
        ["DERIVED", "SECONDARY", "SCREEN SAVE"],
        ["derived", "secondary", "screen_save"],
        ["DERIVED", "SECONDARY", "OTHER", "CSA REPORT"],
        ["DERIVED", "SECONDARY", "DOSE_INFO"],
        ["DERIVED", "SECONDARY", "PATIENT PROTOCOL"],
        ["DERIVED", "SECONDARY", "MEDCOM_SCREENCAPTURE"],
    ],
)
def test_pages_are_captures_in_any_class(sop_class: str, kinds: list[str]) -> None:
    assert reason(SOPClassUID=sop_class, ImageType=kinds, BurnedInAnnotation="NO") == "secondary_capture"


@pytest.mark.parametrize(
    "values",
    [
        {"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL"]},
        {"ConversionType": "WSD"},
        {"SecondaryCaptureDeviceManufacturer": "GE"},
        {"SecondaryCaptureDeviceID": "1"},
        {"DateOfSecondaryCapture": "20200101"},
        {"VideoImageFormatAcquired": "NTSC"},
        {"DigitalImageFormatAcquired": "BMP"},
        {"HardcopyDeviceManufacturer": "KODAK"},
        {"SeriesDescription": "Dose Report"},
        {"SeriesDescription": "Patient Protocol"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ],
)
@pytest.mark.parametrize("annotation", ["", "NO"])
def test_screens_in_cross_sections_wait_for_a_human_even_where_the_header_says_no(
    values: dict[str, Any], annotation: str
) -> None:
    assert reason(**values, BurnedInAnnotation=annotation) == "burned_in"
    mr = {"SOPClassUID": MRImageStorage, "Modality": "MR"}
    assert reason(**values, **mr, BurnedInAnnotation=annotation) == "burned_in"


def test_colour_in_a_grey_class_waits_and_is_read_once_cleared(tmp_path: Path) -> None:
    colour = np.stack([(picture(i) >> 4).astype(np.uint8) for i in range(3)], axis=-1)
    values = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert decode(scan(colour, **values)) == ([], "burned_in")
    assert decode(scan(colour, **values, BurnedInAnnotation="NO")) == ([], "burned_in")


@pytest.mark.parametrize(
    "kinds",
    [
        ["ORIGINAL", "PRIMARY", "AXIAL"],
        ["ORIGINAL", "PRIMARY", "M", "PROTON DENSITY"],
        ["DERIVED", "SECONDARY", "MPR"],
        ["DERIVED", "PRIMARY", "PROJECTION IMAGE"],
    ],
)
def test_pictures_of_the_patient_are_no_pages(kinds: list[str]) -> None:
    assert reason(ImageType=kinds) == ""


@pytest.mark.parametrize("kinds", [["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], ["DERIVED", "PRIMARY", "DIFFUSION",
                                   "TRACEW", "ND", "MFSPLIT_MOSAIC"]])  # fmt: skip
def test_tiled_slices_are_refused_and_a_left_over_word_is_not(kinds: list[str]) -> None:
    assert reason(SOPClassUID=MRImageStorage, Modality="MR", ImageType=kinds) == "montage"
    assert reason(SOPClassUID=EnhancedMRImageStorage, Modality="MR", ImageType=kinds) == ""


@pytest.mark.parametrize(
    "values",
    [
        {"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing, "Modality": "MG"},
        {"SOPClassUID": IntravascularOpticalCoherenceTomographyImageStorageForProcessing, "Modality": "IVOCT"},
        {"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation, "PresentationIntentType": "FOR PROCESSING"},
    ],
)
def test_raw_data_is_refused(values: dict[str, Any]) -> None:
    assert reason(**values) == "for_processing"


@pytest.mark.parametrize(
    ("sop_class", "modality", "kinds", "expected"),
    [
        (VLWholeSlideMicroscopyImageStorage, "SM", "VOLUME", ""),
        (VLWholeSlideMicroscopyImageStorage, "SM", "LABEL", "burned_in"),
        (VLWholeSlideMicroscopyImageStorage, "SM", "OVERVIEW", "burned_in"),
        (WideFieldOphthalmicPhotographyStereographicProjectionImageStorage, "OP", "COLOR", ""),
        (IntravascularOpticalCoherenceTomographyImageStorageForPresentation, "IVOCT", "", ""),
        (DERMOSCOPY, "DMS", "", ""),
    ],
)
def test_classes_that_hospitals_have_are_images_of_patients(
    sop_class: str, modality: str, kinds: str, expected: str
) -> None:
    kept = {"SOPClassUID": sop_class, "Modality": modality, "ImageType": ["ORIGINAL", "PRIMARY", kinds]}
    assert reason(**kept, BurnedInAnnotation="NO") == expected


# --- letters in the picture ---


def written(size: int = 16, side: int = 256) -> np.ndarray[Any, Any]:
    """A grey page with a name on it."""
    page = Image.new("L", (side, side), 30)
    ImageDraw.Draw(page).text((30, side // 3), "MUSTERMANN ERIKA", fill=230, font=ImageFont.load_default(size))
    return np.asarray(page)


@needs_ocr
@pytest.mark.parametrize("frame", [0, 2, 5])
def test_a_name_is_found_in_whichever_frame_it_stands(frame: int) -> None:
    plain = (picture(3, rows=256, columns=256) >> 4).astype(np.uint8)
    plain = np.clip(plain // 8 + 60, 0, 255).astype(np.uint8)
    pixels = np.stack([plain] * 6)
    pixels[frame] = written()
    dataset = scan(plain, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US", BurnedInAnnotation="NO")
    dataset.NumberOfFrames, dataset.PixelData = 6, pixels.tobytes()
    assert decode(dataset, ocr=True) == ([], "text_found")


@needs_ocr
@pytest.mark.parametrize("modality", ["CT", "MR", "CR"])
def test_a_name_is_found_in_every_modality(modality: str) -> None:
    sop_class = {"CT": CTImageStorage, "MR": MRImageStorage, "CR": ComputedRadiographyImageStorage}[modality]
    dataset = scan(written(), SOPClassUID=sop_class, Modality=modality, BurnedInAnnotation="NO")
    assert decode(dataset, ocr=True) == ([], "text_found")


@pytest.mark.parametrize("size", [10, 16, 24, 40, 64])
def test_text_of_any_size_is_jagged_and_a_smooth_picture_is_not(size: int) -> None:
    assert jagged(written(size, 512).astype(np.float32) / 127.5 - 1)
    y, x = np.mgrid[0:512, 0:512]
    assert not jagged(np.sin(x / 90).astype(np.float32) * np.cos(y / 110).astype(np.float32))
