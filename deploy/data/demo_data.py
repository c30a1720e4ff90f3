"""Three demo hospitals full of chest phantoms, as unlike each other as real archives are.

They differ in matrix size, bit depth, polarity, window and rescale tags, transfer syntax and case mix. Each holds a few
files that no reader should accept or stumble over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.dicom.iods import derive_uid
from common.images.phantoms import draw_image, draw_patient
from deploy.data.bad_files import write_bad_files
from deploy.data.dicom_scans import write_scan
from deploy.data.tables import write_labels
from deploy.release.drafts import whole_folder

LABELS = ("normal", "lesion")
_IMAGES_PER_PATIENT = (0.58, 0.28, 0.10, 0.04)
"""Share of patients with 1, 2, 3 and 4 images: 1.6 on average."""


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """How one demo hospital's archive stores its scans.

    Attributes:
        name: Name of its folder.
        prefix: First letter of its patient ids.
        lesions: Share of its patients with label 1.
        modality: DICOM Modality code.
        rows: Rows of an image.
        columns: Columns of an image, at most `rows`; the sides are cropped.
        bits_stored: Bits in use: up to 8 in one byte, up to 16 in two.
        photometric: MONOCHROME1 stores the negative.
        window: WindowCenter and WindowWidth, in rescaled units, that show the image as it was meant.
        rescale: RescaleSlope and RescaleIntercept; (1, 0) writes no tags.
        transfer_syntax: A name of `deploy.data.dicom_scans.TRANSFER_SYNTAXES`.
        label_lines: Whether labels.csv has a line a patient or a line an image.
    """

    name: str
    prefix: str
    lesions: float
    modality: str
    rows: int
    columns: int
    bits_stored: int
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    window: tuple[float, float]
    rescale: tuple[float, float]
    transfer_syntax: str
    label_lines: Literal["patient", "image"]


HOSPITALS = (
    Hospital(
        name="north",
        prefix="N",
        lesions=0.30,
        modality="CR",
        rows=64,
        columns=64,
        bits_stored=12,
        photometric="MONOCHROME2",
        window=(1900, 3000),
        rescale=(1, 0),
        transfer_syntax="implicit",
        label_lines="patient",
    ),
    Hospital(
        name="river",
        prefix="R",
        lesions=0.50,
        modality="DX",
        rows=80,
        columns=80,
        bits_stored=8,
        photometric="MONOCHROME1",
        window=(128, 256),
        rescale=(1, 0),
        transfer_syntax="rle",
        label_lines="image",
    ),
    Hospital(
        name="hill",
        prefix="H",
        lesions=0.65,
        modality="CR",
        rows=96,
        columns=88,
        bits_stored=16,
        photometric="MONOCHROME2",
        window=(500, 4000),
        rescale=(0.1, -2000),
        transfer_syntax="jpeg2000",
        label_lines="patient",
    ),
)


def write_demo_hospitals(
    out: Path,
    *,
    patients: tuple[int, int, int] = (1500, 1000, 700),
    seed: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the three hospitals' folders of DICOM files, `labels.csv` in each; whole or not at all.

    Args:
        out: Folder to create; must be absent or empty.
        patients: Patients at north, river and hill, each 1 or more.
        seed: Same seed, same bytes.
        progress: Called with the patients done and the patients in all.

    Returns:
        The folders of the three hospitals.

    Raises:
        OutputInUse: `out` holds something; nothing was written.
        ValueError: A hospital without patients.
    """
    if min(patients) < 1:
        raise ValueError(f"patients must be 1 or more at each hospital, not {patients}")
    report = progress or (lambda _done, _total: None)
    done, total = 0, sum(patients)
    with whole_folder(out) as draft:
        for hospital, count in zip(HOSPITALS, patients, strict=True):
            folder = draft / hospital.name
            lines: list[tuple[str, str, str]] = []
            for number in range(count):
                lines += _write_patient(folder, hospital, number, seed=seed)
                done += 1
                report(done, total)
            write_bad_files(
                folder / "unsorted",
                patient_id=_patient_id(hospital, 0),
                modality=hospital.modality,
                rows=hospital.rows,
                columns=hospital.columns,
            )
            write_labels(folder / "labels.csv", lines)
    return [out / hospital.name for hospital in HOSPITALS]


def to_stored(image: NDArray[np.float32], hospital: Hospital) -> NDArray[Any]:
    """Turn [-1, 1] into the stored values that the hospital's tags undo (LINEAR window, PS3.3 C.11.2.1.2.1).

    Args:
        image: [height, width], float32 in [-1, 1], MONOCHROME2 sense.
        hospital: Whose tags.

    Returns:
        Same shape, uint8 or uint16.
    """
    unit = -image if hospital.photometric == "MONOCHROME1" else image
    centre, width = hospital.window
    slope, intercept = hospital.rescale
    shown = (centre - 0.5) + unit.astype(np.float64) * (width - 1) / 2
    stored = np.clip(np.rint((shown - intercept) / slope), 0, (1 << hospital.bits_stored) - 1)
    return stored.astype(np.uint8 if hospital.bits_stored <= 8 else np.uint16)


def _write_patient(folder: Path, hospital: Hospital, number: int, *, seed: int) -> list[tuple[str, str, str]]:
    """Write all images of one patient, one study each; returns the patient's lines of labels.csv."""
    rng = np.random.default_rng([seed, *hospital.name.encode(), number])
    anatomy = draw_patient(rng)
    label = int(rng.random() < hospital.lesions)
    count = 1 + int(rng.choice(len(_IMAGES_PER_PATIENT), p=_IMAGES_PER_PATIENT))
    sex, age = str(rng.choice(["F", "M"])), int(rng.integers(18, 90))
    patient_id = _patient_id(hospital, number)
    crop = (hospital.rows - hospital.columns) // 2
    uids = []
    for visit in range(1, count + 1):
        image = draw_image(anatomy, label=label, size=hospital.rows, rng=rng)
        source = ("demo", str(seed), patient_id, str(visit))
        uids.append(derive_uid(*source, "image"))
        study = folder / patient_id / f"study-{visit}"
        study.mkdir(parents=True)
        write_scan(
            study / "image.dcm",
            to_stored(image[:, crop : crop + hospital.columns], hospital),
            patient_id=patient_id,
            study_uid=derive_uid(*source),
            series_uid=derive_uid(*source, "series"),
            instance_uid=uids[-1],
            modality=hospital.modality,
            body_part="CHEST",
            sex=sex,
            age_years=age,
            photometric=hospital.photometric,
            bits_stored=hospital.bits_stored,
            window=hospital.window,
            rescale=None if hospital.rescale == (1, 0) else hospital.rescale,
            transfer_syntax=hospital.transfer_syntax,
        )
    if hospital.label_lines == "image":
        return [(patient_id, uid, LABELS[label]) for uid in uids]
    return [(patient_id, "", LABELS[label])]


def _patient_id(hospital: Hospital, number: int) -> str:
    return f"{hospital.prefix}-{number + 1:05d}"
