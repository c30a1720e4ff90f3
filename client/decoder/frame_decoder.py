"""One compressed frame to its values: pydicom's decoders, then the sign, the bits and the colour that are true of it.

Header and codestream often disagree. What the decoder gives follows the codestream; what the header says then applies
to it as far as the standard lets it.

Source:
    PS3.5 8.1.1 (bits above the stored ones are no pixel data), 8.2 (codestream and header), PS3.3 C.7.6.3.1.2 (colour).
"""

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, JPEGLSNearLossless

from client.admission.reasons import Reason
from client.decoder import classic_jpeg, fragments, sample_bits
from client.decoder.codestream import JPEG_XL, Codestream, read_codestream
from client.dicom.pixels import Stored
from client.dicom.tags import value_of
from common.errors import ScanRefused

GREY = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
COLOUR = frozenset(
    {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"}
)
_HALVED = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"})
_CHARLS = "pyjpegls"
"""The decoder of JPEG-LS that refuses damage; pylibjpeg, which pydicom would try in its place, paints over it."""
_START_OF_IMAGE = b"\xff\xd8"
_BLACK, _SPAN = 16, 219
"""Digital black of YBR_PARTIAL, and how far white lies above it (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        values: [rows, columns], or [rows, columns, 3] RGB.
        photometric: MONOCHROME1, MONOCHROME2, PALETTE COLOR or RGB.
        lossy: Whether the values are only near to those that were encoded.
        white: The value of white, of each colour of RGB; 0 for grey and for indices, which have none.
    """

    values: Stored
    photometric: str
    lossy: bool = False
    white: int = 0


def decode(encapsulated: bytes, dataset: Dataset, syntax: UID, *, photometric: str) -> Frame:
    """Decode one frame.

    Args:
        encapsulated: The frame as `fragments.encapsulated` returns it.
        dataset: The header.
        syntax: Its transfer syntax.
        photometric: Its photometric interpretation, one of `GREY` and `COLOUR`.

    Raises:
        ScanRefused: `contradictory_header`: the codestream has another size, or its colour or its bits cannot be told.
        Exception: Any error that the decoders raise on a broken stream.
    """
    stream = encapsulated[fragments.STREAM_AT :]
    code = read_codestream(stream)
    if code is not None:
        _check_size(code, dataset)
    if syntax in JPEG_XL:
        values = _by_imagecodecs("jpegxl_decode", stream, dataset)
        return _lossy(to_rgb(values, "RGB" if values.ndim == 3 else photometric, stored=int(dataset.BitsStored)))
    options = as_pixel_options(dataset, transfer_syntax_uid=syntax, pixel_keyword="PixelData", number_of_frames=1)
    if code is None and stream.startswith(_START_OF_IMAGE):
        raise ScanRefused(Reason.DECODE_FAILED)  # a JPEG whose head is damaged; GDCM ends the process on some
    if code is None:  # run-length coding, or nothing that a decoder will take
        options["correct_unused_bits"] = not sample_bits.uncut(dataset, photometric)
        values, _ = get_decoder(syntax).as_array(encapsulated, index=0, raw=True, **options)
        if photometric in _HALVED:
            raise ScanRefused(Reason.CONTRADICTORY_HEADER)
        return to_rgb(values, photometric, stored=int(dataset.BitsStored))
    colour = photometric if code.samples == 1 else _colour(code, photometric)
    values = _values(encapsulated, syntax, _by_codestream(options, code), code)
    if code.lossy and photometric == "PALETTE COLOR":
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)  # a neighbouring index is another colour
    values = sample_bits.true_values(values, code, dataset, photometric=colour)
    frame = to_rgb(values, colour, stored=sample_bits.counted(code, dataset))
    return _lossy(frame) if code.lossy else frame


def _lossy(frame: Frame) -> Frame:
    return replace(frame, lossy=True)


def _values(encapsulated: bytes, syntax: UID, options: dict[str, Any], code: Codestream) -> Stored:
    """Return the values of a frame as its codestream holds them.

    Raises:
        ScanRefused: `truncated` or `decode_failed`.
        Exception: A decoder raises any on a broken stream.
    """
    if code.classic:
        return classic_jpeg.decode(encapsulated, get_decoder(syntax), options, code)
    found = {"decoding_plugin": _CHARLS} if code.jpeg_ls else {}
    decoder = get_decoder(JPEGLSNearLossless if code.jpeg_ls else syntax)
    values: Stored = decoder.as_array(encapsulated, index=0, raw=True, **options, **found)[0]
    return values


def to_rgb(values: Stored, photometric: str, *, stored: int) -> Frame:
    """Return a decoded frame with its colour, where it has any, as RGB.

    Of YCbCr wider than 8 bits only the luminance is kept, which is all that is made of colour.

    Args:
        values: [rows, columns] or [rows, columns, 3], no bit of which is cut off.
        photometric: What they are.
        stored: Bits of a sample that count.

    Raises:
        ScanRefused: `unsupported_colour`, or `contradictory_header`: colours need other bits.
    """
    if values.ndim == 2:
        return Frame(values=values, photometric=photometric)
    values = np.ascontiguousarray(values)  # conversions of fractions come out by how it lies in memory
    white = sample_bits.white(values, stored)
    if photometric == "RGB":
        return Frame(values=values, photometric="RGB", white=white)
    if photometric.startswith("YBR_PARTIAL") and values.dtype == np.uint8:
        full = np.clip((values[..., 0].astype(np.float64) - _BLACK) * (255 / _SPAN), 0, 255).round().astype(np.uint8)
        return Frame(values=np.repeat(full[..., None], 3, axis=-1), photometric="RGB", white=white)
    if not photometric.startswith("YBR_FULL"):
        raise ScanRefused(Reason.UNSUPPORTED_COLOUR)
    if values.dtype == np.uint8:
        return Frame(values=convert_color_space(values, "YBR_FULL", "RGB"), photometric="RGB", white=white)
    return Frame(values=np.repeat(values[..., :1], 3, axis=-1), photometric="RGB", white=white)


def _check_size(code: Codestream, dataset: Dataset) -> None:
    declared = [value_of(dataset, keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel")]
    found = [code.rows or declared[0], code.columns, code.samples]  # a JPEG may tell its height after its lines
    if found != declared:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)


def _colour(code: Codestream, photometric: str) -> str:
    """Return what the decoded components of a colour stream are: RGB or YBR_FULL.

    The marks of a stream (Adobe, component ids, JFIF, subsampled chroma) count before the header's tag.
    """
    if code.transformed:
        return "RGB"
    if code.colour == "RGB":
        return "RGB"
    if code.discrete_cosine:
        plain = photometric == "RGB" and not code.subsampled and not code.colour
        return "RGB" if plain else "YBR_FULL"
    if photometric in _HALVED and not code.subsampled:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    # chroma of JPEG 2000's own transforms has a sign and does not fit: without the transform the components are RGB
    return "YBR_FULL" if photometric.startswith("YBR_FULL") else "RGB"


def _by_codestream(options: dict[str, Any], code: Codestream) -> dict[str, Any]:
    """Return decoding options by which the decoder's bytes come back as they are."""
    cell = 8 if code.precision <= 8 else 16 if code.precision <= 16 else 32
    raw = dict.fromkeys(("apply_j2k_sign_correction", "apply_jls_sign_correction", "correct_unused_bits"), False)
    return {
        **options, **raw, "planar_configuration": 0, "bits_allocated": cell, "bits_stored": code.precision,
        "pixel_representation": int(code.signed),
        "photometric_interpretation": "MONOCHROME2" if code.samples == 1 else "RGB",
    }  # fmt: skip


def _by_imagecodecs(name: str, stream: bytes, dataset: Dataset) -> Stored:
    # loaded when first needed: it is large, and few files need it
    values: Stored = getattr(importlib.import_module("imagecodecs"), name)(stream)
    shape = (int(dataset.Rows), int(dataset.Columns), *((3,) if dataset.SamplesPerPixel == 3 else ()))
    if values.shape != shape:
        raise ScanRefused(Reason.CONTRADICTORY_HEADER)
    return values
