"""The grey-scale pipeline against the standard's formulas, pydicom's own transforms, and the plan's window."""

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from client.approval.selection import lines
from client.dicom.pixels import OF_THE_IMAGE, Lut, Rendering, Window, apply_window, grey_of, percentiles, render
from client.dicom.rendering import rendering_of
from common.errors import ScanRefused
from common.plan.data import WINDOW_RULES, DataPlan
from tests.client.scans import picture, scan
from tests.client.windows import window_to_unit


def unit_of_pydicom(dataset: Dataset, values: np.ndarray, bits: int) -> np.ndarray:
    """What pydicom shows, brought to [-1, 1] by its own output range for unsigned pixels."""
    return np.asarray(apply_voi_lut(values, dataset), dtype=np.float64) * (2 / ((1 << bits) - 1)) - 1


@pytest.mark.filterwarnings("ignore:overflow")  # pydicom's own, far below a narrow sigmoid
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(900, 1200), (2048, 4096), (1000, 2), (-50, 300)])
def test_the_three_voi_functions_equal_pydicoms(function: str, centre: float, width: float) -> None:
    stored = picture(1)
    dataset = scan(stored, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
    try:
        ours = render(stored, rendering, "dicom")
    except ScanRefused:
        assert np.ptp(unit_of_pydicom(dataset, stored, 16)) == 0
        return
    np.testing.assert_allclose(ours, unit_of_pydicom(dataset, stored, 16), atol=2e-4)


def test_linear_exact_equals_the_shared_window() -> None:
    values = np.linspace(-2000, 3000, 501)
    ours = apply_window(values, Window(centre=40, width=400, function="LINEAR_EXACT"))
    shared = window_to_unit(torch.from_numpy(values), centre=40, width=400)
    np.testing.assert_allclose(ours, shared.numpy(), atol=1e-6)


def test_width_one_is_a_threshold() -> None:
    assert apply_window(np.array([9.4, 9.5, 9.6]), Window(centre=10, width=1)).tolist() == [-1, -1, 1]


def test_modality_lut_and_voi_lut_equal_pydicoms() -> None:
    stored = picture(2, bits=8)
    modality, voi = Dataset(), Dataset()
    modality.LUTDescriptor, modality.LUTData = [256, 0, 16], [int(900 * np.sqrt(i)) for i in range(256)]
    voi.LUTDescriptor, voi.LUTData = [12000, 1000, 12], [min(4095, i // 3) for i in range(12000)]
    for item in (modality, voi):
        item["LUTDescriptor"].VR = "US"
        item["LUTData"].VR = "US"
    modality.ModalityLUTType = "US"
    dataset = scan(stored, ModalityLUTSequence=[modality], VOILUTSequence=[voi])
    expected = unit_of_pydicom(dataset, apply_modality_lut(stored, dataset), 12)
    rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
    np.testing.assert_allclose(render(stored, rendering, "dicom"), expected, atol=1e-6)


def test_rescale_comes_before_the_window() -> None:
    stored = picture(3)
    rendering = Rendering(slope=2, intercept=-1000, voi=Window(centre=500, width=3000, function="LINEAR_EXACT"))
    expected = np.clip((stored * 2.0 - 1000 - 500) / 1500, -1, 1)
    np.testing.assert_allclose(render(stored, rendering, "dicom"), expected, atol=1e-6)


def test_negative_slope_keeps_its_sense() -> None:
    stored = picture(4)
    up, down = (render(stored, Rendering(slope=slope), "percentile") for slope in (1, -1))
    np.testing.assert_allclose(up, -down, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
def test_the_table_of_levels_equals_working_on_each_pixel(dtype: str) -> None:
    random = np.random.default_rng(5)
    kind = np.dtype(dtype)
    high = 1000 if kind.kind == "f" else min(int(np.iinfo(kind).max), 1 << 20)
    low = 0 if kind.kind == "u" else -high
    stored = random.integers(low, high, (64, 64)).astype(kind)
    window = (float(high) / 3, float(high))
    direct = np.clip((stored.astype(np.float64) - window[0]) * 2 / window[1], -1, 1)
    np.testing.assert_allclose(render(stored, Rendering(), window), direct, atol=1e-6)


def test_percentiles_are_the_images_own_and_leave_the_padding_out() -> None:
    stored = picture(6)
    bordered = stored.copy()
    bordered[:, :20] = 60_000
    rendering = Rendering(padding=(60_000, 60_000))
    shown = render(bordered, rendering, "percentile")
    values = np.sort(stored[:, 20:].ravel())
    low, high = values[int(np.ceil(0.01 * len(values))) - 1], values[int(np.ceil(0.99 * len(values))) - 1]
    expected = np.clip((stored[:, 20:].astype(float) - low) * 2 / (high - low) - 1, -1, 1)
    np.testing.assert_allclose(shown[:, 20:], expected, atol=1e-6)
    assert (shown[:, :20] == -1).all()


def test_percentiles_of_almost_constant_pixels_fall_back_to_the_extremes() -> None:
    assert percentiles(np.array([1.0, 5.0]), np.array([1, 9999])) == (1.0, 5.0)


def test_padding_is_black_in_monochrome1_too() -> None:
    stored = picture(7)
    stored[0] = 0
    shown = render(stored, Rendering(inverted=True, padding=(0, 0)), "percentile")
    assert (shown[0] == -1).all()


@pytest.mark.parametrize("window", ["dicom", "percentile", (1e9, 1.0)])
def test_image_without_contrast_is_refused(window: str | tuple[float, float]) -> None:
    stored = np.full((20, 20), 7, np.uint16) if isinstance(window, str) else picture(8)
    with pytest.raises(ScanRefused, match="constant_image"):
        render(stored, Rendering(), window)


def test_every_window_rule_of_a_plan_is_rendered_and_told_to_the_steward() -> None:
    assert set(WINDOW_RULES) == {"dicom", *OF_THE_IMAGE}
    for window, words in WINDOW_RULES.items():
        shown = render(picture(8), Rendering(), window)
        assert -1 <= shown.min() < shown.max() <= 1
        assert words in "\n".join(lines(DataPlan(window=window)))
    with pytest.raises(KeyError):
        render(picture(8), Rendering(), "another")


def test_unusable_windows_give_way_to_percentiles() -> None:
    stored = picture(9)
    expected = render(stored, Rendering(), "percentile")
    for centre, width, function in ((5, 0, "LINEAR"), (5, 0.5, "LINEAR"), (5, 0, "SIGMOID"), (5, 9, "CUBIC")):
        dataset = scan(stored, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
        rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
        np.testing.assert_array_equal(render(stored, rendering, "dicom"), expected)


def test_luminance_is_the_standards_weighting() -> None:
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert grey_of(colour).tolist() == [[76, 150, 29, 255]]


def test_luminance_that_is_a_half_is_rounded_up_however_the_picture_lies_in_memory() -> None:
    red, green, blue = np.mgrid[0:256:5, 0:256, 0:256:3].reshape(3, -1)
    halves = (299 * red + 587 * green + 114 * blue) % 1000 == 500
    colour = np.stack([red[halves], green[halves], blue[halves]], axis=-1).astype(np.uint8)[None]
    planes = np.ascontiguousarray(np.moveaxis(colour, -1, 0))
    assert colour.shape[1] > 100
    expected = (299 * red[halves] + 587 * green[halves] + 114 * blue[halves] + 500) // 1000
    for layout in (colour, np.moveaxis(planes, 0, -1), np.asfortranarray(colour)):
        assert grey_of(layout).tolist() == [expected.tolist()]


def test_lut_holds_its_ends() -> None:
    lut = Lut(first=10, entries=np.array([5, 6, 7]), bits=8)
    assert lut(np.array([0.0, 10.0, 11.2, 99.0])).tolist() == [5, 5, 6, 7]


CORNER = np.array([[1, 2, 3], [4, 5, 6]], np.uint16)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["L", "P"], [[1, 2, 3], [4, 5, 6]]),
        (["R", "P"], [[3, 2, 1], [6, 5, 4]]),
        (["L", "A"], [[4, 5, 6], [1, 2, 3]]),
        (["L", "H"], [[4, 5, 6], [1, 2, 3]]),
        (["A", "F"], [[3, 2, 1], [6, 5, 4]]),
        (["F", "L"], [[1, 4], [2, 5], [3, 6]]),
        (["H", "R"], [[6, 3], [5, 2], [4, 1]]),
        (["P", "L"], [[1, 4], [2, 5], [3, 6]]),
        (["X", "Q"], [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_every_orientation_comes_to_left_posterior_foot(orientation: list[str], expected: list[list[int]]) -> None:
    dataset = scan(CORNER, PatientOrientation=orientation)
    rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
    shown = render(CORNER, rendering, (3.5, 5.0))
    np.testing.assert_allclose(shown, np.array(expected) * 0.4 - 1.4, atol=1e-6)


def test_direction_cosines_outweigh_letters_and_read_heads_up() -> None:
    dataset = scan(CORNER, PatientOrientation=["L", "P"], ImageOrientationPatient=[1, 0, 0, 0, 0.1, 0.99])
    rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
    assert (rendering.transpose, rendering.flip_rows, rendering.flip_columns) == (False, True, False)


@pytest.mark.parametrize(
    ("values", "aspect"),
    [
        ({"PixelSpacing": [2, 1]}, 2.0),
        ({"ImagerPixelSpacing": [1, 2]}, 0.5),
        ({"PixelAspectRatio": [4, 3]}, 4 / 3),
        ({"PixelSpacing": [1e9, 1]}, 1.0),
        ({"PixelSpacing": [0, 0]}, 1.0),
        ({}, 1.0),
    ],
)
def test_aspect_is_height_over_width_of_a_pixel(values: dict[str, list[float]], aspect: float) -> None:
    dataset = scan(CORNER, **values)
    rendering = rendering_of(dataset, 0, photometric="MONOCHROME2", full_scale=None)
    assert rendering.aspect == pytest.approx(aspect)
