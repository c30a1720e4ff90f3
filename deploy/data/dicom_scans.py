"""Source scans: DICOM files as a hospital's archive would hold them, for demo hospitals and imported data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from common.dicom.iods import Photometric, new_image, save, set_pixels

TRANSFER_SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
    "jpegls": JPEGLSLossless,
}
"""Short names of the transfer syntaxes that `write_scan` can write; all are lossless."""

_FLAVOURS = {"CT": ["AXIAL"], "MR": ["OTHER"], "NM": ["STATIC", "EMISSION"]}
"""What follows the first two values of ImageType."""


def write_scan(
    path: Path,
    pixels: NDArray[Any],
    *,
    patient_id: str,
    study_uid: str,
    series_uid: str,
    instance_uid: str,
    modality: str = "CR",
    body_part: str = "CHEST",
    photometric: Photometric = "MONOCHROME2",
    window: tuple[float, float] | None = None,
    rescale: tuple[float, float] | None = None,
    transfer_syntax: str = "explicit",
    bits_stored: int | None = None,
    burned_in: bool = False,
    sex: str = "",
    age_years: int | None = None,
    instance_number: int = 1,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY"),
) -> None:
    """Write one single-frame grey scan; no date is in it, so the same arguments give the same bytes.

    Args:
        path: The file; its folder must exist.
        pixels: [height, width], uint8, uint16 or int16, stored values. CT, MR and PT widen uint8 to 16 bits.
        patient_id: PatientID, at most 64 characters; also the patient's name.
        study_uid: Study Instance UID (`common.dicom.iods.derive_uid`).
        series_uid: Series Instance UID.
        instance_uid: SOP Instance UID.
        modality: DICOM Modality code; chooses the SOP class (`common.dicom.iods.SCAN_CLASSES`, else secondary capture).
        body_part: BodyPartExamined; may be empty.
        photometric: MONOCHROME1 shows the lowest value white.
        window: WindowCenter and WindowWidth, in rescaled units; no window tags where None.
        rescale: RescaleSlope and RescaleIntercept; where None, only what the SOP class demands.
        transfer_syntax: A name of `TRANSFER_SYNTAXES`.
        bits_stored: Bits in use, at most the width of `pixels`; the whole width where None.
        burned_in: Value of BurnedInAnnotation.
        sex: PatientSex: M, F, O or empty.
        age_years: PatientAge, 0 to 999.
        instance_number: InstanceNumber within the series, 1 or more.
        image_type: First values of ImageType; AXIAL follows for CT, OTHER for MR, STATIC and EMISSION for NM.

    Raises:
        ValueError: An argument that DICOM or the SOP class cannot hold.

    Source:
        DICOM PS3.3 C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), C.11.2 (VOI LUT).
    """
    if transfer_syntax not in TRANSFER_SYNTAXES:
        known = ", ".join(TRANSFER_SYNTAXES)
        raise ValueError(f"transfer_syntax must be one of {known}, not {transfer_syntax!r}")
    if modality == "DX" and rescale not in (None, (1, 0)):
        raise ValueError(f"rescale must be (1, 0) for DX (PS3.3 C.8.11.3), not {rescale}")
    image = new_image(
        modality, body_part=body_part, image_uid=instance_uid, series_uid=series_uid, study_uid=study_uid, scan=True
    )
    image.PatientName = patient_id.translate({ord("^"): " ", ord("="): " "})
    image.PatientID, image.PatientSex = patient_id, sex
    if age_years is not None:
        image.PatientAge = f"{age_years:03d}Y"
    flavour = _FLAVOURS.get(modality, [])
    image.ImageType = [*image_type, *flavour]
    image.InstanceNumber = instance_number
    image.BurnedInAnnotation = "YES" if burned_in else "NO"
    if "ConversionType" in image:
        image.ConversionType = "WSD"
    if window is not None:
        image.WindowCenter, image.WindowWidth = (f"{value:.10g}" for value in window)
    if rescale is not None:
        image.RescaleSlope, image.RescaleIntercept = (f"{value:.10g}" for value in rescale)
    if modality == "CT" and image_type[0] == "ORIGINAL":
        image.RescaleType = "HU"
    elif rescale is not None:
        image.RescaleType = "US"
    set_pixels(image, pixels, bits_stored=bits_stored, photometric=photometric)
    save(image, path, transfer_syntax=TRANSFER_SYNTAXES[transfer_syntax])
