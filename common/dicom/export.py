"""Synthetic DICOM: images of no patient, marked so that they cannot be taken for a patient's.

The writer takes pixels, a label and where they come from. It has no argument through which an attribute of a
real scan could enter, and no date of any day, so the same arguments give the same bytes.
"""

import functools
import hashlib
import importlib.metadata
import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from common.dicom.iods import coded, derive_uid, has_made_up_spacing, new_image, save, set_pixels

PRIVATE_CREATOR = "WARDROUND SYNTHETIC 1"
PRIVATE_GROUP = 0x0991
INDEX_OFFSET = 7
"""Element of the private block that holds the index, after the fields of `Provenance` and the label."""
Edition = Literal["2022", "current"]
"""Of the standard. "current" holds Synthetic Data (0008,001C), the attribute made for this in 2023, which validators of
before, Debian's dciodvfy among them, report as an error; "2022" says the same in older attributes and the block."""
_NO_GEOMETRY = "Pixel spacing, position, orientation and side are placeholders: do not measure"
_NO_DATE, _NO_TIME = "19000101", "000000"
"""A DICOMDIR must name a date of each study; no scan has this one."""
Window = tuple[float, float] | None
_FLAVOUR = {"CT": ("AXIAL",), "MR": ("OTHER",)}
"""Third value of ImageType, where the IOD asks for one (PS3.3 C.8.2.1.1.1 and C.8.3.1.1.1)."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a synthetic image comes from.

    Attributes:
        study: Name of the study that trained the generator, at most 64 characters.
        plan_digest: SHA-256 of the study plan, hex.
        decoder_digest: SHA-256 of the decoder's weights, hex.
        epsilon: What the study cost a patient at most, 0 or more; infinite where it trained without privacy.
        delta: The bound's delta, from 0 to below 1.
        seed: Seed of the latent draw, 0 or more.
    """

    study: str
    plan_digest: str
    decoder_digest: str
    epsilon: float
    delta: float
    seed: int

    def __post_init__(self) -> None:
        for key in ("study", "plan_digest", "decoder_digest"):
            text = getattr(self, key)
            if not 0 < len(text) <= 64 or not text.isprintable() or "\\" in text or text != text.strip():
                raise ValueError(f"{key} must be 1 to 64 printable characters, no backslash, not {text!r}")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon must be 0 or more, not {self.epsilon}")
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta must be from 0 to below 1, not {self.delta}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")


def synthetic_bytes(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    modality: str,
    body_part: str,
    label: str,
    index: int,
    provenance: Provenance,
    edition: Edition = "current",
    window: Window = None,
) -> bytes:
    """Return one synthetic image as a DICOM file, Explicit VR Little Endian.

    Args:
        pixels: [height, width], uint8 or uint16, 0 shown black.
        modality: DICOM Modality code; CR, DX, CT, MR, MG, US have their own SOP class, others secondary capture.
        body_part: BodyPartExamined, a DICOM code; may be empty.
        label: The class that was asked for, at most 64 characters; empty where the generator has none.
        index: Number of the image within the draw, 0 or more; the made-up patient is SYNTHETIC-<digest>-<index>.
        provenance: What trained the generator and which draw this is.
        edition: Of the standard whose attributes are written.
        window: Centre and width, in Hounsfield units, that the darkest and brightest grey of a CT stand for; None where
            the plan names none, and for other modalities.

    Raises:
        ValueError: An argument that DICOM cannot hold.

    Source:
        DICOM PS3.3 C.12.1 (Synthetic Data), C.7.1.1 (Patient), C.7.5.2 (Contributing Equipment).
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, not {pixels.dtype}")
    if index < 0:
        raise ValueError(f"index must be 0 or more, not {index}")
    own = identity(pixels, modality=modality, body_part=body_part, label=label, index=index, provenance=provenance)
    image = new_image(
        modality,
        body_part=body_part,
        study_uid=own["StudyInstanceUID"],
        series_uid=own["SeriesInstanceUID"],
        image_uid=own["SOPInstanceUID"],
    )
    _mark(image, label=label, index=index, provenance=provenance)
    image.PatientID, image.ImageComments, image.StudyID = own["PatientID"], own["ImageComments"], own["StudyID"]
    if edition == "current":
        image.SyntheticData = "YES"
    set_pixels(image, pixels)
    _set_scale(image, top=(1 << (8 * pixels.dtype.itemsize)) - 1, window=window)
    buffer = io.BytesIO()
    save(image, buffer)
    return buffer.getvalue()


def _set_scale(image: Dataset, *, top: int, window: Window) -> None:
    """Say what the grey levels 0 to `top` mean: Hounsfield units in a CT whose plan has a window in them."""
    if image.Modality == "CT" and window is not None:
        centre, width = window
        image.RescaleSlope = DSfloat(width / top, auto_format=True)
        image.RescaleIntercept = DSfloat(centre - width / 2, auto_format=True)
        image.RescaleType = "HU"
        image.WindowCenter, image.WindowWidth = DSfloat(centre, auto_format=True), DSfloat(width, auto_format=True)
        image.VOILUTFunction = "LINEAR_EXACT"
        return
    image.WindowCenter, image.WindowWidth = (top + 1) // 2, top + 1


def identity(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    modality: str,
    body_part: str,
    label: str,
    index: int,
    provenance: Provenance,
) -> dict[str, str]:
    """Return the attributes, by keyword, that differ between two images of one draw of one label.

    An archive joins what has one PatientID or one UID. So all of them derive from study, release, seed, index, label
    and the pixels themselves: another release or another picture is another made-up patient.

    Args:
        pixels: The image's pixels.
        modality: DICOM Modality code.
        body_part: BodyPartExamined.
        label: Label of the image.
        index: Its index within the draw of that label.
        provenance: Where the image comes from.
    """
    bound = (
        f"differential privacy per patient: epsilon {provenance.epsilon:.4g}, delta {provenance.delta:.3g}"
        if math.isfinite(provenance.epsilon)
        else "trained WITHOUT differential privacy"
    )
    seen = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    release = (provenance.study, provenance.plan_digest, provenance.decoder_digest, str(provenance.seed))
    draw = (*release, str(index), label, seen)
    series = derive_uid("synthetic series", *draw)
    person = hashlib.sha256(chr(31).join(draw).encode()).hexdigest()[:12]
    return {
        "StudyInstanceUID": derive_uid("synthetic study", *draw),
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": derive_uid("frame", series),
        "SOPInstanceUID": derive_uid("synthetic image", *draw, modality, body_part),
        "PatientID": f"SYNTHETIC-{person}-{index}",
        "StudyID": person,
        "ImageComments": (
            f"SYNTHETIC IMAGE, NOT A PATIENT, NOT FOR DIAGNOSIS. Study {provenance.study}, "
            f"label {label or '(none)'}, seed {provenance.seed}, index {index}; {bound}; "
            f"plan {provenance.plan_digest}, decoder {provenance.decoder_digest}."
        ),
    }


def _mark(image: Dataset, *, label: str, index: int, provenance: Provenance) -> None:
    """Say in every place where a reader, a viewer or a person looks that this is no patient."""
    image.ImageType = ["DERIVED", "SECONDARY", *_FLAVOUR.get(image.Modality, ())]
    image.PatientName = "SYNTHETIC^WARDROUND"
    image.PatientSex = "O"
    image.StudyDate, image.StudyTime = _NO_DATE, _NO_TIME
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "No patient: image drawn from a generative model"
    image.BurnedInAnnotation = "NO"
    image.StudyDescription = "SYNTHETIC - NOT A PATIENT"
    image.SeriesDescription = f"Synthetic {label}"[:64].rstrip()
    image.ManufacturerModelName = "wardround generator"
    image.SoftwareVersions = _version()
    image.DerivationDescription = f"Drawn from the decoder of study {provenance.study}; no source image"
    if has_made_up_spacing(image):
        # the IOD demands numbers; nothing in a release knows how large a pixel is, where it lies, or of which side
        image.DerivationDescription += f". {_NO_GEOMETRY}"
    image.ContributingEquipmentSequence = [_equipment(provenance)]
    block = image.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    numbers = repr(float(provenance.epsilon)), repr(float(provenance.delta)), str(int(provenance.seed))
    names = provenance.study, provenance.plan_digest, provenance.decoder_digest
    for offset, text in enumerate([*names, *numbers, label, str(index)]):
        # text, not binary: a PACS that converts to implicit VR drops the private type and keeps the bytes
        block.add_new(offset, "LO", text)


def _equipment(provenance: Provenance) -> Dataset:
    """The generator as contributing equipment: it made the image up (PS3.16 CID 7005)."""
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [coded("109100", "Synthesizing Equipment", scheme="DCM")]
    equipment.Manufacturer, equipment.ManufacturerModelName = "wardround", "wardround generator"
    equipment.SoftwareVersions = _version()
    equipment.ContributionDescription = f"Decoder {provenance.decoder_digest} drew this image"
    return equipment


@functools.cache
def _version() -> str:
    return importlib.metadata.version("wardround")
