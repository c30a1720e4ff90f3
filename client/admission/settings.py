"""What a plan asks of a file, in the form that admission works with; free of torch, so that decoders start fast."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from common.plan.data import WINDOW_RULES
from common.plan.study_plan import StudyPlan

PIPELINE = 3
"""Raised whenever the same file would give other pixels than before.

An ingest makes a cache of this pipeline. A study that began with a cache of an earlier one goes on with it until then.
"""
_RULE = "who is who 1"
"""Raised whenever the same file would get other keys than before; records of another rule are read afresh."""


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """How scans are chosen and brought to the one form of a study.

    Attributes:
        image_size: Side of the square training image, pixels.
        modality: DICOM Modality codes admitted; empty admits any.
        window: One of `common.plan.data.WINDOW_RULES`, or (centre, width) in the modality's unit.
        labels: The classes, in order; empty gives every image label 0.
        body_parts: BodyPartExamined codes admitted; empty admits any.
        views: ViewPosition codes admitted, e.g. ("PA", "AP"); empty admits any.
        min_side: Fewest rows and fewest columns of an image, pixels.
        label_attribute: DICOM keyword whose value is the label; empty reads `labels.csv`.
    """

    image_size: int
    modality: tuple[str, ...] = ()
    window: str | tuple[float, float] = "dicom"
    labels: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_side: int = 16
    label_attribute: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= 1024:
            raise ValueError(f"image_size must be from 1 to 1024, not {self.image_size}")
        if isinstance(self.window, str):
            if self.window not in WINDOW_RULES:
                raise ValueError(f"window must be {', '.join(WINDOW_RULES)} or (centre, width), not {self.window!r}")
        elif not self.window[1] > 0:
            raise ValueError(f"window width must be above 0, not {self.window[1]}")

    @classmethod
    def from_plan(cls, plan: StudyPlan) -> Self:
        """Take what admission needs from a plan's [data] table."""
        data = plan.data
        return cls(
            image_size=data.image_size,
            modality=data.modality,
            window=data.window,
            labels=data.labels,
            body_parts=data.body_parts,
            views=data.views,
            min_side=data.min_side,
            label_attribute=data.label_attribute,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Undo `to_dict`."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        return cls(**values)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form: JSON, sorted keys, no blanks, with the pipeline's number."""
        return self._digest(PIPELINE)

    @property
    def earlier_digests(self) -> tuple[str, ...]:
        """What earlier versions called the same form, the newest first."""
        return tuple(self._digest(pipeline) for pipeline in range(PIPELINE - 1, 0, -1))

    def _digest(self, pipeline: int) -> str:
        canonical = json.dumps({**self.to_dict(), "pipeline": pipeline}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def reading_of(settings: str, *, ocr: bool) -> str:
    """Return the digest of a reading.

    Args:
        settings: Digest of the settings of the image form.
        ocr: Whether text is looked for in pictures that their header calls clean.
    """
    return hashlib.sha256(f"{settings} {ocr} {_RULE}".encode()).hexdigest()


def looked_for_text(reading: str, settings: str) -> bool | None:
    """Return whether text was looked for in the pictures of an ingest; None of one that an older version made.

    Args:
        reading: Its `Admission.reading`.
        settings: Digest of its settings, as the cache keeps it.
    """
    return next((ocr for ocr in (True, False) if reading_of(settings, ocr=ocr) == reading), None)
