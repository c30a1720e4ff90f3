"""Pages, screens, montages and generated images, five and more variants a kind: each with its reason."""

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    PositronEmissionTomographyImageStorage,
    XRayAngiographicImageStorage,
)

from tests.client.decoding import EXACT
from tests.client.variants import STORED, WHOLE, Case, coloured, ct, grouped, holds, item, mr, unit


def siemens(number: Any) -> Dataset:
    """A mosaic of which only the scanner's private number of images is left."""
    made = mr("ORIGINAL", "PRIMARY", "M", "ND")
    block = made.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US" if isinstance(number, int) else "UN", number)
    return made


SCREENS: dict[str, Case] = {
    **{
        "\\".join(kinds): (lambda kinds=kinds: ct(ImageType=list(kinds)), "dicom", "secondary_capture", 0)
        for kinds in (
            ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM7 PROT"),
            ("DERIVED", "SECONDARY", "CT_SOM8 PROT"),
            ("DERIVED", "SECONDARY", "SCREEN SAVE"),
            ("ORIGINAL", "SECONDARY", "screenshot"),
            ("DERIVED", "PRIMARY", "OTHER", "CSA REPORT"),
            ("DERIVED", "SECONDARY", "DOSE INFO"),
            ("DERIVED", "SECONDARY", "SCREEN CAPTURE"),
        )
    },
    "palette in an MR": (
        lambda: mr("ORIGINAL", "PRIMARY", PhotometricInterpretation="PALETTE COLOR"),
        "dicom",
        "burned_in",
        0,
    ),
    "colour in an angiogram": (
        lambda: coloured("RGB", SOPClassUID=XRayAngiographicImageStorage, Modality="XA"),
        "dicom",
        "burned_in",
        0,
    ),
    "colour in a mammogram": (
        lambda: coloured("YBR_FULL", SOPClassUID=DigitalMammographyXRayImageStorageForPresentation, Modality="MG"),
        "dicom",
        "burned_in",
        0,
    ),
    "a capture's date in a CT": (
        lambda: ct(DateOfSecondaryCapture="20240101", BurnedInAnnotation="NO"),
        "dicom",
        "burned_in",
        0,
    ),
    "a conversion in an MR": (
        lambda: mr("ORIGINAL", "PRIMARY", ConversionType="DI", BurnedInAnnotation="NO"),
        "dicom",
        "burned_in",
        0,
    ),
    "a series of patient protocols": (lambda: ct(SeriesDescription="Patient Protocol"), "dicom", "burned_in", 0),
    "a dose record": (lambda: ct(SeriesDescription="Dose Report 2.1"), "dicom", "burned_in", 0),
    "a capture of true colour": (
        lambda: coloured("RGB", SOPClassUID=MultiFrameTrueColorSecondaryCaptureImageStorage, Modality="OT"),
        "dicom",
        "secondary_capture",
        0,
    ),
    "a mosaic in lower case": (lambda: mr("ORIGINAL", "PRIMARY", "M", "ND", "mosaic"), "dicom", "montage", 0),
    "a mosaic of phases": (lambda: mr("DERIVED", "PRIMARY", "P", "MOSAIC", "PHASE"), "dicom", "montage", 0),
    "a montage in PET": (
        lambda: ct(
            SOPClassUID=PositronEmissionTomographyImageStorage,
            Modality="PT",
            ImageType=["DERIVED", "SECONDARY", "MONTAGE"],
        ),
        "dicom",
        "montage",
        0,
    ),
    "a mosaic whose word an anonymiser took": (lambda: siemens(36), "dicom", "montage", 0),
    "a mosaic whose word and type were taken": (lambda: siemens(b"\x24\x00"), "dicom", "montage", 0),
    "a mosaic of one": (lambda: siemens(1), "percentile", None, 0),
    "an enhanced object with the word": (
        lambda: grouped(
            EnhancedMRImageStorage, frames=[Dataset()], Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
        ),
        WHOLE,
        unit(STORED),
        EXACT,
    ),
    **{
        f"marked {name}": (lambda values=values: ct(**values), "dicom", "synthetic", 0)
        for name, values in {
            "in lower case": {"SyntheticData": "yes"},
            "as fourth type": {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "SYNTHETIC"]},
            "by its conversion": {"ConversionType": "SYN"},
            "by its name": {"PatientName": "synthetic^00012"},
            "by its id": {"PatientID": "SYNTHETIC_0001"},
            "by its series": {"SeriesDescription": "Synthetic image, seed 3"},
            "by a comment": {"ImageComments": "AI-generated picture"},
            "by its equipment": {
                "ContributingEquipmentSequence": [
                    item(
                        PurposeOfReferenceCodeSequence=[
                            item(CodeValue="109100", CodingSchemeDesignator="DCM", CodeMeaning="x")
                        ]
                    )
                ]
            },
        }.items()
    },
}


@pytest.mark.parametrize("name", SCREENS)
def test_what_is_no_picture_of_a_patient_has_its_reason(name: str) -> None:
    holds(SCREENS[name])
