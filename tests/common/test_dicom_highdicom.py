"""highdicom reads our synthetic files, and makes segmentations of them; skipped where it is not installed."""

from typing import Any

import numpy as np
import pydicom
import pytest

from common.dicom.export import Provenance, synthetic_bytes
from common.dicom.iods import OWN_CLASSES

highdicom: Any = pytest.importorskip("highdicom", reason="highdicom is no part of this project: pip install highdicom")

PROVENANCE = Provenance(
    study="chest-2026", plan_digest="a" * 64, decoder_digest="b" * 64, epsilon=7.91, delta=1e-5, seed=3
)


def written(folder: Any, modality: str, count: int) -> list[Any]:
    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        pixels = random.integers(0, 256, (32, 32)).astype(np.uint8)
        paths.append(folder / f"{index}.dcm")
        paths[-1].write_bytes(
            synthetic_bytes(
                pixels, modality=modality, body_part="BREAST", label="lesion", index=index, provenance=PROVENANCE,
                window=(40.0, 400.0),
            )
        )  # fmt: skip
    return paths


@pytest.mark.parametrize("modality", OWN_CLASSES)
def test_a_hundred_files_of_each_class_are_read_with_their_pixels(tmp_path: Any, modality: str) -> None:
    for path in written(tmp_path, modality, 100):
        image = highdicom.imread(path)
        assert image.get_frame(1, apply_modality_transform=False, apply_voi_transform=False).shape == (32, 32)
        np.testing.assert_array_equal(image.get_stored_frame(1).reshape(32, 32), pydicom.dcmread(path).pixel_array)
        assert image.SyntheticData == "YES"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_segmentation_refers_to_a_synthetic_slice(tmp_path: Any, modality: str) -> None:
    (path,) = written(tmp_path, modality, 1)
    source = pydicom.dcmread(path)
    mask = np.zeros((1, 32, 32), dtype=np.uint8)
    mask[0, 8:16, 8:16] = 1
    lesion = highdicom.sr.CodedConcept("49755003", "SCT", "Lesion")
    segment = highdicom.seg.SegmentDescription(
        segment_number=1, segment_label="x", segmented_property_category=lesion, segmented_property_type=lesion,
        algorithm_type="MANUAL",
    )  # fmt: skip
    made = highdicom.seg.Segmentation(
        [source], mask, "BINARY", [segment], "2.25.1", 1, "2.25.2", 1, "wardround", "test", "1", "1",
    )  # fmt: skip
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert made.PatientID == source.PatientID
