"""Which DICOM attributes may say an image's class: a short list, and those that the site's own `site.toml` names.

A plan may name any keyword, and its coordinator writes the values it asks for. So no value of the attribute may single
out a patient. `HARMLESS` are codes (VR CS) from short lists of the standard, which say how an image was made, of which
part, or the patient's sex: many patients share each value. Free text (StudyDescription) may hold anything, and a number
(PatientAge) is rarer: only the archive's steward can tell whether these are harmless, and names them in
`limits.label_attributes`. No site may name an attribute that identifies a patient, a person or an object.
"""

import re

HARMLESS = frozenset(
    {
        "BodyPartExamined",
        "ImageLaterality",
        "Laterality",
        "MRAcquisitionType",
        "Modality",
        "PatientPosition",
        "PatientSex",
        "PresentationIntentType",
        "ScanningSequence",
        "ViewPosition",
    }
)
"""Keywords that every site takes labels from."""
_SHORT = frozenset({"AS", "CS", "DS", "IS", "LO", "SH"})
"""Value representations of codes, short texts and numbers. Names, dates, times, UIDs and long texts have others."""
_PATIENT, _VISIT = 0x0010, 0x0038
"""Groups of DICOM elements that say who the patient is, and of which stay."""
_OF_MANY = frozenset({"EthnicGroup", "PatientAge", "PatientSex", "PatientSexNeutered", "SmokingStatus"})
"""What of the patient's group many patients share."""
_NAMES_ONE = re.compile(
    r"(IDs?|Numbers?)(?![a-z])|Identif|Issuer|Person|Physician|Operator|Address|Telephone|Comment|Author|Creator"
)
"""Parts of keywords whose values stand for one patient, person or object, or are remarks."""


def allowed(keyword: str, own: tuple[str, ...]) -> bool:
    """Whether labels may come from this attribute at a site whose `site.toml` names the attributes `own`."""
    return not keyword or keyword in HARMLESS or keyword in own


def identifies(keyword: str) -> bool:
    """Whether no site may take labels from this attribute: it may tell one patient from all others, or is unknown."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword  # not needed by the daemon's small processes

    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) not in _SHORT or _NAMES_ONE.search(keyword):
        return True
    return tag >> 16 in (_PATIENT, _VISIT) and keyword not in _OF_MANY
