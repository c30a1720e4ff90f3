"""The DICOM elements that admission reads; all others are skipped unread."""

import functools
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

CAPTURE_DEVICE = (
    "SecondaryCaptureDeviceManufacturer",
    "SecondaryCaptureDeviceManufacturerModelName",
    "SecondaryCaptureDeviceSoftwareVersions",
    "SecondaryCaptureDeviceID",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
    "VideoImageFormatAcquired",
    "DigitalImageFormatAcquired",
    "HardcopyCreationDeviceID",
    "HardcopyDeviceManufacturer",
    "HardcopyDeviceManufacturerModelName",
    "HardcopyDeviceSoftwareVersion",
)
"""Attributes of the device that captured a screen or printed a film (PS3.3 C.8.6.1)."""
MARKED_TEXTS = (
    "PatientComments",
    "ImageComments",
    "StudyDescription",
    "SeriesDescription",
    "DerivationDescription",
    "DeidentificationMethod",
)
"""Texts in which a writer of generated images may say so."""
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KEYWORDS = (
    # who, what, where
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "Modality",
    "ConversionType",
    "Manufacturer",
    "ManufacturerModelName",
    "SyntheticData",
    "PatientName",
    "ContributingEquipmentSequence",
    "PresentationIntentType",
    *CAPTURE_DEVICE,
    *MARKED_TEXTS,
    "BurnedInAnnotation",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "SequenceOfUltrasoundRegions",
    # image pixel
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "AlphaPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "AlphaPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SegmentedAlphaPaletteColorLookupTableData",
    "LossyImageCompression",
    # from stored values to the display
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "Units",
    "SUVType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PresentationLUTShape",
    # geometry
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "ImageOrientationPatient",
    # multi-frame
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


@functools.cache
def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword!r} is no DICOM keyword")
    return BaseTag(tag)


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return the value of an element, None where it is absent; there it is ten times as fast as `Dataset.get`."""
    tag = _tag(keyword)
    return dataset[tag].value if tag in dataset else None


def bytes_of(dataset: Dataset, keyword: str) -> bytes:
    """Return the value of a text element as it lies in the file; empty once `value_of` has decoded it, or if absent."""
    element = dataset.get_item(_tag(keyword))
    return element.value if isinstance(element, RawDataElement) and isinstance(element.value, bytes) else b""


PIXELS = {int(_tag(keyword)): keyword for keyword in _PIXEL_KEYWORDS}
"""Tag -> keyword of the three pixel data elements."""

SYNTHETIC_CREATOR = BaseTag(0x09910010)
"""Private creator of the block that says where one of our generated images comes from (`common.dicom.export`)."""

MOSAIC_CREATOR, MOSAIC_TILES = BaseTag(0x00190010), BaseTag(0x0019100A)
"""Siemens MR: the private block (SIEMENS MR HEADER) and its Number Of Images In Mosaic."""

WANTED = [
    *(int(_tag(keyword)) for keyword in _KEYWORDS),
    *(int(tag) for tag in (SYNTHETIC_CREATOR, MOSAIC_CREATOR, MOSAIC_TILES)),
]
"""Tags of the header elements that are read."""


def wanted_with(keyword: str) -> list[int]:
    """Return `WANTED` and the attribute a plan names as its label; an unknown keyword raises `ValueError`."""
    return [*WANTED, int(_tag(keyword))] if keyword else WANTED
