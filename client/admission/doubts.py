"""What a data steward should look at although no file is left out for it: ids and files that do not fit together."""

from enum import StrEnum


class Doubt(StrEnum):
    """One short code for each kind of doubt about who is who; safe to count and to show, never an identifier."""

    ISSUER_MISSING = "issuer_missing"
    ISSUERS_JOINED = "issuers_joined"
    TWO_ISSUERS = "two_issuers"
    PLACEHOLDER_ID = "placeholder_id"
    SEVERAL_PEOPLE = "several_people"
    ALIKE_IDS = "alike_ids"
    UNDECODABLE_ID = "undecodable_id"
    UID_CLASH = "uid_clash"
    SHARED_PICTURE = "shared_picture"


TOLD = {
    Doubt.ISSUER_MISSING: "an id with IssuerOfPatientID in some files and without in others; it counts as one patient",
    Doubt.ISSUERS_JOINED: "an id of several issuers that stands without one, too; all its files count as one patient. "
    "Name the issuer in the files, and they part",
    Doubt.TWO_ISSUERS: "a header that names two issuers (PatientID is an HL7 CX); both are one patient",
    Doubt.PLACEHOLDER_ID: "an id that looks like none (ANONYMOUS, 0 ...); all its files count as one patient. "
    "Give each patient an id",
    Doubt.SEVERAL_PEOPLE: "one patient with several birth dates or sexes; several people count as one. "
    "Mend the ids, or the line of merges.csv",
    Doubt.ALIKE_IDS: "ids that differ only in case, blanks, signs or leading zeros; they count as two patients. "
    "If they are one, name them in merges.csv",
    Doubt.UNDECODABLE_ID: "an id that is no text in its character set; it is distinguished by its bytes. "
    "Check SpecificCharacterSet",
    Doubt.UID_CLASH: "two patients' images with one SOP instance UID; both count. If they are one person, name them in "
    "merges.csv, else `wardround site quarantine drop` the wrong one",
    Doubt.SHARED_PICTURE: "one picture of two patients; it counts for both. If they are one person, name them in "
    "merges.csv, else `wardround site quarantine drop` the wrong one",
}
"""What each doubt means and what to do, for people."""
DOUBTS_TITLE = "to look at: who is who"
