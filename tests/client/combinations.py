"""DICOM made from a known picture in every combination that the installed encoders can write, and what it must show.

The reference below works pixel by pixel from the standard's formulas; it shares no code with admission.
"""

import io
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
    RLELossless,
    UltrasoundImageStorage,
)

from tests.client.decoding import packed
from tests.client.scans import picture, scan

Values = NDArray[Any]

EXACT, LOSSY = 1e-4, 0.05
"""Largest error of a pixel where the codec is lossless; mean error of a picture where it is not; of a range of 2."""
SIDE = 40
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
WITH_LOSS = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
GREYS, COLOURS = ("MONOCHROME1", "MONOCHROME2"), ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT")
RESCALES = ("none", "2 -1000", "0.5 3", "-1 100", "table")
DISPLAYS = (
    "percentiles",
    "LINEAR",
    "LINEAR_EXACT",
    "SIGMOID",
    "second window",
    "voi lut",
    "plan pair",
    "plan percentile",
)
PADDINGS = ("none", "value", "range")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One combination.

    Attributes:
        photometric: Photometric interpretation.
        allocated: BitsAllocated.
        stored: BitsStored.
        signed: PixelRepresentation 1.
        rescale: Slope and intercept, none, or a modality LUT.
        display: What shows the picture: percentiles, a window of the file, a VOI LUT, or the plan's window.
        padding: Padding value, or range.
        frames: Number of frames.
        syntax: Transfer syntax.
    """

    photometric: str
    allocated: int
    stored: int
    signed: bool
    rescale: str
    display: str
    padding: str
    frames: int
    syntax: str

    @property
    def lossy(self) -> bool:
        """Whether the encoder loses values."""
        return self.syntax in WITH_LOSS

    @property
    def window(self) -> str | tuple[float, float]:
        """The plan's window."""
        if self.display == "plan pair":
            low, high = self.outputs if self.photometric in GREYS else (0.0, 255.0)
            return ((low + high) / 2, high - low)
        return "percentile" if self.display == "plan percentile" else "dicom"

    @property
    def lowest(self) -> int:
        """The lowest stored value."""
        return -(1 << (self.stored - 1)) if self.signed else 0

    @property
    def outputs(self) -> tuple[float, float]:
        """Lowest and highest value after the modality step."""
        ends = modality(np.array([self.lowest, self.lowest + (1 << self.stored) - 1]), self)
        return float(ends.min()), float(ends.max())

    @property
    def valid(self) -> bool:
        """Whether the standard and the encoders allow it."""
        if self.photometric in GREYS:
            return self._grey_valid
        plain = (self.allocated, self.stored, self.signed, self.rescale, self.padding) == (8, 8, False, "none", "none")
        shows = self.display in ("percentiles", "plan pair", "plan percentile")
        encodable = {
            "PALETTE COLOR": (*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless),
            "RGB": (*NATIVE, *LOSSLESS, JPEGBaseline8Bit, JPEG2000, JPEGLSNearLossless),
            "YBR_FULL": (*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit),
            "YBR_FULL_422": (*NATIVE, JPEGBaseline8Bit),
            "YBR_RCT": (JPEG2000Lossless, HTJ2KLossless),
        }[self.photometric]
        return plain and shows and self.syntax in encodable

    @property
    def _grey_valid(self) -> bool:
        if self.stored > self.allocated or (self.allocated == 8) != (self.stored == 8):
            return False
        table = self.rescale == "table"
        if table and (self.stored > 12 or self.signed):
            return False
        if self.stored == 32:
            return self.syntax in NATIVE and self.padding == "none" and not table and self.display != "voi lut"
        if self.syntax == JPEGBaseline8Bit:
            return self.stored == 8 and not self.signed
        if self.syntax == JPEGExtended12Bit:
            return self.stored == 12 and not self.signed
        return not (self.lossy and self.signed)  # encoders other than JPEG 2000's know no sign, and loss would wrap it


def all_specs() -> Iterator[Spec]:
    """Yield every valid combination."""
    syntaxes = (*NATIVE, *LOSSLESS, *WITH_LOSS)
    bits = ((8, 8), (16, 10), (16, 12), (16, 16), (32, 32))
    axes = itertools.product(
        (*GREYS, *COLOURS), bits, (False, True), RESCALES, DISPLAYS, PADDINGS, (1, 3), syntaxes
    )  # fmt: skip
    for photometric, (allocated, stored), signed, rescale, display, padding, frames, syntax in axes:
        spec = Spec(
            photometric=photometric, allocated=allocated, stored=stored, signed=signed, rescale=rescale,
            display=display, padding=padding, frames=frames, syntax=syntax,
        )  # fmt: skip
        if spec.valid:
            yield spec


# --- the picture and what it must look like ---


def known(spec: Spec, frame: int) -> Values:
    """The stored values of one frame; padding is a block in a corner."""
    unit = picture(60 + frame, rows=SIDE, columns=SIDE, bits=16).astype(np.float64) / 65535
    if spec.photometric not in GREYS:
        x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
        red, green = unit * 200 + 20, 40 + 3.0 * x + frame * 20
        colour = np.stack([red, green, 220 - 4.0 * y], axis=-1).round().astype(np.uint8)
        smooth = np.repeat(colour[:, ::2], 2, axis=1)  # half the chroma tells all of it
        return np.rint(unit * 255).astype(np.int64) if spec.photometric == "PALETTE COLOR" else smooth.astype(np.int64)
    top = (1 << spec.stored) - 1
    room = max(12, top // 8) if spec.padding != "none" else 0
    values = np.rint(spec.lowest + room + unit * (top - room)).astype(np.int64)
    if spec.padding != "none":
        values[:10, :10] = spec.lowest
        if spec.padding == "range":
            values[:5, :10] = spec.lowest + 5
    return values


def modality(values: Values, spec: Spec) -> Values:
    """Modality values."""
    if spec.rescale == "table":
        return np.asarray(_curve(values, spec), dtype=np.float64)
    slope, intercept = (1.0, 0.0) if spec.rescale == "none" else map(float, spec.rescale.split())
    return values * slope + intercept


def _curve(values: Values, spec: Spec) -> Values:
    return np.rint(4000 * np.sqrt(np.asarray(values) / ((1 << spec.stored) - 1)))


def _voi(spec: Spec) -> tuple[float, float]:
    low, high = spec.outputs
    return float(round((low + high) / 2)), float(max(4, round((high - low) * 0.9)))


def expected(spec: Spec, frame: int) -> Values:
    """[rows, columns] in [-1, 1] that the cache must hold."""
    values = known(spec, frame)
    padding = np.zeros(values.shape[:2], dtype=bool)
    if spec.photometric in GREYS:
        shown = modality(values, spec)
        if spec.padding != "none":
            padding = values <= spec.lowest + (5 if spec.padding == "range" else 0)
    else:
        colour = np.stack([255 - values] * 3, axis=-1) if spec.photometric == "PALETTE COLOR" else values
        shown = ((colour @ np.array([299, 587, 114]) + 500) // 1000).astype(np.float64)
    unit = np.clip(_displayed(shown, padding, spec), -1, 1)
    if spec.photometric == "MONOCHROME1":
        unit = -unit
    unit[padding] = -1
    return unit


def _displayed(shown: Values, padding: Values, spec: Spec) -> Values:
    """Formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if isinstance(spec.window, tuple):
        return (shown - spec.window[0]) * 2 / spec.window[1]
    if spec.display in ("percentiles", "plan percentile"):
        if spec.photometric not in GREYS and spec.display == "percentiles":
            return shown / 127.5 - 1
        low, high = np.percentile(shown[~padding], [1, 99], method="inverted_cdf")
        return (shown - low) * 2 / (high - low) - 1
    centre, width = _voi(spec)
    if spec.display == "voi lut":
        first, entries = _voi_table(spec)
        return entries[np.clip(np.rint(shown) - first, 0, len(entries) - 1).astype(int)] * 2 / 4095 - 1
    if spec.display == "LINEAR_EXACT":
        return (shown - centre) * 2 / width
    if spec.display == "SIGMOID":
        return 2 / (1 + np.exp(-4 * (shown - centre) / width)) - 1
    return (shown - (centre - 0.5)) * 2 / (width - 1)


def _voi_table(spec: Spec) -> tuple[int, Values]:
    """A rising table over (at most 60,000 of) the modality values."""
    low, high = spec.outputs
    first = int(np.ceil(low))
    count = int(min(60_000, high - low + 1))
    return max(first, -32768), np.rint(np.linspace(0, 1, count) ** 2 * 4095).astype(np.int64)


# --- the file ---


def make(spec: Spec) -> Dataset:
    """The file of a combination."""
    frames = [known(spec, number) for number in range(spec.frames)]
    colour = frames[0].ndim == 3
    cell = np.dtype(f"{'i' if spec.signed else 'u'}{spec.allocated // 8}")
    dataset = scan(
        frames[0].astype(cell), SOPClassUID=MRImageStorage, Modality="MR", PhotometricInterpretation=spec.photometric,
        BitsStored=spec.stored, HighBit=spec.stored - 1,
    )  # fmt: skip
    if spec.frames > 1:
        dataset.NumberOfFrames = spec.frames
    if spec.photometric not in GREYS:
        dataset.SOPClassUID, dataset.Modality, dataset.BurnedInAnnotation = UltrasoundImageStorage, "US", "NO"
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PlanarConfiguration = 0
    _show(dataset, spec)
    _fill(dataset, spec, [frame.astype(cell) for frame in frames])
    return dataset


def _show(dataset: Dataset, spec: Spec) -> None:
    if spec.photometric == "PALETTE COLOR":
        for name in ("Red", "Green", "Blue"):
            dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            words = (255 - np.arange(256, dtype=_order(spec, "u2"))) * 257
            setattr(dataset, f"{name}PaletteColorLookupTableData", words.astype(_order(spec, "u2")).tobytes())
        return
    if spec.photometric not in GREYS:
        return
    if spec.rescale == "table":
        del dataset.RescaleSlope, dataset.RescaleIntercept
        item = _lut(0, _curve(np.arange(1 << spec.stored), spec).astype(np.int64))
        item.ModalityLUTType = "US"
        dataset.ModalityLUTSequence = [item]
    elif spec.rescale != "none":
        dataset.RescaleSlope, dataset.RescaleIntercept = spec.rescale.split()
    if spec.display in ("LINEAR", "LINEAR_EXACT", "SIGMOID", "second window"):
        centre, width = _voi(spec)
        twice = spec.display == "second window"
        dataset.WindowCenter = [5, centre] if twice else centre
        dataset.WindowWidth = [0, width] if twice else width
        dataset.VOILUTFunction = "LINEAR" if twice else spec.display
    elif spec.display == "voi lut":
        dataset.VOILUTSequence = [_lut(*_voi_table(spec))]
    if spec.padding != "none":
        vr = "SS" if spec.signed else "US"
        dataset.add_new("PixelPaddingValue", vr, max(spec.lowest, -32768))
        if spec.padding == "range":
            dataset.add_new("PixelPaddingRangeLimit", vr, max(spec.lowest, -32768) + 5)


def _lut(first: int, entries: Values) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first & 0xFFFF, 16])
    item.add_new("LUTData", "US", entries.tolist())
    return item


def _order(spec: Spec, kind: str) -> str:
    return f"{'>' if spec.syntax == ExplicitVRBigEndian else '<'}{kind}"


def _fill(dataset: Dataset, spec: Spec, frames: list[Values]) -> None:
    ybr = spec.photometric.startswith("YBR_FULL")
    if spec.syntax == JPEGBaseline8Bit and frames[0].ndim == 3:
        packed(dataset, [_baseline(frame, rgb=spec.photometric == "RGB") for frame in frames], spec.syntax)
        return
    raw = [np.asarray(Image.fromarray(frame).convert("YCbCr")) if ybr else frame for frame in frames]
    if spec.syntax in NATIVE:
        body = [_halved(frame) if spec.photometric == "YBR_FULL_422" else frame for frame in raw]
        dataset.PixelData = np.stack(body).astype(_order(spec, raw[0].dtype.str[1:])).tobytes()
        dataset["PixelData"].VR = "OW" if spec.allocated > 8 or spec.syntax == ImplicitVRLittleEndian else "OB"
        dataset.file_meta.TransferSyntaxUID = spec.syntax
        return
    if spec.syntax == RLELossless:
        dataset.PixelData = np.stack(raw).tobytes()
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return
    packed(dataset, [_encode(frame, spec) for frame in raw], spec.syntax)


def _halved(frame: Values) -> Values:
    half = np.empty((frame.shape[0], frame.shape[1] // 2, 4), np.uint8)
    half[..., 0], half[..., 1] = frame[:, ::2, 0], frame[:, 1::2, 0]
    half[..., 2], half[..., 3] = frame[:, ::2, 1], frame[:, ::2, 2]
    return half


def _baseline(frame: Values, *, rgb: bool) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "JPEG", quality=97, keep_rgb=rgb, **({} if rgb else {"subsampling": 1}))
    return content.getvalue()


def _encode(frame: Values, spec: Spec) -> bytes:
    """One frame; encoders that know no sign get the bits."""
    bits = np.bitwise_and(frame.astype(np.int64), (1 << spec.stored) - 1).astype(f"u{spec.allocated // 8}")
    signed = spec.signed and spec.allocated == 16 and zlib.crc32(repr(spec).encode()) % 2 == 0
    j2k = {"codecformat": "j2k", "mct": spec.photometric in ("YBR_RCT", "RGB")}
    exact = {"level": 0, "reversible": True, **j2k}
    coders: dict[str, Any] = {
        JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(bits, lossless=True, bitspersample=max(8, spec.stored)),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(bits),
        JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(bits, level=1 if spec.stored < 12 else 3),
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(
            frame if signed else bits, bitspersample=None if signed else spec.stored, **exact
        ),
        JPEG2000: lambda: imagecodecs.jpeg2k_encode(
            bits, level=55 if spec.stored == 8 else 75, reversible=False, bitspersample=spec.stored, **j2k
        ),
        HTJ2KLossless: lambda: imagecodecs.htj2k_encode(bits, reversible=True),
        HTJ2K: lambda: imagecodecs.htj2k_encode(bits, level=0.0002, reversible=False),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(bits, level=97),
        JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(bits, level=97, bitspersample=12),
    }
    return bytes(coders[spec.syntax]())


def worst(spec: Spec, pictures: list[NDArray[np.float32]]) -> float:
    """Error of the worst frame: of its worst pixel where nothing was lost, else its mean, away from padding's edge."""
    errors = [np.abs(found - expected(spec, number)) for number, found in enumerate(pictures)]
    return float(max(error[16:, 16:].mean() if spec.lossy else error.max() for error in errors))


def allowed(spec: Spec) -> float:
    """The stated error of a combination; conversions from YCbCr round to whole levels before they are compared."""
    if spec.lossy:
        return LOSSY
    return 0.06 if spec.photometric.startswith("YBR_FULL") else EXACT
