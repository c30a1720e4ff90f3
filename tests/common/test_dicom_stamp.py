"""The fast writer's files are the full writer's files, byte for byte."""

import numpy as np
import pytest

from common.dicom.export import Provenance, synthetic_bytes
from common.dicom.stamp import Stamp

PROVENANCE = Provenance(
    study="chest-2026", plan_digest="a" * 64, decoder_digest="b" * 64, epsilon=7.91, delta=1e-5, seed=3
)


@pytest.mark.parametrize("edition", ["2022", "current"])
@pytest.mark.parametrize("modality", ["CR", "DX", "CT", "MR", "MG", "US", "OT"])
@pytest.mark.parametrize("window", [None, (40.0, 400.0)])
def test_a_stamped_file_is_the_full_writers_to_the_byte(
    modality: str, edition: str, window: tuple[float, float] | None
) -> None:
    random = np.random.default_rng(0)
    place = {
        "label": "lesion",
        "modality": modality,
        "body_part": "CHEST",
        "provenance": PROVENANCE,
        "edition": edition,
        "window": window,
    }
    stamp = Stamp(**place)  # type: ignore[arg-type]
    for shape in ((64, 64), (33, 31)):
        for index in (0, 9, 10, 123_456):
            pixels = random.integers(0, 255, shape).astype(np.uint8)
            assert stamp.file(pixels, index=index) == synthetic_bytes(pixels, index=index, **place)  # type: ignore[arg-type]


def test_what_the_full_writer_refuses_the_stamp_refuses() -> None:
    with pytest.raises(ValueError, match="modality"):
        Stamp(label="a", modality="cr", body_part="", provenance=PROVENANCE).file(np.zeros((8, 8), np.uint8), index=0)
