"""How a picture came to be, as far as its header tells: captured, converted, raw, montage, generated.

Runs in a decoder process; only the plain answers leave it.
"""

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from client.dicom.reader import text_of
from client.dicom.tags import (
    CAPTURE_DEVICE,
    MARKED_TEXTS,
    MOSAIC_CREATOR,
    MOSAIC_TILES,
    SYNTHETIC_CREATOR,
    value_of,
)

_SAYS_SYNTHETIC = re.compile(
    r"NOT A (REAL )?PATIENT|SYNTHETIC (IMAGE|DATA|PATIENT)|NO PATIENT: IMAGE DRAWN|GENERATIVE MODEL|AI[- ]GENERATED"
)
"""Phrases of writers of generated images. The bare word is none of them: synthetic MR contrasts and synthesized
mammograms are computed from a patient's own data."""
_SYNTHETIC_NAME = re.compile(r"SYNTHETIC(?![A-Z])")
_SYNTHESIZING_EQUIPMENT = ("109100", "DCM")
"""Purpose of Reference of equipment that made an image up (PS3.16 CID 7005)."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a picture came to be.

    Attributes:
        image_type: Values of ImageType, upper case.
        burned_in: BurnedInAnnotation, upper case.
        conversion: ConversionType, upper case.
        captured: An attribute of a secondary capture device is there.
        synthetic: Whether the object is marked as generated, by any of the marks that writers use.
        device: Manufacturer and model, upper case.
        intent: PresentationIntentType, upper case.
        photometric: Photometric interpretation, upper case.
        series: SeriesDescription, upper case.
        tiles: Slices that the scanner has tiled into the picture, as far as it tells; 0 where it does not.
    """

    image_type: tuple[str, ...] = ()
    burned_in: str = ""
    conversion: str = ""
    captured: bool = False
    synthetic: bool = False
    device: str = ""
    intent: str = ""
    photometric: str = ""
    series: str = ""
    tiles: int = 0


def provenance_of(dataset: Dataset) -> Provenance:
    """Return how the picture of a header came to be."""
    kinds = tuple(kind.strip().upper() for kind in text_of(dataset, "ImageType").split("\\"))
    return Provenance(
        image_type=kinds,
        burned_in=text_of(dataset, "BurnedInAnnotation").upper(),
        conversion=text_of(dataset, "ConversionType").upper(),
        captured=any(text_of(dataset, keyword) for keyword in CAPTURE_DEVICE),
        synthetic="SYNTHETIC" in kinds or _marked_synthetic(dataset),
        device=f"{text_of(dataset, 'Manufacturer')} {text_of(dataset, 'ManufacturerModelName')}".upper(),
        intent=text_of(dataset, "PresentationIntentType").upper(),
        photometric=text_of(dataset, "PhotometricInterpretation").upper(),
        series=text_of(dataset, "SeriesDescription").upper(),
        tiles=_tiles(dataset),
    )


def _tiles(dataset: Dataset) -> int:
    """Return Number Of Images In Mosaic of a Siemens MR, which stays where an anonymiser has rewritten ImageType."""
    if MOSAIC_TILES not in dataset or "SIEMENS MR HEADER" not in str(dataset.get(MOSAIC_CREATOR, "")).upper():
        return 0
    value = dataset[MOSAIC_TILES].value
    return int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value or 0)


def _marked_synthetic(dataset: Dataset) -> bool:
    """Look for the standard's mark (PS3.3 C.12.1.1.9), our own of any edition, and those of other writers."""
    if text_of(dataset, "SyntheticData").upper() == "YES" or text_of(dataset, "ConversionType").upper() == "SYN":
        return True
    if SYNTHETIC_CREATOR in dataset and "SYNTHETIC" in str(dataset[SYNTHETIC_CREATOR].value).upper():
        return True
    names = (text_of(dataset, keyword).upper() for keyword in ("PatientName", "PatientID"))
    texts = (text_of(dataset, keyword).upper() for keyword in MARKED_TEXTS)
    return (
        any(_SYNTHETIC_NAME.match(name) for name in names)
        or any(_SAYS_SYNTHETIC.search(text) for text in texts)
        or any(map(_synthesizes, value_of(dataset, "ContributingEquipmentSequence") or ()))
    )


def _synthesizes(equipment: Dataset) -> bool:
    codes = value_of(equipment, "PurposeOfReferenceCodeSequence") or ()
    return any(
        (text_of(code, "CodeValue"), text_of(code, "CodingSchemeDesignator")) == _SYNTHESIZING_EQUIPMENT
        for code in codes
    )
