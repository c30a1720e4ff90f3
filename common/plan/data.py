"""The plan's `[data]` table: which scans belong to the study, and the one form they are brought to."""

import re
from dataclasses import dataclass

from common.plan.label_rule import RULE, is_label
from common.plan.rules import require


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """Which scans belong to the study, and the one form they are brought to.

    Attributes:
        modality: DICOM Modality codes that are admitted, e.g. ("CR", "DX"); empty admits any.
        body_part: DICOM BodyPartExamined written into synthetic images.
        body_parts: BodyPartExamined codes that are admitted; empty admits any.
        views: ViewPosition codes that are admitted, e.g. ("PA", "AP"); empty admits any.
        min_side: Fewest rows and fewest columns of an admitted image, pixels.
        image_size: Side of the square training image, pixels.
        window: "dicom" (the file's own VOI window), "percentile" (1st to 99th percentile of the one image), or
            (centre, width) in the modality's unit (HU for CT): a public constant.
        labels: The classes, in order; empty trains an unconditional model.
        label_attribute: DICOM keyword whose value is an image's label; empty reads the site's `labels.csv`.
        min_patients: Fewest patients a site must have to take part.
    """

    image_size: int = 64
    modality: tuple[str, ...] = ()
    body_part: str = ""
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_side: int = 16
    window: str | tuple[float, float] = "dicom"
    labels: tuple[str, ...] = ()
    label_attribute: str = ""
    min_patients: int = 50

    def __post_init__(self) -> None:
        require(28 <= self.image_size <= 128, "data.image_size", "from 28 to 128", self.image_size)
        require(self.image_size % 4 == 0, "data.image_size", "a multiple of 4", self.image_size)
        if isinstance(self.window, str):
            require(
                self.window in ("dicom", "percentile"),
                "data.window",
                "dicom, percentile or [centre, width]",
                self.window,
            )
        else:
            require(self.window[1] > 0, "data.window", "[centre, width] with width above 0", list(self.window))
        require(len(set(self.labels)) == len(self.labels), "data.labels", "free of repeats", list(self.labels))
        require(len(self.labels) != 1, "data.labels", "empty or two and more", list(self.labels))
        require(
            all(map(is_label, self.labels)),
            "data.labels",
            f"names, each of {RULE}",
            list(self.labels),
        )
        require(
            all(re.fullmatch(r"[A-Z]{2,16}", code) for code in self.modality),
            "data.modality",
            "DICOM codes such as CT",
            list(self.modality),
        )
        require(
            re.fullmatch(r"[A-Z0-9 _]{0,16}", self.body_part) is not None,
            "data.body_part",
            "a DICOM code such as CHEST",
            self.body_part,
        )
        require(self.min_patients >= 1, "data.min_patients", "1 or more", self.min_patients)
        for key, codes in (("body_parts", self.body_parts), ("views", self.views)):
            require(
                all(re.fullmatch(r"[A-Z0-9 _]{1,16}", code) for code in codes),
                f"data.{key}",
                "DICOM codes such as CHEST or PA",
                list(codes),
            )
        require(1 <= self.min_side <= 65_535, "data.min_side", "from 1 to 65535", self.min_side)
        require(
            re.fullmatch(r"([A-Z][A-Za-z0-9]{0,63})?", self.label_attribute) is not None,
            "data.label_attribute",
            "a DICOM keyword such as PatientSex",
            self.label_attribute,
        )
