"""Source scans are what a hospital's archive would hold, byte for byte the same each time."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from common.dicom.iods import derive_uid
from deploy.data.dicom_scans import TRANSFER_SYNTAXES, write_scan

UIDS = {
    "study_uid": derive_uid("study"),
    "series_uid": derive_uid("series"),
    "instance_uid": derive_uid("scan"),
}
KINDS = {
    "8 bit": (np.uint8, 0, 255, 8),
    "12 in 16": (np.uint16, 0, 4095, 12),
    "16 bit": (np.uint16, 0, 65535, 16),
    "signed": (np.int16, -1024, 3071, 16),
}


@pytest.fixture(autouse=True)
def strict_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pydicom refuse, while reading, whatever breaks the standard's value rules."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)


def grey(kind: str, shape: tuple[int, int] = (41, 33)) -> NDArray[Any]:
    dtype, low, high, _ = KINDS[kind]
    return np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("transfer_syntax", sorted(TRANSFER_SYNTAXES))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_bit_depth_survives_every_transfer_syntax(tmp_path: Path, kind: str, transfer_syntax: str) -> None:
    bits = KINDS[kind][3]
    for path in (tmp_path / "a.dcm", tmp_path / "b.dcm"):
        write_scan(
            path,
            grey(kind),
            patient_id="P-1",
            modality="CT" if kind == "signed" else "CR",
            bits_stored=bits,
            transfer_syntax=transfer_syntax,
            window=(40, 400),
            sex="F",
            age_years=7,
            **UIDS,
        )
    scan = pydicom.dcmread(tmp_path / "a.dcm")
    str(scan)
    assert scan.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[transfer_syntax]
    assert (scan.BitsStored, scan.PixelRepresentation) == (bits, int(kind == "signed"))
    np.testing.assert_array_equal(scan.pixel_array, grey(kind))
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_what_is_asked_for_is_what_the_header_says(tmp_path: Path) -> None:
    write_scan(
        tmp_path / "x.dcm",
        grey("12 in 16"),
        patient_id="P-1",
        modality="CR",
        body_part="HAND",
        bits_stored=12,
        photometric="MONOCHROME1",
        window=(2047.5, 4096),
        rescale=(0.1, -3),
        burned_in=True,
        sex="M",
        age_years=64,
        instance_number=3,
        **UIDS,
    )
    scan = pydicom.dcmread(tmp_path / "x.dcm")
    assert (scan.PatientID, scan.PatientSex, scan.PatientAge) == ("P-1", "M", "064Y")
    assert (scan.Modality, scan.BodyPartExamined, scan.InstanceNumber) == ("CR", "HAND", 3)
    assert scan.PhotometricInterpretation == "MONOCHROME1"
    assert (scan.WindowCenter, scan.WindowWidth) == (2047.5, 4096)
    assert (float(scan.RescaleSlope), float(scan.RescaleIntercept), scan.RescaleType) == (0.1, -3.0, "US")
    assert scan.BurnedInAnnotation == "YES"
    assert list(scan.ImageType) == ["ORIGINAL", "PRIMARY"]


def test_a_ct_in_hounsfield_units_says_so(tmp_path: Path) -> None:
    write_scan(tmp_path / "x.dcm", grey("signed"), patient_id="P", modality="CT", rescale=(1, -1024), **UIDS)
    scan = pydicom.dcmread(tmp_path / "x.dcm")
    assert scan.RescaleType == "HU"
    assert list(scan.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_no_window_tags_unless_asked_for(tmp_path: Path) -> None:
    write_scan(tmp_path / "x.dcm", grey("8 bit"), patient_id="P", **UIDS)
    scan = pydicom.dcmread(tmp_path / "x.dcm")
    assert "WindowCenter" not in scan
    assert "RescaleSlope" not in scan


@pytest.mark.parametrize(
    ("change", "message"),
    [({"transfer_syntax": "jpeg"}, "transfer_syntax"), ({"modality": "DX", "rescale": (2, 0)}, "rescale")],
)
def test_what_the_standard_forbids_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_scan(tmp_path / "x.dcm", grey("8 bit"), patient_id="P", **UIDS, **change)
    assert not (tmp_path / "x.dcm").exists()
