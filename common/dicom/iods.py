"""What a DICOM image of each modality must carry: SOP class, required attributes, UIDs, pixels, file form.

Both writers build on this: `common.dicom.export` (synthetic images) and `deploy.data.dicom_scans` (demo and
imported scans). Dates and times stay empty, and every UID derives from a text, so the same call writes the
same bytes.
"""

import copy
import re
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    NuclearMedicineImageStorage,
    OphthalmicPhotography8BitImageStorage,
    OphthalmicPhotography16BitImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    VLPhotographicImageStorage,
    VLSlideCoordinatesMicroscopicImageStorage,
)

from common.dicom.iod_attributes import EMPTY, REQUIRED, SCANS

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]

_NAMESPACE = uuid.UUID("7c1d8c2e-52a5-5c0e-9b0f-6d1f3a7e4b90")
_SOP_CLASSES = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
    "US": UltrasoundImageStorage,
}
OWN_CLASSES = tuple(_SOP_CLASSES)
"""Modalities that are generated as an image class of their own; any other becomes a secondary capture."""
_SCAN_CLASSES = {
    **_SOP_CLASSES,
    "OP": OphthalmicPhotography8BitImageStorage,
    "XC": VLPhotographicImageStorage,
    "SM": VLSlideCoordinatesMicroscopicImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "NM": NuclearMedicineImageStorage,
}
SCAN_CLASSES = tuple(_SCAN_CLASSES)
"""Modalities that are written as a scan of their own class, for demo hospitals and imported data."""
_ENCODERS = {RLELossless: "pylibjpeg", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}
"""Named, not left to pydicom's choice: gdcm's RLE encoder aborts the process on odd 8-bit images."""
_WIDE_ONLY = ("CT", "MR", "PT")
"""Modalities whose images are always stored in 16 bits (PS3.3 C.8.2.1, C.8.3.1 and C.8.9.4)."""

_SIZED = frozenset({"CT", "MR", "DX", "MG", "PT"})
"""Modalities whose IOD demands a spacing; ones stand there where none is known."""


_REGIONS = {
    "ABDOMEN": ("818983003", "Abdomen"),
    "BREAST": ("76752008", "Breast"),
    "CHEST": ("816094009", "Chest"),
    "HAND": ("85562004", "Hand"),
    "HEAD": ("69536005", "Head"),
}
"""SNOMED CT codes of BodyPartExamined (PS3.16 annex L), which Digital X-Ray wants in addition to the plain name."""
_PAIRED = frozenset({
    "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "EAR", "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT",
    "FOREARM", "HAND", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LUNG", "SCAPULA", "SHOULDER", "THIGH", "THUMB",
    "TOE", "WRIST",
})  # fmt: skip
"""Body parts of which there are two (PS3.16 annex L): an image must tell the side, and a generated one has none."""


def derive_uid(*parts: str) -> str:
    """Return the UID under 2.25 that belongs to `parts`: same parts, same UID.

    A hash: a part cannot be read back from it, but a guess can be checked against it.

    Source:
        DICOM PS3.5 B.2 (UUID derived UIDs), RFC 9562 5.5 (name-based UUID).
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}"


def new_image(
    modality: str, *, body_part: str, image_uid: str, series_uid: str, study_uid: str, scan: bool = False
) -> Dataset:
    """Return a dataset with every attribute that the modality's IOD requires, patient empty, pixels missing.

    Args:
        modality: DICOM Modality code; one without an IOD of its own here becomes a secondary capture.
        body_part: BodyPartExamined, a DICOM code such as CHEST; may be empty.
        image_uid: SOP Instance UID.
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        scan: A scan of a patient: its class may also be one of those that are not generated.

    Raises:
        ValueError: `modality` or `body_part` is no DICOM code.
    """
    if not re.fullmatch(r"[A-Z0-9_]{2,16}", modality):
        raise ValueError(f"modality must be a DICOM code such as CR, not {modality!r}")
    if not re.fullmatch(r"[A-Z0-9_ ]{0,16}", body_part):
        raise ValueError(f"body_part must be a DICOM code such as CHEST, not {body_part!r}")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.ImplementationClassUID = derive_uid("wardround", "implementation")
    dataset.file_meta.ImplementationVersionName = "WARDROUND"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = (_SCAN_CLASSES if scan else _SOP_CLASSES).get(modality, SecondaryCaptureImageStorage)
    dataset.SOPInstanceUID = image_uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    for keyword in EMPTY:
        setattr(dataset, keyword, "")
    dataset.Modality, dataset.BodyPartExamined, dataset.Manufacturer = modality, body_part, "wardround"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.LossyImageCompression = "00"
    secondary: dict[str, Any] = {"ConversionType": "SYN", "PatientOrientation": "", "Laterality": ""}
    demanded = {**REQUIRED, **SCANS} if scan else REQUIRED
    for keyword, value in copy.deepcopy(demanded.get(modality, secondary)).items():
        setattr(dataset, keyword, value)
    _name_what_has_a_uid(dataset, series_uid)
    region = "BREAST" if modality == "MG" else body_part
    if "AnatomicRegionSequence" in dataset and region in _REGIONS:
        dataset.AnatomicRegionSequence = [coded(*_REGIONS[region], scheme="SCT")]
    if modality == "MG":
        view = coded("261665006", "Unknown", scheme="SCT")
        view.ViewModifierCodeSequence = []
        dataset.ViewCodeSequence = [view]
    _set_side(dataset)
    return dataset


def _name_what_has_a_uid(dataset: Dataset, series_uid: str) -> None:
    """Give the frames of reference and the specimen of an image their UIDs."""
    if "ImagePositionPatient" in dataset or "FrameOfReferenceUID" in dataset:
        dataset.FrameOfReferenceUID = derive_uid("frame", series_uid)
    if "SynchronizationFrameOfReferenceUID" in dataset:
        dataset.SynchronizationFrameOfReferenceUID = derive_uid("clock", series_uid)
    for specimen in dataset.get("SpecimenDescriptionSequence", ()):
        specimen.SpecimenUID = derive_uid("specimen", series_uid)


def has_made_up_spacing(dataset: Dataset) -> bool:
    """Return whether the pixel spacing of a dataset of `new_image` stands there because its IOD demands one."""
    return dataset.Modality in _SIZED


def _set_side(dataset: Dataset) -> None:
    """Say of a paired body part that its side is not known, as far as the IOD has a word for that.

    Laterality may be empty. ImageLaterality may not: a picture of either side is neither unpaired nor of one side
    (PS3.3 C.7.3.1, C.8.11.1).
    """
    paired = dataset.Modality == "MG" or dataset.BodyPartExamined in _PAIRED
    if "ImageLaterality" in dataset:
        dataset.ImageLaterality = "B" if paired else "U"
    elif paired:
        dataset.Laterality = ""


def coded(value: str, meaning: str, *, scheme: str) -> Dataset:
    """Return a code sequence item (PS3.3 table 8.8-1).

    Args:
        value: CodeValue.
        meaning: CodeMeaning.
        scheme: CodingSchemeDesignator.
    """
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def set_pixels(
    dataset: Dataset,
    pixels: NDArray[Any],
    *,
    bits_stored: int | None = None,
    photometric: Photometric = "MONOCHROME2",
) -> None:
    """Put grey pixels into a dataset of `new_image`, uncompressed, with the attributes that describe them.

    Args:
        dataset: Changed in place.
        pixels: [height, width], uint8, uint16 or int16. For CT and MR, uint8 is widened, values kept.
        bits_stored: Bits in use; the whole width of `pixels` where None.
        photometric: MONOCHROME1 shows the lowest value white.

    Raises:
        ValueError: Another type or shape, or a value that does not fit `bits_stored`.
    """
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16, np.int16):
        raise ValueError(f"pixels must be 2-D uint8, uint16 or int16, not {pixels.dtype} {pixels.shape}")
    if pixels.dtype == np.uint8 and dataset.Modality in _WIDE_ONLY:
        pixels, bits_stored = pixels.astype(np.uint16), 16 if dataset.Modality == "PT" else 12
    bits = bits_stored or pixels.dtype.itemsize * 8
    dataset.set_pixel_data(np.ascontiguousarray(pixels), photometric, bits, generate_instance_uid=False)
    if "PresentationIntentType" in dataset:
        dataset.PresentationLUTShape = "IDENTITY" if photometric == "MONOCHROME2" else "INVERSE"
        dataset.PixelIntensityRelationshipSign = -1 if photometric == "MONOCHROME2" else 1
    if "FrameIncrementPointer" in dataset:
        dataset.NumberOfFrames = 1
    if dataset.SOPClassUID == OphthalmicPhotography8BitImageStorage:
        if photometric == "MONOCHROME2":
            dataset.PresentationLUTShape = "IDENTITY"
        if dataset.BitsAllocated > 8:
            dataset.SOPClassUID = OphthalmicPhotography16BitImageStorage


def save(dataset: Dataset, path: Path | BinaryIO, *, transfer_syntax: str = ExplicitVRLittleEndian) -> None:
    """Write a dataset as a DICOM file, compressing it first where the transfer syntax asks for that.

    Args:
        dataset: From `new_image` and `set_pixels`; a compressed transfer syntax changes it in place.
        path: The file, whose folder must exist, or an open one.
        transfer_syntax: UID of Implicit or Explicit VR Little Endian, RLE, JPEG-LS or JPEG 2000 Lossless.

    Raises:
        ValueError: JPEG 2000 was asked for an image with a side below 32 pixels, which the encoder refuses.
    """
    if transfer_syntax == JPEG2000Lossless and min(dataset.Rows, dataset.Columns) < 32:
        raise ValueError(f"JPEG 2000 needs 32 pixels a side, not {dataset.Rows} x {dataset.Columns}")
    if transfer_syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = transfer_syntax
    else:
        plugin = _ENCODERS[transfer_syntax]
        dataset.compress(transfer_syntax, encoding_plugin=plugin, generate_instance_uid=False)
    dcmwrite(path, dataset, enforce_file_format=True)
