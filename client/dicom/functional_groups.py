"""Attributes of one frame of an enhanced object: from its own functional groups, the shared ones, or the top level."""

from typing import Any

from pydicom.dataset import Dataset

from client.dicom.tags import value_of

SECTIONS = {
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
}
"""Functional group that holds an attribute in an enhanced object (PS3.3 C.7.6.16.2)."""


def groups_of(dataset: Dataset, frame: int) -> list[Dataset]:
    """Return the functional groups of a frame, its own before the shared ones; none for classic objects."""
    found: list[Dataset] = []
    per_frame = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if per_frame and frame < len(per_frame):
        found.append(per_frame[frame])
    shared = value_of(dataset, "SharedFunctionalGroupsSequence")
    if shared:
        found.append(shared[0])
    return found


def value_in(dataset: Dataset, groups: list[Dataset], keyword: str) -> Any:
    """Return an attribute from the frame's groups, else from the top level, else None.

    Args:
        dataset: The enhanced object.
        groups: The frame's own groups, then the shared ones.
        keyword: Keyword of the attribute.
    """
    for group in groups:
        section = value_of(group, SECTIONS[keyword])
        if section and value_of(section[0], keyword) is not None:
            return value_of(section[0], keyword)
    return value_of(dataset, keyword)
