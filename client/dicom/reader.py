"""One DICOM header, read with distrust: prefix, deflation, elements; where the pixels are, and not what they hold.

Runs in a decoder process. What goes wrong is raised as `ScanRefused` with one of `client.admission.reasons`; anything
else that escapes from here is a hostile file, and the process around it answers for that.
"""

import io
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.multival import MultiValue
from pydicom.uid import UID

from client.admission.reasons import Reason
from client.admission.scan import Facts
from client.cohort import patient_ids
from client.decoder.codestream import JPEG_XL
from client.dicom import tags
from client.dicom.tags import value_of
from common.errors import ScanRefused

StopWhen = Callable[[int, str | None, int], bool]

MAX_FILE_BYTES = 1 << 29

_PREFIX_END = 132
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_UNDEFINED = 0xFFFFFFFF
_GROUPS_WITHOUT_PREFIX = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_FOREIGN_MAGICS = (
    b"MZ",
    b"\x7fELF",
    b"#!",
    b"%PDF",
    b"%!PS",
    b"PK\x03\x04",
    b"\xca\xfe\xba\xbe",
    b"\xcf\xfa\xed\xfe",
    b"\xfe\xed\xfa",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"<?",
    b"<!",
    b"<html",
    b"<script",
    b"{\\rtf",
    b"\xd0\xcf\x11\xe0",
    b"Cr24",
    b"L\x00\x00\x00\x01\x14",
)
"""Starts of programs, scripts, archives, documents and web pictures; not of TIFF, which PS3.10 7.1 provides for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """An opened file whose header could be read and whose pixels have not been touched.

    Attributes:
        dataset: The elements before the pixel data that admission uses.
        source: The encoded object, inflated where it came deflated.
        syntax: Its transfer syntax; None where it names none.
        start: Where in `source` the value of the pixel data begins.
        available: Bytes of `source` from there on, or the declared length where that is less.
        keyword: `PixelData`, `FloatPixelData`, `DoubleFloatPixelData`; empty where there is none.
        vr: Value representation of that element; empty for implicit VR.
        declared: Its declared length, bytes; None for undefined.
    """

    dataset: Dataset
    source: io.BytesIO
    syntax: UID | None = None
    start: int = 0
    available: int = 0
    keyword: str = ""
    vr: str = ""
    declared: int | None = None


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ScanRefused: `not_regular`, or `absurd_size` above the cap.
        OSError: The file cannot be opened or read.
    """
    # what was a file when the folder was listed may be a FIFO or a link by now
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ScanRefused(Reason.NOT_REGULAR)
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ScanRefused(Reason.ABSURD_SIZE)
    return data


def parse_header(data: bytes, *, label_attribute: str = "") -> Header:
    """Read the header of an encoded object.

    Args:
        data: The whole object.
        label_attribute: Keyword of one more element to read.

    Raises:
        ScanRefused: `absurd_size`, `not_dicom`, `polyglot`, `truncated`, `malformed` or `too_deep`.
    """
    has_prefix = _check_start(data)
    seen: list[tuple[int, str, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if int(tag) in tags.PIXELS:
            seen.append((int(tag), vr or "", length))
        return bool(seen)

    wanted = tags.wanted_with(label_attribute)
    try:
        source = io.BytesIO(data)
        if has_prefix:
            source, syntax, dataset = _after_meta(source, at_pixels, wanted)
        else:
            dataset = read_partial(source, at_pixels, force=True, specific_tags=wanted)
            syntax = value_of(dataset.file_meta, "TransferSyntaxUID")
        return _locate_pixels(dataset, source, syntax, seen)
    except ScanRefused:
        raise
    except RecursionError:
        raise ScanRefused(Reason.TOO_DEEP) from None
    except EOFError:
        raise ScanRefused(Reason.TRUNCATED) from None
    except Exception as error:  # noqa: BLE001  a hostile header may raise anything at all
        raise ScanRefused(Reason.MALFORMED, f"malformed: {type(error).__name__}") from None


def _check_start(data: bytes) -> bool:
    """Return whether the DICOM prefix is there; refuse what is no DICOM, or something else besides."""
    has_prefix = data[_PREFIX_END - 4 : _PREFIX_END] == b"DICM"
    if not has_prefix and data[:2] not in _GROUPS_WITHOUT_PREFIX:
        raise ScanRefused(Reason.NOT_DICOM)
    if has_prefix and data.startswith(_FOREIGN_MAGICS):
        raise ScanRefused(Reason.POLYGLOT)
    return has_prefix


def _after_meta(source: io.BytesIO, at_pixels: StopWhen, wanted: list[int]) -> tuple[io.BytesIO, UID | None, Dataset]:
    """Read the file meta group, then the elements up to the pixel data.

    Returns:
        The encoded object (inflated, where it was deflated), its transfer syntax, and the elements.
    """
    source.seek(_PREFIX_END)
    meta = read_dataset(source, is_implicit_VR=False, is_little_endian=True, stop_when=_leaves_meta)
    syntax: UID | None = value_of(meta, "TransferSyntaxUID")
    if syntax in JPEG_XL:
        dataset = read_dataset(source, False, True, stop_when=at_pixels, specific_tags=wanted)
        return source, syntax, dataset
    if syntax is None or not syntax.is_transfer_syntax:
        source.seek(0)
        return source, syntax, read_partial(source, at_pixels, specific_tags=wanted)
    if syntax.is_deflated:
        source = io.BytesIO(_inflated(source.read()))
    dataset = read_dataset(source, is_implicit_VR=syntax.is_implicit_VR, is_little_endian=syntax.is_little_endian,
                           stop_when=at_pixels, specific_tags=wanted)  # fmt: skip
    return source, syntax, dataset


def _leaves_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != 2


def _inflated(body: bytes) -> bytes:
    """Undo the deflated transfer syntax within the size cap."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, MAX_FILE_BYTES)
    except zlib.error:
        raise ScanRefused(Reason.MALFORMED) from None
    if inflater.unconsumed_tail:
        raise ScanRefused(Reason.ABSURD_SIZE)
    if not inflater.eof:
        raise ScanRefused(Reason.TRUNCATED)
    return plain


def _locate_pixels(
    dataset: Dataset, source: io.BytesIO, syntax: UID | None, seen: list[tuple[int, str, int]]
) -> Header:
    """Say where the pixel data begins; `source` stands at its element, or at the end where there is none."""
    if not seen:
        return Header(dataset=dataset, source=source, syntax=syntax)
    tag, vr, length = seen[0]
    start = source.tell() + (12 if vr in _LONG_VRS else 8)
    rest = len(source.getbuffer()) - start
    declared = None if length == _UNDEFINED else length
    if declared is not None and declared > rest:
        raise ScanRefused(Reason.TRUNCATED)
    return Header(
        dataset=dataset, source=source, syntax=syntax, start=start, available=rest if declared is None else declared,
        keyword=tags.PIXELS[tag], vr=vr, declared=declared,
    )  # fmt: skip


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return an element as text, values joined by backslashes, blanks stripped; empty where absent."""
    value = value_of(dataset, keyword)
    if value is None:
        return ""
    return "\\".join(map(str, value)).strip() if isinstance(value, MultiValue) else str(value).strip()


def _id_of(dataset: Dataset, keyword: str) -> str:
    raw = tags.bytes_of(dataset, keyword)  # before `text_of`, which decodes it in place
    return patient_ids.of_bytes(raw, text_of(dataset, keyword))


def facts_of(header: Header, *, label_attribute: str = "") -> Facts:
    """Return the header values that admission decides on.

    Raises:
        ScanRefused: `malformed`: rows, columns or frames are no numbers, or a text is longer than any DICOM allows.
    """
    dataset = header.dataset
    try:
        return Facts.from_dict({
            "patient_id": _id_of(dataset, "PatientID"),
            "issuer": _id_of(dataset, "IssuerOfPatientID"),
            "born": text_of(dataset, "PatientBirthDate"),
            "sex": text_of(dataset, "PatientSex").upper(),
            "sop_uid": text_of(dataset, "SOPInstanceUID"),
            "sop_class": text_of(dataset, "SOPClassUID"),
            "modality": text_of(dataset, "Modality"),
            "body_part": text_of(dataset, "BodyPartExamined").upper(),
            "view": text_of(dataset, "ViewPosition").upper(),
            "label": text_of(dataset, label_attribute) if label_attribute else "",
            "rows": int(value_of(dataset, "Rows") or 0),
            "columns": int(value_of(dataset, "Columns") or 0),
            "frames": int(value_of(dataset, "NumberOfFrames") or 1),
        })  # fmt: skip
    except Exception as error:  # noqa: BLE001  values are converted here, and hostile ones raise anything
        raise ScanRefused(Reason.MALFORMED, f"malformed: {type(error).__name__}") from None
