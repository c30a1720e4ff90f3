"""Which objects may enter a study: by type, by the plan's inclusion rules, by what their header says of text."""

from dataclasses import dataclass

from client.admission.reasons import Reason
from client.admission.scan import Facts
from client.admission.settings import IngestSettings
from client.patient_ids import PatientId
from common.errors import ScanRefused

_STORAGE = "1.2.840.10008.5.1.4.1.1."
IMAGE_CLASSES = frozenset(
    _STORAGE + tail
    for tail in (
        "1",
        "1.1",
        "1.1.1",
        "1.2",
        "1.2.1",
        "1.3",
        "1.3.1",  # CR, DX, mammography, intra-oral
        "2",
        "2.1",
        "2.2",  # CT, enhanced, legacy converted
        "3",
        "3.1",
        "5",
        "6",
        "6.1",
        "6.2",  # ultrasound multi-frame, retired forms, single, enhanced volume
        "4",
        "4.1",
        "4.3",
        "4.4",  # MR, enhanced, enhanced colour, legacy converted
        "12.1",
        "12.1.1",
        "12.2",
        "12.2.1",
        "12.3",  # angiography, fluoroscopy
        "13.1.1",
        "13.1.2",
        "13.1.3",
        "13.1.4",
        "13.1.5",  # 3D X-ray, tomosynthesis
        "20",
        "128",
        "128.1",
        "130",  # nuclear medicine, PET
        "77.1.1",
        "77.1.1.1",
        "77.1.2",
        "77.1.2.1",
        "77.1.3",
        "77.1.4",
        "77.1.4.1",  # visible light
        "77.1.5.1",
        "77.1.5.2",
        "77.1.5.4",  # ophthalmology
    )
)
"""SOP classes of images of a patient (PS3.4 B.5); everything else is left out by type."""
_SECONDARY = _STORAGE + "7"
_LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"})
_PAGES = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "DOSE_INFO", "REPORT", "PROTOCOL"})
_TEXT_CLASSES = frozenset(
    _STORAGE + tail
    for tail in ("3", "3.1", "6", "6.1", "6.2", "77.1.1", "77.1.1.1", "77.1.2.1", "77.1.4", "77.1.4.1")
)  # fmt: skip
"""Ultrasound, endoscopy and photographs: their screens carry the patient's name unless the header says NO."""
_TEXT_MODALITIES = frozenset({"US", "IVUS", "ES", "XC", "DG"})
_FILMED = frozenset({"DV", "DF", "DI", "SD", "SI", "DRW"})
"""ConversionType of digitised video and film, scanned documents, drawings (PS3.3 C.8.6.1): labels come along."""
_FILM_DIGITISERS = ("VIDAR", "LUMISYS", "HOWTEK", "ICAD", "ARRAY CORP", "KODAK LUMISYS", "CANON FILM", "R2 TECHNOLOGY")
"""Makers of film digitisers and of computer aids that write into the picture."""
_CLEAN_BY_NATURE = frozenset({"CT", "MR", "PT", "NM"})
"""Cross sections come from a reconstruction, not from a screen; text is looked for in all else."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a picture came to be, as far as the header tells.

    Attributes:
        image_type: Values of ImageType, upper case.
        burned_in: BurnedInAnnotation, upper case.
        conversion: ConversionType, upper case.
        synthetic: Whether the object is marked as generated.
        device: Manufacturer and model, upper case.
    """

    image_type: tuple[str, ...] = ()
    burned_in: str = ""
    conversion: str = ""
    synthetic: bool = False
    device: str = ""


def screen(facts: Facts, provenance: Provenance, settings: IngestSettings, *, cleared: bool = False) -> None:
    """Let an image of the study pass, its type apart (`screen_type`).

    Args:
        facts: Its header.
        provenance: How it came to be.
        settings: What the plan asks for.
        cleared: A human has looked at the picture and found no text that identifies.

    Raises:
        ScanRefused: With the first reason that applies, in the order inclusion, identity, burned-in text.
    """
    _screen_inclusion(facts, settings)
    patient = PatientId.read(facts.patient_id, facts.issuer)
    if not patient.id:
        raise ScanRefused(Reason.NO_PATIENT_ID)
    if patient.damaged:
        raise ScanRefused(Reason.DAMAGED_PATIENT_ID)
    if not cleared and says_text(facts, provenance):
        raise ScanRefused(Reason.BURNED_IN)


def says_text(facts: Facts, provenance: Provenance) -> bool:
    """Return whether the header says, or its device implies, that there may be text in the picture.

    The one header value that vouches for a picture of a kind that usually carries text is BurnedInAnnotation NO.
    """
    if provenance.burned_in == "YES":
        return True
    if provenance.burned_in == "NO":
        return False
    screens = facts.sop_class in _TEXT_CLASSES or facts.modality in _TEXT_MODALITIES
    filmed = provenance.conversion in _FILMED or provenance.device.startswith(_FILM_DIGITISERS)
    return screens or filmed


def may_hold_text(facts: Facts) -> bool:
    """Return whether text is worth looking for in a picture that its header calls clean."""
    return facts.modality not in _CLEAN_BY_NATURE


def screen_type(facts: Facts, provenance: Provenance) -> None:
    """Let an object that is an image of a patient pass.

    Raises:
        ScanRefused: `synthetic`, `secondary_capture`, `unsupported_object` or `localizer`.
    """
    if provenance.synthetic:
        raise ScanRefused(Reason.SYNTHETIC)
    if facts.sop_class == _SECONDARY or facts.sop_class.startswith(_SECONDARY + "."):
        raise ScanRefused(Reason.SECONDARY_CAPTURE)
    if facts.sop_class not in IMAGE_CLASSES:
        raise ScanRefused(Reason.UNSUPPORTED_OBJECT)
    kinds = frozenset(provenance.image_type)
    if kinds & _LOCALIZERS:
        raise ScanRefused(Reason.LOCALIZER)
    if kinds & _PAGES:
        raise ScanRefused(Reason.SECONDARY_CAPTURE)


def _screen_inclusion(facts: Facts, settings: IngestSettings) -> None:
    if settings.modality and facts.modality not in settings.modality:
        raise ScanRefused(Reason.WRONG_MODALITY)
    if settings.body_parts and facts.body_part not in settings.body_parts:
        raise ScanRefused(Reason.WRONG_BODY_PART)
    if settings.views and facts.view not in settings.views:
        raise ScanRefused(Reason.WRONG_VIEW)
    if min(facts.rows, facts.columns) < settings.min_side:
        raise ScanRefused(Reason.TOO_SMALL)
