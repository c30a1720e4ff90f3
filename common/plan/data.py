"""The plan's `[data]` table: which scans belong to the study, and the one form they are brought to."""

from dataclasses import dataclass
from typing import Annotated

from common.plan.bounds import Matching, Such, Table, Within
from common.plan.label_rule import RULE, is_label

_CODES = Matching(r"[A-Z0-9 _]{1,16}", "DICOM codes such as CHEST or PA")
WINDOW_RULES = {
    "dicom": "as the file itself says",
    "percentile": "from the 1st to the 99th percentile of the image",
}
"""Rules by which an image's own window is chosen, and what a data steward reads of each."""
_WINDOW = (
    Such(lambda w: w in WINDOW_RULES or not isinstance(w, str), f"{', '.join(WINDOW_RULES)} or [centre, width]"),
    Such(lambda w: isinstance(w, str) or w[1] > 0, "[centre, width] with width above 0"),
)
_LABELS = (
    Such(lambda labels: len(set(labels)) == len(labels), "free of repeats"),
    Such(lambda labels: len(labels) != 1, "empty or two and more"),
    Such(lambda labels: all(map(is_label, labels)), f"names, each of {RULE}"),
)


@dataclass(frozen=True, kw_only=True)
class DataPlan(Table):
    """Which scans belong to the study, and the one form they are brought to.

    Attributes:
        modality: DICOM Modality codes that are admitted, e.g. ("CR", "DX"); empty admits any.
        body_part: DICOM BodyPartExamined written into synthetic images.
        body_parts: BodyPartExamined codes that are admitted; empty admits any.
        views: ViewPosition codes that are admitted, e.g. ("PA", "AP"); empty admits any.
        min_side: Fewest rows and fewest columns of an admitted image, pixels.
        image_size: Side of the square training image, pixels.
        window: The file's own VOI window with "dicom". The image's own 1st to 99th percentile with "percentile". Or a
            public constant: (centre, width) in the modality's unit, HU for CT.
        labels: The classes, in order; empty trains an unconditional model.
        label_attribute: DICOM keyword whose value is an image's label; empty reads the site's `labels.csv`.
        min_patients: Fewest patients a site must have to take part.
    """

    table = "data"
    costs = {  # noqa: RUF012 - see `Table`
        "image_size": "time and memory, by the square; no budget",
        "labels": "noise: each class is learnt from its own patients",
    }

    image_size: Annotated[int, Within(28, 128), Such(lambda size: size % 4 == 0, "a multiple of 4")] = 64
    modality: Annotated[tuple[str, ...], Matching(r"[A-Z]{2,16}", "DICOM codes such as CT")] = ()
    body_part: Annotated[str, Matching(r"[A-Z0-9 _]{0,16}", "a DICOM code such as CHEST")] = ""
    body_parts: Annotated[tuple[str, ...], _CODES] = ()
    views: Annotated[tuple[str, ...], _CODES] = ()
    min_side: Annotated[int, Within(1, 65_535)] = 16
    window: Annotated[str | tuple[float, float], *_WINDOW] = "dicom"
    labels: Annotated[tuple[str, ...], *_LABELS] = ()
    label_attribute: Annotated[str, Matching(r"([A-Z][A-Za-z0-9]{0,63})?", "a DICOM keyword such as PatientSex")] = ""
    min_patients: Annotated[int, Within(1)] = 50

    @property
    def classes(self) -> int:
        """Number of classes: of the labels, or 1 without any."""
        return max(1, len(self.labels))
