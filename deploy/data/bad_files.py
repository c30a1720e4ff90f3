"""Files that lie about in every archive and that no study may take in; a reader reports each and goes on."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import BasicTextSRStorage, SecondaryCaptureImageStorage

from common.dicom.iods import coded, derive_uid, new_image, save
from deploy.data.dicom_scans import write_scan


def write_bad_files(folder: Path, *, patient_id: str, modality: str, rows: int, columns: int) -> list[Path]:
    """Write one bad file of each kind.

    The kinds: truncated, text named .dcm, structured report, no pixel data, zero bytes, constant image,
    screenshot with burned-in text, a scan with burned-in text, more rows than bytes.

    Args:
        folder: Folder to create.
        patient_id: PatientID of those that have one.
        modality: DICOM Modality code of the images.
        rows: Rows of the images.
        columns: Columns of the images.

    Returns:
        The files, in the order above.
    """
    folder.mkdir(parents=True)
    ramp = np.tile(np.linspace(0, 255, columns).astype(np.uint8), (rows, 1))

    def scan(name: str, *, level: int | None = None, burned_in: bool = False) -> Path:
        path = folder / name
        uids = [derive_uid("bad file", patient_id, name, kind) for kind in ("study", "series", "image")]
        write_scan(
            path,
            ramp if level is None else np.full_like(ramp, level),
            patient_id=patient_id,
            study_uid=uids[0],
            series_uid=uids[1],
            instance_uid=uids[2],
            modality=modality,
            window=(128, 256),
            burned_in=burned_in,
        )
        return path

    truncated = scan("truncated.dcm")
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[: len(whole) - ramp.size // 2])
    text = folder / "readme.dcm"
    text.write_text("Copied from the archive. Please do not delete.\n", encoding="utf-8")
    empty = folder / "empty.dcm"
    empty.write_bytes(b"")
    screenshot = scan("screenshot.dcm", burned_in=True)
    _change(
        screenshot,
        SOPClassUID=SecondaryCaptureImageStorage,
        ImageType=["DERIVED", "SECONDARY"],
        ConversionType="WSD",
    )
    absurd = scan("absurd-rows.dcm")
    _change(absurd, Rows=60_000)
    constant = scan("constant.dcm", level=77)
    burned_in = scan("burned-in.dcm", burned_in=True)
    return [
        truncated,
        text,
        _write_report(folder / "report.dcm", patient_id=patient_id),
        _without_pixels(scan("no-pixels.dcm")),
        empty,
        constant,
        screenshot,
        burned_in,
        absurd,
    ]


def _change(path: Path, **attributes: object) -> None:
    dataset = dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dcmwrite(path, dataset)


def _without_pixels(path: Path) -> Path:
    dataset = dcmread(path)
    del dataset.PixelData
    dcmwrite(path, dataset)
    return path


def _write_report(path: Path, *, patient_id: str) -> Path:
    """Write a Basic Text structured report of one sentence (PS3.3 A.35.1)."""
    uids: dict[str, Any] = {
        f"{kind}_uid": derive_uid("bad file", patient_id, "report", kind) for kind in ("image", "series", "study")
    }
    report = new_image("SR", body_part="", **uids)
    for keyword in ("BodyPartExamined", "ConversionType", "PatientOrientation", "LossyImageCompression"):
        delattr(report, keyword)
    report.SOPClassUID = BasicTextSRStorage
    report.PatientName, report.PatientID = patient_id, patient_id
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = [coded("18748-4", "Diagnostic imaging report", scheme="LN")]
    report.ContentDate, report.ContentTime = "20000101", "000000"
    sentence = Dataset()
    sentence.RelationshipType, sentence.ValueType = "CONTAINS", "TEXT"
    sentence.ConceptNameCodeSequence = [coded("121071", "Finding", scheme="DCM")]
    sentence.TextValue = "No finding."
    report.ContentSequence = [sentence]
    save(report, path)
    return path
