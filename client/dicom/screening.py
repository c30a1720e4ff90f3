"""Which objects may enter a study: by type, by the plan's inclusion rules, by what their header says of text."""

import re

from client.admission.reasons import Reason
from client.admission.scan import Facts
from client.admission.settings import IngestSettings
from client.cohort.patient_ids import PatientId
from client.dicom import sop_classes
from client.dicom.provenance import Provenance
from common.errors import ScanRefused

_LOCALIZERS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW")
_MONTAGES = ("MOSAIC", "MONTAGE")
_PAGES = re.compile(
    r"SCREEN[ _-]?(SAVE|SHOT|CAP|GRAB|DUMP)|DOSE[ _-]?(INFO|SHEET)|REPORT|SUMMARY|PROTOCOL|(?<![A-Z])PROT(?![A-Z])"
)
"""Anywhere in ImageType: pages that a scanner or workstation writes as images (CT_SOM5 PROT, CSA REPORT, ...)."""
_PAGE_SERIES = re.compile(
    r"SCREEN[ _-]?(SAVE|SHOT|CAP)|DOSE[ _-]?(INFO|REPORT|RECORD|SHEET|SUMMARY)|(PATIENT|EXAM)[ _-]?PROTOCOL"
)
"""In SeriesDescription the same words are a hint that a human decides on."""
_SLIDE_LABELS = frozenset({"LABEL", "OVERVIEW"})
"""Pictures of the glass slide's label, where the patient's name is written, alone or next to the tissue."""
_COLOURS = ("RGB", "YBR", "PALETTE", "HSV", "ARGB", "CMYK", "XYB")
"""Starts of the photometric interpretations that are no grey scale."""
_TEXT_MODALITIES = frozenset({"US", "IVUS", "ES", "XC", "DG"})
_FILM_DIGITISERS = ("VIDAR", "LUMISYS", "HOWTEK", "ICAD", "ARRAY CORP", "KODAK LUMISYS", "CANON FILM", "R2 TECHNOLOGY")
"""Makers of film digitisers and of computer aids that write into the picture."""


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

    BurnedInAnnotation NO vouches for a picture of a kind that usually carries text. It does not vouch for one that
    contradicts its class: the writer of a screen into a CT object also wrote the NO of the CT.
    """
    if provenance.burned_in == "YES" or _not_of_its_class(facts, provenance):
        return True
    if provenance.burned_in == "NO":
        return False
    screens = facts.sop_class in sop_classes.TEXT_SCREENS or facts.modality in _TEXT_MODALITIES
    drawn = bool(provenance.conversion) or provenance.captured or bool(_PAGE_SERIES.search(provenance.series))
    return screens or drawn or provenance.device.startswith(_FILM_DIGITISERS)


def _not_of_its_class(facts: Facts, provenance: Provenance) -> bool:
    """Return whether a picture cannot have come from the device that its class stands for."""
    if facts.sop_class in sop_classes.GREY_ONLY and provenance.photometric.startswith(_COLOURS):
        return True
    if facts.sop_class in sop_classes.SECTIONS:
        # a secondary capture module in a cross section: the capture of a screen (PS3.3 C.8.6.1 is of another IOD)
        captured = bool(provenance.conversion) or provenance.captured or bool(_PAGE_SERIES.search(provenance.series))
        return captured or provenance.image_type[:2] == ("ORIGINAL", "SECONDARY")
    return facts.sop_class in sop_classes.SLIDES and bool(_SLIDE_LABELS & frozenset(provenance.image_type))


def screen_type(facts: Facts, provenance: Provenance) -> None:
    """Let an object that is an image of a patient pass.

    Raises:
        ScanRefused: `synthetic`, `secondary_capture`, `unsupported_object`, `for_processing`, `localizer` or
            `montage`.
    """
    if provenance.synthetic:
        raise ScanRefused(Reason.SYNTHETIC)
    if facts.sop_class == sop_classes.SECONDARY or facts.sop_class.startswith(sop_classes.SECONDARY + "."):
        raise ScanRefused(Reason.SECONDARY_CAPTURE)
    if facts.sop_class not in sop_classes.IMAGES:
        raise ScanRefused(Reason.UNSUPPORTED_OBJECT)
    if facts.sop_class in sop_classes.FOR_PROCESSING or "PROCESSING" in provenance.intent:
        raise ScanRefused(Reason.FOR_PROCESSING)
    kinds = "\\".join(provenance.image_type)
    if any(word in kinds for word in _LOCALIZERS):
        raise ScanRefused(Reason.LOCALIZER)
    if _PAGES.search(kinds):
        raise ScanRefused(Reason.SECONDARY_CAPTURE)
    # an enhanced object keeps the word after its tiles have become frames
    tiled = provenance.tiles > 1 or any(word in kinds for word in _MONTAGES)
    if facts.sop_class in sop_classes.CLASSIC_SECTIONS and tiled:
        raise ScanRefused(Reason.MONTAGE)


def _screen_inclusion(facts: Facts, settings: IngestSettings) -> None:
    if settings.modality and facts.modality not in settings.modality:
        raise ScanRefused(Reason.WRONG_MODALITY)
    if settings.body_parts and facts.body_part not in settings.body_parts:
        raise ScanRefused(Reason.WRONG_BODY_PART)
    if settings.views and facts.view not in settings.views:
        raise ScanRefused(Reason.WRONG_VIEW)
    if min(facts.rows, facts.columns) < settings.min_side:
        raise ScanRefused(Reason.TOO_SMALL)
