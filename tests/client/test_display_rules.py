"""From stored values to the display where headers are odd: the picture the header means, or a refusal."""

from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    BreastTomosynthesisImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
    PositronEmissionTomographyImageStorage,
    UltrasoundImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from client.dicom.pixels import Rendering, render
from tests.client.decoding import EXACT, decode, packed, shown
from tests.client.scans import picture, scan

Pixels = NDArray[Any]

HU, SUV = (40.0, 400.0), (3.0, 6.0)


def grey(seed: int = 1, *, bits: int = 12) -> Pixels:
    return picture(seed, rows=40, columns=40, bits=bits)


def unit(stored: Pixels, span: float = 4095.0) -> Pixels:
    return np.clip(stored.astype(np.float64) * 2 / span - 1, -1, 1)


def by_percentiles(stored: Pixels) -> Pixels:
    return render(stored, Rendering(), "percentile")


def twelve(stored: Pixels | None = None, **values: Any) -> Dataset:
    return scan(grey() if stored is None else stored, **{"BitsStored": 12, "HighBit": 11, **values})


def table(entries: list[int] | bytes, *, count: int, first: int = 0, bits: int = 16, vr: str = "US") -> Dataset:
    """One item of a LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [count, first & 0xFFFF, bits])
    item.add_new("LUTData", vr, entries)
    return item


ROOT = [int(64 * i**0.5) for i in range(4096)]
"""A curve from 0 to 4095."""


# --- modality LUT and VOI LUT ---


@pytest.mark.parametrize("sop_class", [XRayAngiographicImageStorage, XRayRadiofluoroscopicImageStorage])
@pytest.mark.parametrize("windowed", [True, False])
def test_modality_lut_of_angiography_is_not_for_display(sop_class: str, *, windowed: bool) -> None:
    stored = grey(bits=8).astype(np.uint8)
    item = table([int(65535 * np.log1p(i) / np.log(256)) for i in range(256)], count=256)
    item.ModalityLUTType = "US"
    window = {"WindowCenter": 128, "WindowWidth": 256} if windowed else {}
    dataset = scan(stored, SOPClassUID=sop_class, Modality="XA", ModalityLUTSequence=[item],
                   PixelIntensityRelationship="LOG", **window)  # fmt: skip
    np.testing.assert_allclose(shown(dataset), unit(stored, 255) if windowed else by_percentiles(stored), atol=EXACT)


def frame_voi(**values: Any) -> Dataset:
    group, item = Dataset(), Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    group.FrameVOILUTSequence = [item]
    return group


@pytest.mark.parametrize("where", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_voi_lut_in_a_functional_group_is_used(where: str) -> None:
    group = frame_voi(VOILUTSequence=[table(ROOT, count=4096, bits=12)])
    dataset = twelve(SOPClassUID=BreastTomosynthesisImageStorage, Modality="MG", NumberOfFrames=1)
    setattr(dataset, where, [group])
    np.testing.assert_allclose(shown(dataset), unit(np.array(ROOT)[grey()]), atol=EXACT)


def test_window_of_the_frame_comes_before_that_of_the_object() -> None:
    dataset = twelve(WindowCenter=10, WindowWidth=20, NumberOfFrames=1)
    dataset.SharedFunctionalGroupsSequence = [frame_voi(WindowCenter=1, WindowWidth=2)]
    dataset.PerFrameFunctionalGroupsSequence = [frame_voi(WindowCenter=2048, WindowWidth=4096)]
    np.testing.assert_allclose(shown(dataset), unit(grey()), atol=EXACT)


@pytest.mark.parametrize("vr", ["US", "SS", "OW"])
def test_entries_of_a_lut_are_unsigned_whatever_their_vr(vr: str) -> None:
    stored = grey(bits=8).astype(np.uint8)
    entries = np.arange(256, dtype=np.uint16) * 257
    data: Any = {"US": entries.tolist(), "SS": entries.view(np.int16).tolist(), "OW": entries.tobytes()}[vr]
    dataset = scan(stored, VOILUTSequence=[table(data, count=256, vr=vr)])
    np.testing.assert_allclose(shown(dataset), unit(stored, 255), atol=EXACT)


@pytest.mark.parametrize(("declared", "used"), [(16, 12), (16, 10), (16, 16), (12, 12), (8, 8), (10, 12)])
def test_range_of_a_voi_lut_is_the_range_its_entries_use(declared: int, used: int) -> None:
    top = (1 << used) - 1
    entries = [i * top // 4095 for i in range(4096)]
    dataset = twelve(VOILUTSequence=[table(entries, count=4096, bits=declared)])
    np.testing.assert_allclose(shown(dataset), unit(np.array(entries)[grey()], top), atol=EXACT)


def test_a_lut_of_fewer_than_16_declared_bits_keeps_its_range() -> None:
    entries = [i // 4 for i in range(4096)]
    dataset = twelve(VOILUTSequence=[table(entries, count=4096, bits=12)])
    np.testing.assert_allclose(shown(dataset), unit(np.array(entries)[grey()]), atol=EXACT)


def test_first_input_of_a_voi_lut_has_the_sign_of_the_rescales_output() -> None:
    item = table(np.arange(4096, dtype="<u2").tobytes(), count=4096, first=-1024, bits=12, vr="OW")
    dataset = twelve(RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=[item])
    np.testing.assert_allclose(shown(dataset), unit(grey()), atol=EXACT)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_allclose(shown(dataset), unit(grey()), atol=EXACT)


def test_first_input_above_32767_stays_positive_where_the_output_has_no_sign() -> None:
    stored = grey(bits=16)
    entries = [0] * 100 + [65535] * 100
    dataset = scan(stored, VOILUTSequence=[table(entries, count=200, first=40_000)])
    np.testing.assert_allclose(shown(dataset), np.where(stored < 40_100, -1, 1), atol=EXACT)


def test_an_unreadable_voi_lut_gives_way_to_the_next() -> None:
    short = table([1, 2, 3], count=4096)
    dataset = twelve(VOILUTSequence=[short, table(ROOT, count=4096, bits=12)])
    np.testing.assert_allclose(shown(dataset), unit(np.array(ROOT)[grey()]), atol=EXACT)


# --- windows ---


@pytest.mark.parametrize(("centres", "widths"), [([0, 2048], [0, 4096]), ([0, 5, 2048], [-1, 0.5, 4096])])
def test_an_unusable_window_gives_way_to_the_next(centres: list[float], widths: list[float]) -> None:
    np.testing.assert_allclose(shown(twelve(WindowCenter=centres, WindowWidth=widths)), unit(grey()), atol=EXACT)


def test_narrow_windows_over_fine_steps_are_exact_and_over_whole_ones_a_threshold() -> None:
    stored = grey()
    fine = scan(stored, RescaleSlope="0.0002", WindowCenter="0.5", WindowWidth=1, Modality="PT",
                SOPClassUID=PositronEmissionTomographyImageStorage)  # fmt: skip
    np.testing.assert_allclose(shown(fine), np.clip((stored * 0.0002 - 0.5) * 2, -1, 1), atol=EXACT)
    whole = twelve(WindowCenter=2000, WindowWidth=1)
    np.testing.assert_allclose(shown(whole), np.where(stored <= 1999.5, -1, 1), atol=EXACT)


# --- units ---


@pytest.mark.parametrize(
    "values",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None},
        {"RescaleIntercept": None},
        {"RescaleType": "US"},
        {"RescaleType": "mgml"},
    ],
)
def test_ct_without_hounsfield_units_is_refused_under_a_plans_window_only(values: dict[str, Any]) -> None:
    assert decode(twelve(**values), window=HU) == ([], "wrong_unit")
    assert decode(twelve(**values), window="percentile")[1] == ""


def test_ct_in_hounsfield_units_is_read_classic_and_enhanced() -> None:
    expected = np.clip((grey() - 1024.0 - 40) / 200, -1, 1)
    classic = twelve(RescaleIntercept=-1024, RescaleType="HU")
    np.testing.assert_allclose(shown(classic, window=HU), expected, atol=EXACT)
    enhanced = twelve(RescaleSlope=None, RescaleIntercept=None, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=1)
    assert decode(enhanced, window=HU) == ([], "wrong_unit")
    group, transform = Dataset(), Dataset()
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -1024, "HU"
    group.PixelValueTransformationSequence = [transform]
    enhanced.PerFrameFunctionalGroupsSequence = [group]
    np.testing.assert_allclose(shown(enhanced, window=HU), expected, atol=EXACT)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Units": "GML"}, ""),
        ({"Units": "GML", "SUVType": "BW"}, ""),
        ({"Units": "GML", "SUVType": "LBM"}, "wrong_unit"),
        ({"Units": "BQML"}, "wrong_unit"),
        ({"Units": "CNTS"}, "wrong_unit"),
        ({}, "wrong_unit"),
    ],
)
def test_pet_under_a_plans_window_is_in_suv(values: dict[str, str], reason: str) -> None:
    dataset = twelve(SOPClassUID=PositronEmissionTomographyImageStorage, Modality="PT", RescaleSlope=0.002, **values)
    assert decode(dataset, window=SUV)[1] == reason
    assert decode(dataset)[1] == ""


# --- polarity ---


@pytest.mark.parametrize(
    ("photometric", "shape", "reason"),
    [("MONOCHROME1", "INVERSE", ""), ("MONOCHROME2", "IDENTITY", ""), ("MONOCHROME1", "", ""),
     ("MONOCHROME1", "IDENTITY", "contradictory_header"), ("MONOCHROME2", "INVERSE", "contradictory_header")],
)  # fmt: skip
def test_two_polarities_in_one_header_are_refused(photometric: str, shape: str, reason: str) -> None:
    dataset = twelve(SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX", WindowCenter=2048,
                     WindowWidth=4096, PhotometricInterpretation=photometric, PresentationLUTShape=shape)  # fmt: skip
    pictures, found = decode(dataset)
    assert found == reason
    if not reason:
        expected = unit(grey()) if photometric == "MONOCHROME2" else -unit(grey())
        np.testing.assert_allclose(pictures[0], expected, atol=EXACT)


# --- palettes ---


def palette(words: bytes, *, bits: int, count: int = 256) -> Dataset:
    stored = grey(bits=8).astype(np.uint8)
    dataset = scan(stored, SOPClassUID=UltrasoundImageStorage, Modality="US", BurnedInAnnotation="NO",
                   PhotometricInterpretation="PALETTE COLOR")  # fmt: skip
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [count, 0, bits])
        setattr(dataset, f"{name}PaletteColorLookupTableData", words)
    return dataset


FALLING = 255 - np.arange(256)


@pytest.mark.parametrize(
    ("words", "bits"),
    [
        (FALLING.astype("<u2") * 257, 16),
        (FALLING.astype("<u2") << 8, 16),
        (FALLING.astype("<u2"), 8),
        (FALLING.astype("<u2"), 16),
        (FALLING.astype("u1"), 8),
        (FALLING.astype("u1"), 16),
    ],
)
def test_palettes_are_read_whatever_their_words_and_bits(words: Pixels, bits: int) -> None:
    expected = unit(255 - grey(bits=8).astype(np.uint8), 255)
    atol = 0.01 if words.max() == 255 << 8 else EXACT
    np.testing.assert_allclose(shown(palette(words.tobytes(), bits=bits)), expected, atol=atol)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_plans_window_over_colour_counts_from_0_to_255_whatever_the_palettes_bits(bits: int) -> None:
    words = FALLING.astype("<u2") * (257 if bits == 16 else 1)
    expected = unit(255 - grey(bits=8).astype(np.uint8), 255)
    np.testing.assert_allclose(shown(palette(words.tobytes(), bits=bits), window=(127.5, 255.0)), expected, atol=EXACT)


def test_a_palette_shorter_than_it_says_is_refused() -> None:
    assert decode(palette(bytes(100), bits=8)) == ([], "malformed")


# --- padding ---


def padded() -> tuple[Pixels, Pixels]:
    """A CT slice of 128 x 128 in a circle, -2000 around it, and where the circle is."""
    stored = (picture(5, rows=128, columns=128).astype(np.int32) // 4 - 1000).astype(np.int16)
    y, x = np.mgrid[-64:64, -64:64]
    inside = x * x + y * y < 55 * 55
    return np.where(inside, stored, -2000).astype(np.int16), inside


@pytest.mark.parametrize("codec", ["jpeg 2000", "jpeg-ls"])
def test_padding_that_compression_has_moved_stays_padding(codec: str) -> None:
    stored, inside = padded()
    exact = render(stored, Rendering(padding=(-2000, -2000)), "percentile")
    if codec == "jpeg 2000":
        stream = imagecodecs.jpeg2k_encode(stored, level=70, codecformat="j2k", reversible=False)
        syntax = JPEG2000
    else:
        stream = imagecodecs.jpegls_encode((stored.view(np.uint16)), level=8)
        syntax = JPEGLSNearLossless
    dataset = packed(scan(stored, PixelPaddingValue=-2000), [bytes(stream)], syntax)
    dataset["PixelPaddingValue"].VR = "SS"
    result = shown(dataset, window="percentile")
    assert (result[~inside] == -1).mean() > 0.95
    assert np.abs(result - exact)[inside].mean() < 0.06


def test_padding_amid_the_patients_values_is_that_value_alone() -> None:
    stored = picture(5, rows=64, columns=64).astype(np.int16) - 2048
    stored[:8] = 0
    plain = render(stored, Rendering(padding=(0, 0)), "percentile")
    moved = render(stored, Rendering(padding=(0, 0), padding_moved=True), "percentile")
    np.testing.assert_array_equal(plain, moved)
