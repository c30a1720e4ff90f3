"""Making hospitals out of a public data set: one folder of DICOM files and labels.csv for each site."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.dicom.iods import SCAN_CLASSES, derive_uid, new_image
from common.errors import SourceError
from common.plan.label_rule import RULE, as_label, is_label
from deploy.data.dicom_scans import write_scan
from deploy.data.sources import Item, open_source
from deploy.data.split import split_patients
from deploy.data.tables import Table, write_labels
from deploy.release.drafts import whole_folder

log = logging.getLogger(__name__)

_KINDS = {"OP": ("ORIGINAL", "PRIMARY"), "PT": ("DERIVED", "PRIMARY"), "NM": ("DERIVED", "PRIMARY")}
"""ImageType of the classes that allow no SECONDARY (PS3.3 C.8.4.9.1.1, C.8.9.4.1.1, C.8.17.2.1.4)."""


@dataclass(frozen=True, kw_only=True)
class SiteSummary:
    """What one site got: its folder's name, its patients, its images, and the images of each label."""

    name: str
    patients: int
    images: int
    labels: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import wrote.

    Attributes:
        sites: What each site got, in order.
        skipped: Images that could not be decoded and were left out.
        twins: Images left out because the site has them already, under another id.
    """

    sites: tuple[SiteSummary, ...]
    skipped: int
    twins: int

    @property
    def patients(self) -> int:
        """Patients of all sites."""
        return sum(site.patients for site in self.sites)

    @property
    def images(self) -> int:
        """Images of all sites."""
        return sum(site.images for site in self.sites)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON types."""
        return {
            "patients": self.patients,
            "images": self.images,
            "skipped": self.skipped,
            "twins": self.twins,
            "sites": [dict(vars(site)) for site in self.sites],
        }


def import_source(
    source: Path,
    out: Path,
    *,
    sites: int,
    split: str = "iid",
    seed: int = 0,
    csv: Path | None = None,
    patient_column: str | None = None,
    label_column: str | None = None,
    file_column: str | None = None,
    modality: str = "CR",
    body_part: str = "CHEST",
    parts: tuple[str, ...] = ("train",),
    label_names: tuple[str, ...] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportSummary:
    """Write `out`/site-1 ... site-N from a public data set; whole or not at all, the same bytes every time.

    Args:
        source: A MedMNIST .npz, a folder of MNIST idx .gz files, or a folder or .zip of class folders of
            images, of images described by `csv`, or of DICOM files, which are copied as they are.
        out: Folder to create; must be absent or empty.
        sites: Number of sites, 1 or more.
        split: "iid", "by-patient" or "dirichlet:ALPHA" (`deploy.data.split.split_patients`).
        seed: Of the split.
        csv: Table that names patient and label of each image.
        patient_column: Its column of patient ids; needed with `csv`.
        label_column: Its column of labels; an empty cell leaves the image unlabelled.
        file_column: Its column of file names; found by its values where None.
        modality: DICOM Modality of the written scans, one of `common.dicom.iods.SCAN_CLASSES`; any other would become
            a secondary capture, which a hospital's reader does not take for scans, and is refused.
        body_part: DICOM BodyPartExamined of the written scans.
        parts: Parts of a MedMNIST file or of MNIST.
        label_names: Names of the classes 0, 1, ... of arrays.
        limit: Most images to take, of each class folder where there are class folders; else shared by the classes.
        progress: Called with the images done and the images in all.

    Returns:
        What each site got.

    Raises:
        SourceError: The source is of unknown or broken form, lacks a column or part, or has too few patients;
            `split`, `modality` or `body_part` cannot be used.
        OutputInUse: `out` holds something; nothing was written.
    """
    _check_codes(modality, body_part)
    table = _table(csv, patient_column, label_column, file_column)
    with (
        whole_folder(out) as draft,
        open_source(source, table=table, parts=parts, label_names=label_names, limit=limit) as listed,
    ):
        items = _labelled(listed)
        writer = _Writer(
            source=source.name, modality=modality, body_part=body_part, total=len(items), progress=progress
        )
        patients: dict[str, list[Item]] = {}
        for item in items:
            patients.setdefault(item.patient, []).append(item)
        counts = {patient: len(own) for patient, own in patients.items()}
        dealt = split_patients(counts, _main_labels(patients), sites=sites, split=split, seed=seed)
        summaries = tuple(
            writer.write_site(draft / f"site-{number}", {patient: patients[patient] for patient in site})
            for number, site in enumerate(dealt, start=1)
        )
        if empty := [site.name for site in summaries if not site.images]:
            raise SourceError(f"{', '.join(empty)} got no image that can be decoded ({writer.skipped} could not).")
    found = ImportSummary(sites=summaries, skipped=writer.skipped, twins=writer.twins)
    log.info("imported %d images into %d sites, %d skipped, %d twins", found.images, sites, found.skipped, found.twins)
    return found


class _Writer:
    """Writes sites one after the other and counts along.

    A public data set may hold one picture under several ids, of which nothing tells that they are one patient's. A site
    gets the first; a hospital's own ingest would count the picture for each id.
    """

    def __init__(
        self,
        *,
        source: str,
        modality: str,
        body_part: str,
        total: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.source, self.modality, self.body_part = source, modality, body_part
        self.total, self.progress = total, progress
        self.done = self.skipped = self.twins = 0
        self._pictures: dict[bytes, str] = {}

    def write_site(self, folder: Path, patients: dict[str, list[Item]]) -> SiteSummary:
        """Write one site's scans, numbered in one folder, and its labels.csv."""
        folder.mkdir()
        self._pictures.clear()
        lines: list[tuple[str, str, str]] = []
        labels: Counter[str] = Counter()
        images = present = 0
        for patient, items in patients.items():
            uids: list[tuple[str, str]] = []
            for item in items:
                if (uid := self._write_item(folder / f"{images + 1:06d}.dcm", item)) is not None:
                    images += 1
                    uids.append((uid, item.label))
            present += bool(uids)
            labels.update(label for _, label in uids if label)
            lines += _label_lines(patient, uids)
        write_labels(folder / "labels.csv", lines)
        return SiteSummary(name=folder.name, patients=present, images=images, labels=dict(sorted(labels.items())))

    def _write_item(self, path: Path, item: Item) -> str | None:
        """Write one image and return its SOP Instance UID; None where it cannot be decoded, or is another's twin."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        try:
            image = item.read()
        except (OSError, ValueError) as error:
            self.skipped += 1
            log.warning("image %d of %d left out: %s", self.done, self.total, type(error).__name__)
            return None
        uid = derive_uid("import", self.source, item.name)
        if not isinstance(image, bytes) and self._is_twin(item.patient, image):
            self.twins += 1
            return None
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            self._write_pixels(path, item, image, uid)
        return uid

    def _is_twin(self, patient: str, pixels: NDArray[Any]) -> bool:
        """Whether another patient of the site has this very picture."""
        picture = hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode() + pixels.tobytes()).digest()
        return self._pictures.setdefault(picture, patient) != patient

    def _write_pixels(self, path: Path, item: Item, pixels: NDArray[Any], uid: str) -> None:
        levels = 256 if pixels.dtype == np.uint8 else 65536
        write_scan(
            path,
            pixels,
            patient_id=item.patient,
            instance_uid=uid,
            study_uid=derive_uid("import study", self.source, item.name),
            series_uid=derive_uid("import series", self.source, item.name),
            modality=self.modality,
            body_part=self.body_part,
            image_type=_KINDS.get(self.modality, ("DERIVED", "SECONDARY")),
            window=(levels // 2, levels),
        )


def _check_codes(modality: str, body_part: str) -> None:
    """Refuse codes that DICOM cannot hold before anything is read."""
    if re.fullmatch(r"[A-Z0-9_]{2,16}", modality) and modality not in SCAN_CLASSES:
        raise SourceError(
            f"modality {modality} was asked for, but only {', '.join(SCAN_CLASSES)} are written "
            "as scans of their own class; ingest refuses the captures that others would become. Name one of these."
        )
    try:
        new_image(modality, body_part=body_part, image_uid="2.25.0", series_uid="2.25.0", study_uid="2.25.0", scan=True)
    except ValueError as error:
        raise SourceError(f"{error}. Name another one.") from error


def _labelled(items: list[Item]) -> list[Item]:
    """The items with their labels as every later reader compares them; refused where no plan could name one."""
    items = [replace(item, label=as_label(item.label)) for item in items]
    if wrong := sorted({item.label for item in items if item.label and not is_label(item.label)}):
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise SourceError(f"label {wrong[0]!r}{more}: a label must be {RULE}. Rename the class in the source.")
    return items


def _table(csv: Path | None, patient: str | None, label: str | None, file: str | None) -> Table | None:
    if csv is not None:
        return Table(path=csv, patient_column=patient, label_column=label, file_column=file)
    if patient or label or file:
        raise SourceError("a column was named, but no table. Name the table with --csv.")
    return None


def _main_labels(patients: dict[str, list[Item]]) -> dict[str, str]:
    """The most frequent label of each patient, the alphabet deciding ties; unlabelled images do not vote."""
    main = {}
    for patient, items in patients.items():
        votes = Counter(item.label for item in items if item.label)
        if votes:
            main[patient] = min(votes, key=lambda label: (-votes[label], label))
    return main


def _label_lines(patient: str, images: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Lines of labels.csv: one for a patient whose images agree, one an image where they do not."""
    labels = {label for _, label in images}
    if len(labels) == 1:
        return [(patient, "", label) for label in labels if label]
    return [(patient, uid, label) for uid, label in images if label]
