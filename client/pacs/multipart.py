"""The one object in a multipart/related answer, found by the ends of the message and not by what lies between them.

A sender must choose a boundary that its parts do not hold; many send the same one for ever, and one day pixels hold it.
One object is asked for at a time, so it is all that lies between the first header and the last closing line. Whether it
is whole is seen by its own elements (`client.pacs.elements`).

Source:
    RFC 2046 5.1 (multipart), RFC 2045 5.1 (parameters, quoted or not), PS3.18 8.6.1.2.1 (multipart/related).
"""

import re
from email.message import Message

from client.pacs.study import PacsAnswerInvalid, PacsUnreachable

_LINE, _DASHES = b"\r\n", b"--"
_LONGEST_HEAD = 1 << 16
"""Bytes that a preamble, and the header of the part, may take."""
_HEADER = rb"[!-9;-~]+:[^\r\n]*\r\n"
_PREFIX = rb".{128}DICM"


def only_object(content_type: str, body: bytes) -> bytes:
    """Return the one DICOM file of an answer.

    Where the boundary that the HTTP header names is not the one the body uses, the body's own counts: the same line
    must open and close it.

    Args:
        content_type: The answer's Content-Type.
        body: The whole of its body; a preamble and an epilogue are left out.

    Raises:
        PacsAnswerInvalid: Not multipart/related, without a part, or with several objects.
        PacsUnreachable: It ends before its closing line.
    """
    head = Message()
    head["Content-Type"] = content_type
    if head.get_content_type() != "multipart/related":
        raise PacsAnswerInvalid("the PACS sent an object that is not in multipart/related form")
    marker, place = _opening(body, (head.get_boundary() or "").encode("utf-8", "surrogateescape"))
    begin = body.find(2 * _LINE, place, place + _LONGEST_HEAD)
    end = body.rfind(_LINE + marker + _DASHES, place)
    if end < 0:
        # without a length and without the closing line nothing tells a whole object from half of one
        raise PacsUnreachable("the PACS broke off in the middle of an object")
    if not 0 <= begin <= end - 2 * len(_LINE):
        raise PacsAnswerInvalid("the PACS sent a multipart answer without an object in it")
    begin += 2 * len(_LINE)
    another = re.compile(_LINE + re.escape(marker) + rb"[ \t]*\r\n(?:" + _HEADER + rb")*\r\n" + _PREFIX, re.DOTALL)
    if another.search(body, begin, end):
        raise PacsAnswerInvalid("the PACS sent several objects where one was asked for")
    return body[begin:end]


def _opening(body: bytes, boundary: bytes) -> tuple[bytes, int]:
    """Return the line that parts the message, and where its first occurrence ends."""
    named = re.compile(rb"(?:\A|\r\n)(" + re.escape(_DASHES + boundary) + rb")[ \t]*(?=\r\n)") if boundary else None
    found = named.search(body, 0, _LONGEST_HEAD) if named else None
    if found is None:
        found = re.match(rb"(--[^\r\n]{1,128}?)[ \t]*(?=\r\n)", body)
    if found is None:
        raise PacsUnreachable("the PACS broke off before an object began")
    return found[1], found.end()
