"""The DICOM files of `../shared/cases/dicom` that once went wrong, each as its README says it must come out."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagecodecs import jpeg2k_decode
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from client.dicom import text_finder
from common.errors import DataError, NoUsableScans
from tests.client.variants import linear, luminance

Pixels = NDArray[Any]
SOC = b"\xff\x4f\xff\x51"
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


def there(case: str) -> Path:
    """The folder of a case; the cases are no part of the repository."""
    if not (CASES / case).exists():
        pytest.skip("the cases are not here")
    return CASES / case


def stored() -> np.ndarray[Any, Any]:
    """The picture that several of the files hold, as the native one of them does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(there("pixelspacing-one-value") / "a.dcm").pixel_array


def come_out(case: str, tmp_path: Path) -> tuple[torch.Tensor | None, dict[str, int]]:
    """The images of the one patient of a case, and the reasons of what was left out."""
    settings = IngestSettings(image_size=40, window=WINDOWS.get(case, "dicom"))
    try:
        summary = ingest(there(case), tmp_path / "home", settings, workers=1)
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
    ("case", "left_out", "enters", "meant"),
    [
        ("mg-for-processing-beside-presentation", {"for_processing": 1}, "pres.dcm", lambda v: linear(v, 2048, 4096)),
        ("pet-units-mixed-under-one-window", {"wrong_unit": 2}, "GML.dcm", lambda v: np.clip((v - 3) / 3, -1, 1)),
    ],
)
def test_one_of_several_enters(
    case: str, left_out: dict[str, int], enters: str, meant: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    images, reasons = come_out(case, tmp_path)
    assert images is not None
    assert reasons == left_out
    dataset = dcmread(CASES / case / enters)
    values = dataset.pixel_array * float(dataset.get("RescaleSlope", 1))
    np.testing.assert_allclose(images, meant(values)[None], atol=1e-3)


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


def header(case: str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(there(case) / "a.dcm")


def native(case: str) -> Pixels:
    dataset = header(case)
    kind = np.uint8 if dataset.BitsAllocated == 8 else np.dtype("<u2")
    return np.frombuffer(dataset.PixelData, kind).reshape(-1, dataset.Rows, dataset.Columns).astype(np.float64)


def streams(case: str) -> list[bytes]:
    """The JPEG 2000 streams of a file by their own marks, since its offset table is not to be trusted."""
    return [SOC + part for part in header(case).PixelData.split(SOC)[1:]]


def of_lut(values: Pixels, table: Dataset) -> Pixels:
    """Through a VOI LUT whose entries are unsigned, whatever their VR."""
    entries = np.asarray(table.LUTData, dtype=np.int64) & 0xFFFF
    index = np.clip(values - table.LUTDescriptor[1], 0, len(entries) - 1).astype(int)
    return entries[index] * 2 / ((1 << int(entries.max()).bit_length()) - 1) - 1


def baseline(case: str) -> Pixels:
    """A baseline JPEG as Pillow reads it, which does not know the header."""
    data = header(case).PixelData
    with Image.open(io.BytesIO(data[data.index(b"\xff\xd8\xff") :])) as picture:
        return np.asarray(picture)


def palette(case: str) -> Pixels:
    dataset = header(case)
    tables = [np.frombuffer(dataset[f"{name}PaletteColorLookupTableData"].value, "<u2")
              for name in ("Red", "Green", "Blue")]  # fmt: skip
    index = native(case)[0].astype(int)
    return np.stack([table[index] for table in tables], axis=-1)


def stretched(values: Pixels) -> Pixels:
    low, high = np.percentile(values, [1, 99], method="inverted_cdf")
    return np.clip((values - low) * 2 / (high - low) - 1, -1, 1)


def signed(values: Pixels) -> Pixels:
    return (values.astype(np.int64) ^ 2048) - 2048


EXPECTED: dict[str, Callable[[str], Pixels]] = {
    "bot-offset-by-8": lambda case: linear(np.stack([jpeg2k_decode(data) for data in streams(case)]), 2048, 4096),
    "j2k-unsigned-stream-pr1-501-frames": lambda case: linear(
        signed(np.stack([jpeg2k_decode(data) for data in streams(case)])), 0, 4096
    ),
    "tomo-frame-voi-lut-with-lut": lambda case: of_lut(
        native(case),
        header(case).SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].VOILUTSequence[0],
    ),
    "j2k-mct-tagged-YBR_FULL": lambda case: luminance(jpeg2k_decode(streams(case)[0]))[None],
    "jpeg-ycbcr-tagged-YBR_PARTIAL_422": lambda case: luminance(baseline(case))[None],
    "jpeg8-tagged-12of16": lambda case: linear(baseline(case), 128, 256)[None],
    "palette-8-declared-16bit-length": lambda case: luminance(palette(case))[None],
    "voilut-data-vr-ss": lambda case: of_lut(native(case), header(case).VOILUTSequence[0]),
    "window-width-1-fractional-slope": lambda case: np.clip((native(case) * 0.0002 - 0.5) * 2, -1, 1),
    "xa-modality-lut-log": lambda case: linear(native(case), 128, 256),
    "xa-modality-lut-log-nowindow": lambda case: stretched(native(case)),
}
DECODERS_DIFFER = {"jpeg-ycbcr-tagged-YBR_PARTIAL_422": 0.03, "jpeg8-tagged-12of16": 0.02}


@pytest.mark.parametrize("case", EXPECTED)
def test_every_frame_is_the_picture_that_the_file_means(case: str, tmp_path: Path) -> None:
    images, reasons = come_out(case, tmp_path)
    assert images is not None
    assert reasons == {}
    expected = EXPECTED[case](case)
    assert float(expected.std()) > 0.2
    np.testing.assert_allclose(np.asarray(images), expected, atol=DECODERS_DIFFER.get(case, 1e-3))


@pytest.mark.parametrize(
    ("case", "patients", "doubts"),
    [
        ("pid-all-anonymous", 1, {"placeholder_id": 1, "several_people": 1}),
        ("pid-issuer-in-one-of-two", 1, {"issuer_missing": 1}),
        ("same-sop-uid-different-pixels-4-patients", 4, {"uid_clash": 4}),
    ],
)
def test_who_is_who_is_told_where_it_is_in_doubt(
    case: str, patients: int, doubts: dict[str, int], tmp_path: Path
) -> None:
    summary = ingest(there(case), tmp_path / "home", IngestSettings(image_size=40), workers=1)
    assert (summary.patients, summary.doubts) == (patients, doubts)
    assert summary.admitted == len(list(there(case).glob("*.dcm")))


def test_ids_whose_letters_were_lost_are_refused(tmp_path: Path) -> None:
    images, reasons = come_out("pid-two-ids-undecodable-collide", tmp_path)
    assert (images, reasons) == (None, {"damaged_patient_id": 2})


def test_a_merge_that_names_an_id_of_two_issuers_is_an_error_of_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Name the issuer as in `id\\^\\^\\^ISSUER`: line 2"):
        ingest(there("merges-csv-joins-both-issuers"), tmp_path / "home", IngestSettings(image_size=40), workers=1)


def test_every_case_that_is_here_has_a_test() -> None:
    source = Path(__file__).read_text()
    assert [case.name for case in there("").iterdir() if case.is_dir() and f'"{case.name}"' not in source] == []
