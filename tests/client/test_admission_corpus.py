"""Admission against files that others made: pydicom's, pydicom-data's, deid-data's, and the Hannover chests."""

import csv
import hashlib
import importlib.util
import io
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage

from client.admission.ingest import IngestSettings, ingest
from client.admission.records import IngestSummary
from client.cohort.cache import Cache
from client.dicom import pixel_data, reader, text_finder
from common.errors import ScanRefused
from tests.client.scans import save, scan

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MANIFEST = DATA / "dicom_corpus_pip" / "manifest.csv"
HANNOVER = DATA / "cxr_hannover"
PACKAGES = ("pydicom", "data_store", "deid_data")
needs_ocr = pytest.mark.skipif(not text_finder.installed(), reason="the extra `ocr` is not installed")


def installed_file(name: str) -> Path | None:
    """Where a file of the manifest lies, None where its package is absent."""
    package, _, inside = name.partition("/")
    found = importlib.util.find_spec(package)
    places = () if found is None else tuple(found.submodule_search_locations or ())
    return next((Path(place) / inside for place in places if (Path(place) / inside).exists()), None)


@pytest.fixture(scope="module")
def corpus() -> list[tuple[Path, dict[str, str]]]:
    if not MANIFEST.exists():
        pytest.skip("the corpus manifest is not here")
    with MANIFEST.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(path, row) for row in rows if (path := installed_file(row["file"]))]
    if len(found) < 150:
        pytest.skip("the corpora are not installed")
    return found


@pytest.fixture(scope="module")
def account(corpus: list[tuple[Path, dict[str, str]]], tmp_path_factory: pytest.TempPathFactory) -> IngestSummary:
    """All files of the corpora ingested at once, without text detection."""
    root = tmp_path_factory.mktemp("corpus")
    for path, row in corpus:
        target = root / "in" / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return ingest(root / "in", root / "home", IngestSettings(image_size=64), ocr=False)


def decoded_md5(path: Path) -> str:
    """MD5 of all decoded frames, or the reason why there are none."""
    try:
        header = reader.parse_header(reader.read_file(path))
        facts = reader.facts_of(header)
        pixel_data.check_pixels(header, facts)
        frames = [np.ascontiguousarray(frame.values).tobytes() for frame in pixel_data.decoded_frames(header, facts)]
    except ScanRefused as refusal:
        return refusal.reason
    return hashlib.md5(b"".join(frames), usedforsecurity=False).hexdigest()


@pytest.mark.filterwarnings("ignore")
def test_twelve_bit_extended_jpeg_is_decoded_without_a_tool_beside_the_install(
    corpus: list[tuple[Path, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (path,) = (path for path, row in corpus if row["file"].endswith("/JPEG-lossy.dcm"))
    header = reader.parse_header(reader.read_file(path))
    (frame,) = pixel_data.decoded_frames(header, reader.facts_of(header))
    assert (frame.values.shape, int(frame.values.max()), frame.photometric) == ((1024, 256), 264, "MONOCHROME2")


@pytest.mark.filterwarnings("ignore")
def test_every_file_has_its_expected_pixels_or_a_typed_refusal(corpus: list[tuple[Path, dict[str, str]]]) -> None:
    wrong: list[str] = []
    for path, row in corpus:
        expected, found = row["pixmd5"], decoded_md5(path)
        decoded = len(found) == 32
        if not expected.startswith("ERR") and decoded != bool(expected):
            wrong.append(f"{row['file']}: {found}")
        if expected.startswith("ERR") and decoded and row["ts_name"] != "JPEG Extended (Process 2 and 4)":
            wrong.append(f"{row['file']}: decoded, although pydicom fails")
        if decoded and len(expected) == 32 and found != expected:
            wrong.append(f"{row['file']}: other pixels")
    assert wrong == []


def test_corpora_are_accounted_for_without_a_crash(
    corpus: list[tuple[Path, dict[str, str]]], account: IngestSummary
) -> None:
    assert account.files == len(corpus) == account.admitted + account.refused + account.quarantined
    assert not {"crashed", "timed_out"} & set(account.reasons)
    assert account.admitted > 30


def test_reports_doses_segmentations_and_captures_stay_out(
    corpus: list[tuple[Path, dict[str, str]]], account: IngestSummary
) -> None:
    refused = dict(account.refusals)
    for _, row in corpus:
        if row["Modality"] in ("SR", "SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "ECG") or "Secondary" in row["SOPClass"]:
            assert row["file"] in refused, row["file"]


def test_ultrasounds_with_burned_in_names_are_all_quarantined(account: IngestSummary) -> None:
    refused = dict(account.refusals)
    names = [name for name in refused if name.startswith("deid_data/data/ultrasounds")]
    if not names:
        pytest.skip("deid-data is not installed")
    assert [refused[name] for name in names] == ["burned_in"] * 3


def hannover() -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """The 243 Hannover radiographs (longest side 256) with their table rows."""
    if not (HANNOVER / "png_256.zip").exists():
        pytest.skip("the Hannover radiographs are not here")
    with (HANNOVER / "data.csv").open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    with zipfile.ZipFile(HANNOVER / "png_256.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                yield rows[Path(name).stem], np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hannover") / "in"
    for number, (row, pixels) in enumerate(hannover(), start=1):
        dataset = scan(
            pixels,
            seed=number,
            patient=row["patient_id"],
            SOPClassUID=ComputedRadiographyImageStorage,
            Modality=row["modality"].upper() or "CR",
            ViewPosition=row["projection"].upper(),
            BodyPartExamined="CHEST",
        )
        save(dataset, folder / f"{number}.dcm")
    return folder


def test_hannover_is_71_patients_and_70_once_two_ids_are_merged(chests: Path, tmp_path: Path) -> None:
    settings = IngestSettings(image_size=32, window="percentile")
    before = ingest(chests, tmp_path / "home", settings, ocr=False)
    assert (before.files, before.admitted, before.patients) == (243, 243, 71)
    cache = Cache.open(tmp_path / "home")
    assert (cache.patients, cache.images) == (71, 243)
    with (HANNOVER / "data.csv").open(newline="") as file:
        sizes = Counter(row["patient_id"] for row in csv.DictReader(file))
    assert sorted(len(cache.patient_rows(i)) for i in range(71)) == sorted(sizes.values())
    one, two = list(sizes)[:2]
    (chests / "merges.csv").write_text(f"patient_id,same_as\n{two},{one}\n")
    try:
        assert ingest(chests, tmp_path / "home", settings, ocr=False).patients == 70
    finally:
        (chests / "merges.csv").unlink()


@needs_ocr
@pytest.mark.timeout(600)
def test_markers_on_chest_radiographs_are_no_reason_for_quarantine(chests: Path, tmp_path: Path) -> None:
    for path in sorted(chests.iterdir())[::8]:
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / "in" / path.name)
    summary = ingest(tmp_path / "in", tmp_path / "home", IngestSettings(image_size=32, window="percentile"), ocr=True)
    assert (summary.files, summary.admitted) == (31, 31)


@needs_ocr
def test_names_in_pictures_that_vouch_for_themselves_are_found(tmp_path: Path) -> None:
    found = installed_file("deid_data/data/ultrasounds/RGB_IMAGE.dcm")
    if found is None:
        pytest.skip("deid-data is not installed")
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(found)
        dataset.BurnedInAnnotation = "NO"
        del dataset.SequenceOfUltrasoundRegions
        (tmp_path / "in").mkdir()
        dataset.save_as(tmp_path / "in" / "a.dcm")
    save(scan(seed=1), tmp_path / "in" / "good.dcm")
    summary = ingest(tmp_path / "in", tmp_path / "home", IngestSettings(image_size=32), ocr=True)
    assert summary.reasons == {"text_found": 1}
