"""What the IOD of each modality demands of an image beyond its pixels, with the values that stand for "not known".

Source:
    PS3.3 A.2 to A.6, A.26, A.27 (radiographs, CT, MR, ultrasound), A.5, A.21 (nuclear medicine, PET), A.32.3, A.32.4
    (slides, photographs), A.41 (eyes).
"""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag

EMPTY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
)
"""Type 2 attributes of every image: present, and empty unless a writer knows better."""

_PLANE = {
    "PixelSpacing": [1, 1],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "ImagePositionPatient": [0, 0, 0],
    "SliceThickness": None,
    "PositionReferenceIndicator": "",
    "PatientPosition": "",
    "AcquisitionNumber": None,
}
_DIGITAL = {
    "PresentationIntentType": "FOR PRESENTATION",
    "ImageLaterality": "U",
    "AnatomicRegionSequence": [],
    "PatientOrientation": ["L", "F"],
    "PixelIntensityRelationship": "LOG",
    "RescaleSlope": 1,
    "RescaleIntercept": 0,
    "RescaleType": "US",
    "DetectorType": "",
    "ImagerPixelSpacing": [1, 1],
    "AcquisitionContextSequence": [],
}
REQUIRED: dict[str, dict[str, Any]] = {
    "CR": {"ViewPosition": "", "PatientOrientation": ""},
    "DX": _DIGITAL,
    "MG": {
        **_DIGITAL,
        "PatientOrientation": ["P", "F"],
        "PositionerType": "MAMMOGRAPHIC",
        "BreastImplantPresent": "NO",
        "PartialView": "NO",
        "OrganExposed": "BREAST",
    },
    "CT": {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US", "KVP": None, **_PLANE},
    "MR": {
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "",
        "RepetitionTime": None,
        "EchoTime": None,
        "EchoTrainLength": None,
        **_PLANE,
    },
    "US": {"PatientOrientation": ""},
}
"""Attributes of type 1 and 2 of a modality's image beyond the common ones."""


def _item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


_UNKNOWN = _item(CodeValue="261665006", CodingSchemeDesignator="SCT", CodeMeaning="Unknown")
_PHOTOGRAPH: dict[str, Any] = {"PatientOrientation": "", "AcquisitionContextSequence": []}
_GANTRY: dict[str, Any] = {"PatientOrientationCodeSequence": [], "PatientGantryRelationshipCodeSequence": []}
_ISOTOPE: dict[str, Any] = {"RadiopharmaceuticalInformationSequence": []}
_NO_DATE, _NO_TIME = "19000101", "000000"
SCANS: dict[str, dict[str, Any]] = {
    "XC": _PHOTOGRAPH,
    "SM": {
        **_PHOTOGRAPH,
        "FrameOfReferenceUID": "",
        "PositionReferenceIndicator": "SLIDE_CORNER",
        "ImageCenterPointCoordinatesSequence": [],
        "ContainerIdentifier": "UNKNOWN",
        "IssuerOfTheContainerIdentifierSequence": [],
        "ContainerTypeCodeSequence": [],
        "SpecimenDescriptionSequence": [
            _item(
                SpecimenIdentifier="UNKNOWN",
                SpecimenUID="",
                IssuerOfTheSpecimenIdentifierSequence=[],
                SpecimenPreparationSequence=[],
            )
        ],
    },
    "OP": {
        "PatientOrientation": "",
        "ManufacturerModelName": "wardround",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": "0",
        "SynchronizationTrigger": "NO TRIGGER",
        "AcquisitionTimeSynchronized": "N",
        "SynchronizationFrameOfReferenceUID": "",
        "ContentDate": _NO_DATE,
        "ContentTime": _NO_TIME,
        "AcquisitionDateTime": _NO_DATE + _NO_TIME,
        "FrameIncrementPointer": Tag("FrameTimeVector"),
        "FrameTimeVector": 0,
        "AcquisitionContextSequence": [],
        "AnatomicRegionSequence": [_item(CodeValue="81745001", CodingSchemeDesignator="SCT", CodeMeaning="Eye")],
        "ImageLaterality": "B",
        "PatientEyeMovementCommanded": "",
        "RefractiveStateSequence": [],
        "EmmetropicMagnification": None,
        "IntraOcularPressure": None,
        "HorizontalFieldOfView": None,
        "PupilDilated": "",
        "AcquisitionDeviceTypeCodeSequence": [_UNKNOWN],
        "IlluminationTypeCodeSequence": [],
        "LightPathFilterTypeStackCodeSequence": [],
        "ImagePathFilterTypeStackCodeSequence": [],
        "LensesCodeSequence": [],
        "DetectorType": "",
    },
    "PT": {
        **{keyword: value for keyword, value in _PLANE.items() if keyword != "PatientPosition"},
        **_GANTRY,
        **_ISOTOPE,
        "SeriesDate": _NO_DATE,
        "SeriesTime": _NO_TIME,
        "AcquisitionDate": "",
        "AcquisitionTime": "",
        "Units": "NONE",
        "CountsSource": "EMISSION",
        "SeriesType": ["STATIC", "IMAGE"],
        "NumberOfSlices": 1,
        "ImageIndex": 1,
        "CorrectedImage": "",
        "DecayCorrection": "NONE",
        "CollimatorType": "",
        "FrameReferenceTime": 0,
        "ActualFrameDuration": None,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    },
    "NM": {
        **_GANTRY,
        **_ISOTOPE,
        "PixelSpacing": None,
        "FrameIncrementPointer": [Tag("EnergyWindowVector"), Tag("DetectorVector")],
        "EnergyWindowVector": 1,
        "NumberOfEnergyWindows": 1,
        "DetectorVector": 1,
        "NumberOfDetectors": 1,
        "CountsAccumulated": None,
        "ActualFrameDuration": 0,
        "EnergyWindowInformationSequence": [],
        "DetectorInformationSequence": [],
    },
}
"""The same of modalities whose scans are imported and not generated."""
