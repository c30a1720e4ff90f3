"""Real DICOM files for tests: written here, byte for byte what a scanner would send, one thing changed at a time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def picture(seed: int = 0, *, rows: int = 40, columns: int = 48, bits: int = 12) -> NDArray[np.uint16]:
    """A smooth picture of which no two are alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    wave = np.sin(x / random.uniform(3, 9) + random.uniform(0, 6)) + np.cos(y / random.uniform(3, 9))
    noise = random.normal(0, 0.05, (rows, columns))
    unit = (wave + 2) / 4 + noise
    return (np.clip(unit, 0, 1) * ((1 << bits) - 1)).astype(np.uint16)


def scan(pixels: NDArray[Any] | None = None, *, seed: int = 0, patient: str = "P1", **values: Any) -> Dataset:
    """A CT slice; `values` set or, with None, delete attributes."""
    if pixels is None:
        pixels = picture(seed)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.2.826.0.1.3680043.8.498.{seed}"
    dataset.Modality, dataset.PatientID, dataset.ImageType = "CT", patient, ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a dataset as a DICOM file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def cohort(folder: Path, *, patients: int = 3, images: int = 2) -> list[Path]:
    """A folder of patients P0, P1, ... with as many different images each."""
    return [
        save(scan(seed=100 * p + i + 1, patient=f"P{p}"), folder / f"p{p}" / f"i{i}.dcm")
        for p in range(patients)
        for i in range(images)
    ]


def write_labels(folder: Path, *lines: str, header: str = "patient_id,sop_instance_uid,label") -> Path:
    """Write labels.csv."""
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path
