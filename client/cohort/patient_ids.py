"""What a PatientID says: the id itself, who issued it, and whether it can name a person at all.

One rule for headers, `labels.csv`, `merges.csv` and `wardround site withdraw` (docs/admission.md, "Who is who"). It is
free of pydicom, so that decoders and commands share it.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Self

REPLACEMENT = "\ufffd"
"""What a decoder puts where it lost a letter."""
_CHECK_DIGIT = re.compile(r"\d{0,2}")
_SCHEMES = frozenset({"", "M10", "M11", "ISO", "BCV", "NPI"})
"""HL7 v2 table 0061, check digit schemes."""
_NOBODY = re.compile(
    r"(de|un)?identified|anon(ym(ous|i[sz]ed)?)?(id|patient)?|deid|dummy|empty|id|mrn|na|nil|no(id|body|patient|ne|name)?|"
    r"null|patient(id)?|phantom|removed|test(patient)?|tbd|un(defined|known|bekannt|named)|unbekannt|void|x+"
)
"""Words that stand where an id should, without signs and in lower case."""


@dataclass(frozen=True, kw_only=True)
class PatientId:
    """A PatientID in the one form that keys are made of.

    Attributes:
        id: The id: composed letters (NFC), no blanks or NUL around it.
        issuer: Who issued it, upper case, one blank between words; "" if none is named.
        second: Another issuer that the same header names; "" without one.
    """

    id: str
    issuer: str = ""
    second: str = ""

    @classmethod
    def read(cls, text: str, issuer: str = "") -> Self:
        """Read PatientID and IssuerOfPatientID as they stand.

        A PatientID may be an HL7 v2 CX, `id^check digit^scheme^issuer&...^type`: then it names its issuer itself. Where
        IssuerOfPatientID names another one, that one counts, and this one is `second`.
        """
        plain, named = _without_padding(unicodedata.normalize("NFC", text)), _issuer(issuer)
        parts = [_without_padding(part) for part in plain.split("^")]
        if len(parts) < 2 or not _is_cx(parts):
            return cls(id=plain, issuer=named)
        own = _issuer(parts[3]) if len(parts) > 3 else ""
        return cls(id=parts[0], issuer=named or own, second=own if named and own != named else "")

    @property
    def damaged(self) -> bool:
        """Whether letters were lost before the file came here, so that the owner of the id is unknown."""
        return REPLACEMENT in self.id or REPLACEMENT in self.issuer

    @property
    def undecodable(self) -> bool:
        """Whether its bytes are no text in the character set that the header names; it is then known by its bytes."""
        return any("\udc80" <= letter <= "\udcff" for letter in self.id + self.issuer)

    @property
    def placeholder(self) -> bool:
        """Whether it looks like what stands in for an id: a word for no person, or one letter or digit repeated."""
        core = self.loose
        if core in ("", "0") or _NOBODY.fullmatch(core):
            return True
        return len(core) > 2 and len(set(core)) == 1

    @property
    def loose(self) -> str:
        """The id's letters and digits alone, in one case, without leading zeros: what typing errors seldom change."""
        core = "".join(letter for letter in self.id.casefold() if letter.isalnum() or letter > "\ud7ff")
        return core.lstrip("0") or core[:1]


def of_bytes(raw: bytes, text: str) -> str:
    """Return an id as text that loses nothing: `text`, or where that has lost letters of `raw`, the bytes themselves.

    Args:
        raw: The value as it lies in the file.
        text: The same, decoded by the character set that the header names.
    """
    if REPLACEMENT not in text or REPLACEMENT.encode() in raw:
        return text
    return raw.decode("ascii", "surrogateescape")


def _without_padding(text: str) -> str:
    """Blanks and NUL around a value are padding (PS3.5 6.2, VR LO)."""
    return text.strip().strip("\0").strip()


def _issuer(text: str) -> str:
    """An issuer's name: the first part of an HL7 HD (`name&id&type`), or the second where the first is empty."""
    parts = unicodedata.normalize("NFC", _without_padding(text)).split("&")
    name = next((part for part in parts[:2] if part.strip()), "")
    return " ".join(name.replace("\0", " ").split()).upper()


def _is_cx(parts: list[str]) -> bool:
    """Whether the parts of an id are those of a CX and not, say, of a name."""
    check, scheme = parts[1], parts[2] if len(parts) > 2 else ""
    return bool(_CHECK_DIGIT.fullmatch(check)) and scheme.upper() in _SCHEMES
