"""One image in every encoding that can hold it gives one cache; frames, colour and geometry go where they belong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.pixels import set_pixel_data
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    UltrasoundImageStorage,
)

from client.admission.ingest import IngestSettings, ingest
from client.admission.records import Admission
from client.cohort.cache import Cache
from tests.client.scans import picture, save, scan

SETTINGS = IngestSettings(image_size=32)


def admitted(folder: Path, settings: IngestSettings = SETTINGS) -> tuple[torch.Tensor, list[str]]:
    """Images of the one patient of a folder, and the reasons of what was left out."""
    home = folder.with_name(f"{folder.name}-home")
    summary = ingest(folder, home, settings)
    return Cache.open(home).patient(0)[0], [reason for _, reason in summary.refusals]


def encoded(dataset: Dataset, path: Path, syntax: str) -> None:
    if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        plugin = "pyjpegls" if syntax == JPEGLSLossless else "pylibjpeg"
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        save(dataset, path)
        return
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless,
        JPEGLSLossless,
    ],
)  # fmt: skip
def test_lossless_encodings_of_one_image_are_one_image(tmp_path: Path, syntax: str) -> None:
    stored = picture(1, rows=48, columns=64, bits=16)
    save(scan(stored, seed=1), tmp_path / "in" / "plain.dcm")
    encoded(scan(stored, seed=2), tmp_path / "in" / "other.dcm", syntax)
    images, reasons = admitted(tmp_path / "in")
    assert (len(images), reasons) == (1, ["duplicate"])
    digests = {record.digest for record in Admission.load(tmp_path / "in-home").records}  # type: ignore[union-attr]
    assert len(digests) == 1


@pytest.mark.parametrize("bits", [1, 8, 9, 12, 16, 32])
@pytest.mark.parametrize("signed", [False, True])
def test_all_widths_of_pixels_are_read(tmp_path: Path, bits: int, *, signed: bool) -> None:
    if bits == 1 and signed:
        pytest.skip("one bit has no sign")
    cell = 8 if bits <= 8 else 16 if bits <= 16 else 32
    unit = picture(2, rows=40, columns=40, bits=16).astype(np.float64) / 65535
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    values = np.round(low + unit * (float(high) - low)).clip(low, high)
    stored = values.astype(f"{'i' if signed else 'u'}{cell // 8}")
    dataset = scan(stored, BitsStored=bits, HighBit=bits - 1)
    if bits == 1:
        dataset.BitsAllocated = 1
        dataset.PixelData = np.packbits(stored.ravel(), bitorder="little").tobytes()
    save(dataset, tmp_path / "in" / "a.dcm")
    span = float(high) - float(low)
    images, reasons = admitted(tmp_path / "in", IngestSettings(image_size=40, window=(low + span / 2, span)))
    assert reasons == []
    expected = (values - low) / span * 2 - 1
    np.testing.assert_allclose(images[0, 0], expected, atol=1e-4)


def test_values_in_the_upper_bits_of_their_cells_are_moved_down(tmp_path: Path) -> None:
    stored = picture(3, rows=40, columns=40, bits=12)
    save(scan(stored << 4, BitsStored=12, HighBit=15), tmp_path / "up" / "a.dcm")
    save(scan(stored, BitsStored=12, HighBit=11), tmp_path / "down" / "a.dcm")
    window = IngestSettings(image_size=40, window=(2048.0, 4096.0))
    up, down = admitted(tmp_path / "up", window)[0], admitted(tmp_path / "down", window)[0]
    torch.testing.assert_close(up, down, atol=1e-4, rtol=0)


def test_overlay_bits_above_the_stored_ones_do_not_show(tmp_path: Path) -> None:
    stored = picture(3, rows=40, columns=40, bits=12)
    dirty = stored.copy()
    dirty[10:20] |= 1 << 13
    window = IngestSettings(image_size=40, window=(2048.0, 4096.0))
    for name, pixels in (("dirty", dirty), ("clean", stored)):
        save(scan(pixels, BitsStored=12, HighBit=11), tmp_path / name / "a.dcm")
    assert torch.equal(admitted(tmp_path / "dirty", window)[0], admitted(tmp_path / "clean", window)[0])


def enhanced(frames: int = 4) -> Dataset:
    """An enhanced MR with a rescale and a window of its own in each frame; frame 2 is empty."""
    stored = np.stack([picture(10 + i, rows=40, columns=40) for i in range(frames)])
    stored[2] = 0
    dataset = scan(stored[0], SOPClassUID=EnhancedMRImageStorage, Modality="MR", NumberOfFrames=frames)
    dataset.PixelData = stored.tobytes()
    groups = []
    for i in range(frames):
        transform, voi, measures, group = Dataset(), Dataset(), Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = i + 1, 100 * i, "US"
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = (i + 1) * 2048 + 100 * i, (i + 1) * 4096, "LINEAR_EXACT"
        measures.PixelSpacing = [1, 1]
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [transform], [voi]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    shared, orientation = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    return dataset


def test_each_frame_has_its_own_rescale_and_window_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    dataset = enhanced()
    save(dataset, tmp_path / "in" / "a.dcm")
    images, reasons = admitted(tmp_path / "in", IngestSettings(image_size=40))
    assert (len(images), reasons) == (3, [])
    frames = np.frombuffer(dataset.PixelData, np.uint16).reshape(4, 40, 40)[[0, 1, 3]]
    expected = np.clip((frames.astype(float) - 2048) / 2048, -1, 1)[:, :, ::-1]
    np.testing.assert_allclose(images[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_frames_come_the_same_compressed_and_plain(tmp_path: Path, syntax: str) -> None:
    save(enhanced(), tmp_path / "plain" / "a.dcm")
    encoded(enhanced(), tmp_path / "packed" / "a.dcm", syntax)
    assert torch.equal(admitted(tmp_path / "plain")[0], admitted(tmp_path / "packed")[0])


def ultrasound(colour: np.ndarray[Any, Any], **values: Any) -> Dataset:
    dataset = scan(colour[..., 0], SOPClassUID=UltrasoundImageStorage, Modality="US", BurnedInAnnotation="NO")
    set_pixel_data(dataset, colour, "RGB", 8, generate_instance_uid=False)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def colour_picture(rows: int = 40, columns: int = 40) -> np.ndarray[Any, Any]:
    return np.stack([picture(20 + i, rows=rows, columns=columns, bits=8).astype(np.uint8) for i in range(3)], axis=-1)


def test_colour_becomes_luminance_whatever_its_layout(tmp_path: Path) -> None:
    colour = colour_picture()
    save(ultrasound(colour), tmp_path / "in" / "pixel.dcm")
    planar = ultrasound(colour, PlanarConfiguration=1, SOPInstanceUID="1.2.9")
    planar.PixelData = np.moveaxis(colour, -1, 0).tobytes()
    save(planar, tmp_path / "in" / "plane.dcm")
    images, reasons = admitted(tmp_path / "in", IngestSettings(image_size=40))
    assert (len(images), reasons) == (1, ["duplicate"])
    expected = ((colour.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000) / 127.5 - 1
    np.testing.assert_allclose(images[0, 0], expected, atol=1e-4)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    index = picture(30, rows=40, columns=40, bits=8).astype(np.uint8)
    dataset = scan(index, SOPClassUID=UltrasoundImageStorage, Modality="US", BurnedInAnnotation="NO")
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    ramp = (255 - np.arange(256)).astype("<u2") * 257
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        dataset[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(dataset, f"{name}PaletteColorLookupTableData", ramp.tobytes())
    save(dataset, tmp_path / "in" / "a.dcm")
    images, _ = admitted(tmp_path / "in", IngestSettings(image_size=40))
    np.testing.assert_allclose(images[0, 0], (255 - index.astype(float)) / 127.5 - 1, atol=1e-4)


def test_what_lies_outside_the_ultrasound_regions_is_blanked(tmp_path: Path) -> None:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 4, 10
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 35, 39
    colour = colour_picture()
    save(ultrasound(colour, SequenceOfUltrasoundRegions=[region]), tmp_path / "in" / "a.dcm")
    image = admitted(tmp_path / "in", IngestSettings(image_size=40))[0][0, 0]
    assert float(image[:10].max() - image[:10].min()) == 0
    assert float(image[:, 36:].max() - image[:, 36:].min()) == 0
    inside = ((colour.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000)[10:, 4:36] / 127.5 - 1
    np.testing.assert_allclose(image[10:, 4:36], inside, atol=1e-4)


def test_oblong_pixels_are_made_square_before_the_image_is_fitted(tmp_path: Path) -> None:
    stored = picture(40, rows=40, columns=80)
    save(scan(stored, PixelSpacing=[2, 1]), tmp_path / "in" / "a.dcm")
    image = admitted(tmp_path / "in", IngestSettings(image_size=40, window=(2048.0, 4096.0)))[0][0, 0]
    pairs = stored.reshape(40, 40, 2).astype(float).mean(-1)
    np.testing.assert_allclose(image, (pairs - 2048) / 2048, atol=1e-3)
