"""SOP classes of images of a patient, and what each kind of them can be trusted with (PS3.4 B.5)."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."


def _classes(*tails: str) -> frozenset[str]:
    return frozenset(_STORAGE + tail for tail in tails)


SECONDARY = _STORAGE + "7"
"""Secondary capture; its multi-frame forms lie below it."""
RADIOGRAPHS = _classes("1", "1.1", "1.2", "1.3", "13.1.1", "13.1.2", "13.1.3", "13.1.4")
"""CR, DX, mammography, intra-oral, 3D X-ray, tomosynthesis and its projections."""
FOR_PROCESSING = _classes("1.1.1", "1.2.1", "1.3.1", "13.1.5", "14.2")
"""Raw forms of DX, mammography, intra-oral, tomosynthesis projections and intravascular tomography."""
ANGIOGRAPHY = _classes("12.1", "12.1.1", "12.2", "12.2.1", "12.3")
"""X-ray angiography and fluoroscopy, classic and enhanced, and the retired biplane form."""
CLASSIC_SECTIONS = _classes("2", "4", "20", "128")
"""CT, MR, nuclear medicine, PET as one image, or one series, an object."""
COMPUTED_TOMOGRAPHY = _classes("2", "2.1", "2.2")
"""CT, enhanced and legacy converted CT."""
POSITRON_EMISSION = _classes("128", "128.1", "130")
"""PET, legacy converted and enhanced PET."""
ENHANCED_SECTIONS = _classes("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130")
"""The same as enhanced and legacy converted objects; 4.3 is MR in colour."""
ULTRASOUND = _classes("3", "3.1", "5", "6", "6.1", "6.2", "6.3")
"""Ultrasound multi-frame, single, volume, photoacoustic, and the retired forms; 5 is retired nuclear medicine."""
PHOTOGRAPHS = _classes("77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.3", "77.1.4", "77.1.4.1", "77.1.7")
"""Endoscopy, microscopy, photography and dermoscopy, still and in motion."""
SLIDES = _classes("77.1.6", "77.1.8", "77.1.9")
"""Whole-slide and confocal microscopy."""
EYES = _classes("77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.5.5", "77.1.5.6", "77.1.5.7")
"""Ophthalmic photography, also wide-field, and optical coherence tomography, also en face."""
VESSELS = _classes("14.1")
"""Intravascular optical coherence tomography for presentation."""

SECTIONS = CLASSIC_SECTIONS | ENHANCED_SECTIONS
IMAGES = RADIOGRAPHS | FOR_PROCESSING | ANGIOGRAPHY | SECTIONS | ULTRASOUND | PHOTOGRAPHS | SLIDES | EYES | VESSELS
"""Everything else is left out by type."""
GREY_ONLY = (RADIOGRAPHS | ANGIOGRAPHY | SECTIONS) - _classes("4.3", "20")
"""Classes whose IOD allows MONOCHROME1 and 2 alone; colour in them was drawn on a workstation."""
TEXT_SCREENS = _classes(
    "3", "3.1", "6", "6.1", "6.2", "6.3", "77.1.1", "77.1.1.1", "77.1.2.1", "77.1.4", "77.1.4.1", "77.1.7"
)  # fmt: skip
"""Ultrasound, endoscopy and photographs: their screens carry the patient's name unless the header says NO."""
