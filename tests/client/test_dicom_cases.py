"""The DICOM files of `../shared/cases/dicom` that once went wrong, each as its README says it must come out."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from client.dicom import text_finder
from common.errors import NoUsableScans

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "dicom"

REFUSED = {
    "ct-class-rgb-screenshot": "burned_in",
    "ct-no-rescale-hu-window": "wrong_unit",
    "ct-screen-save-lower": "secondary_capture",
    "ct-secondary-capture-device-tags": "burned_in",
    "ct-siemens-patient-protocol": "secondary_capture",
    "jpegll-rgb-tagged-ybr422": "contradictory_header",
    "mono1-identity": "contradictory_header",
    "mono2-inverse": "contradictory_header",
    "native-rgb-tagged-ybr422": "contradictory_header",
    "no-numberofframes-three-frames": "contradictory_header",
    "numberofframes-2-but-4-streams": "contradictory_header",
    "own-synthetic-2022": "synthetic",
    "siemens-mosaic": "montage",
    "us-multiframe-text-in-frame-2": "text_found",
}
WINDOWS = {"ct-no-rescale-hu-window": (40.0, 400.0), "pet-units-mixed-under-one-window": (3.0, 6.0)}


def stored() -> np.ndarray[Any, Any]:
    """The picture that several of the files hold, as the native one of them does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(CASES / "pixelspacing-one-value" / "a.dcm").pixel_array


def come_out(case: str, tmp_path: Path) -> tuple[torch.Tensor | None, dict[str, int]]:
    """The images of the one patient of a case, and the reasons of what was left out."""
    if not (CASES / case).exists():
        pytest.skip("the cases are not here")
    settings = IngestSettings(image_size=40, window=WINDOWS.get(case, "dicom"))
    try:
        summary = ingest(CASES / case, tmp_path / "home", settings, workers=1)
    except NoUsableScans as error:
        reason, count = str(error).partition("(")[2].partition(")")[0].split()
        return None, {reason: int(count)}
    return Cache.open(tmp_path / "home").patient(0)[0][:, 0], summary.reasons


@pytest.mark.parametrize(("case", "reason"), REFUSED.items())
def test_what_cannot_be_told_or_may_not_enter_is_refused_with_its_reason(
    case: str, reason: str, tmp_path: Path
) -> None:
    if reason == "text_found" and not text_finder.installed():
        pytest.skip("the extra `ocr` is not installed")
    images, reasons = come_out(case, tmp_path)
    assert images is None
    assert set(reasons) == {reason}


@pytest.mark.parametrize(
    ("case", "left_out"),
    [("mg-for-processing-beside-presentation", {"for_processing": 1}),
     ("pet-units-mixed-under-one-window", {"wrong_unit": 2})],
)  # fmt: skip
def test_one_of_several_enters(case: str, left_out: dict[str, int], tmp_path: Path) -> None:
    images, reasons = come_out(case, tmp_path)
    assert (images is not None and len(images), reasons) == (1, left_out)


@pytest.mark.parametrize(
    "case",
    ["j2k16-bitsstored12-junk", "pixelspacing-one-value", "voi-lut-16-declared-12-used",
     "voilut-negative-first-implicit"],
)  # fmt: skip
def test_the_picture_is_the_stored_one(case: str, tmp_path: Path) -> None:
    images, reasons = come_out(case, tmp_path)
    assert images is not None
    assert reasons == {}
    np.testing.assert_allclose(images[0], stored() * 2 / 4095 - 1.0, atol=1e-3)


def test_the_second_window_is_used(tmp_path: Path) -> None:
    images, _ = come_out("first-window-zero-width", tmp_path)
    assert images is not None
    np.testing.assert_allclose(images[0], np.clip((stored() - 999.5) * 2 / 1499, -1, 1), atol=1e-3)


@pytest.mark.parametrize(
    ("case", "frames"),
    [("bot-offset-by-8", 4), ("j2k-unsigned-stream-pr1-501-frames", 501), ("tomo-frame-voi-lut-with-lut", 3),
     ("j2k-mct-tagged-YBR_FULL", 1), ("jpeg-ycbcr-tagged-YBR_PARTIAL_422", 1), ("jpeg8-tagged-12of16", 1),
     ("palette-8-declared-16bit-length", 1), ("voilut-data-vr-ss", 1), ("window-width-1-fractional-slope", 1),
     ("xa-modality-lut-log", 1), ("xa-modality-lut-log-nowindow", 1)],
)  # fmt: skip
def test_all_frames_enter_with_their_contrast(case: str, frames: int, tmp_path: Path) -> None:
    """The pixels of these kinds are compared where the same is written by code: `test_*_rules.py`."""
    images, reasons = come_out(case, tmp_path)
    assert images is not None
    assert (len(images), reasons) == (frames, {})
    assert float(images.std(dim=(1, 2)).min()) > 0.2
    assert len(torch.unique(images[0])) > 20
