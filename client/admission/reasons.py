"""Every reason why a file is not admitted, with the sentence a data steward reads."""

from enum import StrEnum


class Reason(StrEnum):
    """One short code for each way out of admission; safe to count and to show, never a patient identifier.

    A file has exactly one reason: the first one met in the order folder, bytes, header, type, inclusion, pixels,
    cohort. `EXPLAINED` has the sentence for people.
    """

    SYMLINK = "symlink"
    NOT_REGULAR = "not_regular"
    UNREADABLE = "unreadable"
    NOT_DICOM = "not_dicom"
    POLYGLOT = "polyglot"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    CONTRADICTORY_HEADER = "contradictory_header"
    TOO_DEEP = "too_deep"
    ABSURD_SIZE = "absurd_size"
    NO_PIXELS = "no_pixels"
    UNSUPPORTED_OBJECT = "unsupported_object"
    SECONDARY_CAPTURE = "secondary_capture"
    MONTAGE = "montage"
    FOR_PROCESSING = "for_processing"
    LOCALIZER = "localizer"
    SYNTHETIC = "synthetic"
    WRONG_MODALITY = "wrong_modality"
    WRONG_BODY_PART = "wrong_body_part"
    WRONG_VIEW = "wrong_view"
    TOO_SMALL = "too_small"
    WRONG_UNIT = "wrong_unit"
    NO_PATIENT_ID = "no_patient_id"
    DAMAGED_PATIENT_ID = "damaged_patient_id"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    UNSUPPORTED_COLOUR = "unsupported_colour"
    DECODE_FAILED = "decode_failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    CONSTANT_IMAGE = "constant_image"
    BURNED_IN = "burned_in"
    TEXT_FOUND = "text_found"
    UID_CLASH = "uid_clash"
    SHARED_PICTURE = "shared_picture"
    DROPPED = "dropped"
    DUPLICATE = "duplicate"
    UNLABELLED = "unlabelled"
    CONTRADICTORY_LABEL = "contradictory_label"


EXPLAINED = {
    Reason.SYMLINK: "a link that leaves the folder, loops or points at a folder",
    Reason.NOT_REGULAR: "a device, FIFO or socket",
    Reason.UNREADABLE: "the operating system refuses to open the file",
    Reason.NOT_DICOM: "neither a DICOM prefix nor the start of a DICOM data set",
    Reason.POLYGLOT: "the preamble makes the file a program, script, archive or document as well",
    Reason.TRUNCATED: "the file ends before its own lengths say so",
    Reason.MALFORMED: "the header breaks the DICOM encoding",
    Reason.CONTRADICTORY_HEADER: "the header contradicts itself or the pixel data; what it shows cannot be known",
    Reason.TOO_DEEP: "sequences are nested deeper than any real object",
    Reason.ABSURD_SIZE: "rows, columns, frames or file size beyond the caps",
    Reason.NO_PIXELS: "a DICOM object without pixel data",
    Reason.UNSUPPORTED_OBJECT: "not an image of a patient (report, segmentation, dose, plan, state ...)",
    Reason.SECONDARY_CAPTURE: "a secondary capture, screenshot or dose page",
    Reason.MONTAGE: "several slices tiled into one picture",
    Reason.FOR_PROCESSING: "raw detector data (FOR PROCESSING), not a picture for people",
    Reason.LOCALIZER: "a scout or localizer",
    Reason.SYNTHETIC: "marked as a synthetic image",
    Reason.WRONG_MODALITY: "a modality the plan does not ask for",
    Reason.WRONG_BODY_PART: "a body part the plan does not ask for",
    Reason.WRONG_VIEW: "a view or projection the plan does not ask for",
    Reason.TOO_SMALL: "fewer rows or columns than the plan asks for",
    Reason.WRONG_UNIT: "its values are not in the unit of the plan's window (HU for CT, SUV for PET)",
    Reason.NO_PATIENT_ID: "no PatientID, so no patient's privacy budget can pay for it",
    Reason.DAMAGED_PATIENT_ID: "letters of the PatientID were lost before it came here, so it may be of two people",
    Reason.UNSUPPORTED_SYNTAX: "a transfer syntax without an installed decoder",
    Reason.UNSUPPORTED_COLOUR: "a colour space that cannot be brought to grey",
    Reason.DECODE_FAILED: "the pixel data cannot be decoded",
    Reason.TIMED_OUT: "decoding took longer than the limit",
    Reason.CRASHED: "the decoder process died or ran out of memory on this file",
    Reason.CONSTANT_IMAGE: "all pixels are equal, before or after the window",
    Reason.BURNED_IN: "the header says or implies text in the picture; waits for a human",
    Reason.TEXT_FOUND: "text was read in the picture; waits for a human",
    Reason.UID_CLASH: "two patients' images bear one SOP instance UID; both count until a human drops one",
    Reason.SHARED_PICTURE: "two patients have one picture; it counts for both until a human drops one",
    Reason.DROPPED: "a human dropped it from quarantine",
    Reason.DUPLICATE: "same pixels or same SOP instance UID as a file of the same patient that was admitted",
    Reason.UNLABELLED: "no label of the plan applies",
    Reason.CONTRADICTORY_LABEL: "labels.csv gives it two labels",
}
"""What each reason means, for people."""

QUARANTINE = frozenset({Reason.BURNED_IN, Reason.TEXT_FOUND})
"""Reasons that set a file aside for `wardround site quarantine` in place of refusing it."""

NOTICED = (Reason.UID_CLASH, Reason.SHARED_PICTURE)
"""Reasons to show a file that counts to a human: to take it out would let one patient's files remove another's."""
