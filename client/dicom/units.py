"""Whether the values of an image are in the unit that a plan's public window counts in.

A window of a plan is two numbers without a unit. For CT they are Hounsfield units, for PET the standardized uptake
value by body weight; other modalities have no unit that sites share.

Source:
    PS3.3 C.8.2.1 (CT: slope and intercept are type 1; RescaleType where it is not HU), C.11.1.1.2 (RescaleType),
    C.8.9.1.1.3 (Units of PET), C.8.9.1.1.7 (SUVType).
"""

from pydicom.dataset import Dataset

from client.admission.reasons import Reason
from client.dicom.functional_groups import groups_of, value_in
from client.dicom.reader import text_of
from client.dicom.sop_classes import COMPUTED_TOMOGRAPHY, POSITRON_EMISSION
from client.dicom.tags import value_of
from common.errors import ScanRefused


def check_unit(dataset: Dataset, frames: int, window: str | tuple[float, float]) -> None:
    """Let an image pass whose values mean what the plan's window means.

    Args:
        dataset: The header.
        frames: Its frames.
        window: The plan's; only a pair of numbers counts in a unit.

    Raises:
        ScanRefused: `wrong_unit`.
    """
    if isinstance(window, str):
        return
    sop_class = text_of(dataset, "SOPClassUID")
    if sop_class in COMPUTED_TOMOGRAPHY and not all(_in_hounsfield(dataset, frame) for frame in range(frames)):
        raise ScanRefused(Reason.WRONG_UNIT)
    if sop_class in POSITRON_EMISSION and not _in_uptake(dataset):
        raise ScanRefused(Reason.WRONG_UNIT)


def _in_hounsfield(dataset: Dataset, frame: int) -> bool:
    tables = value_of(dataset, "ModalityLUTSequence")
    if tables:
        return text_of(tables[0], "ModalityLUTType").upper() == "HU"
    groups = groups_of(dataset, frame)
    found = [value_in(dataset, groups, keyword) for keyword in ("RescaleSlope", "RescaleIntercept")]
    unit = str(value_in(dataset, groups, "RescaleType") or "HU").strip().upper()
    return all(value not in (None, "") for value in found) and unit == "HU"


def _in_uptake(dataset: Dataset) -> bool:
    """SUV is told as g/ml; SUVType is absent for body weight."""
    rescaled = value_of(dataset, "RescaleSlope") not in (None, "") or value_of(
        dataset, "SharedFunctionalGroupsSequence"
    )
    kind = text_of(dataset, "SUVType").upper()
    return bool(rescaled) and text_of(dataset, "Units").upper() == "GML" and kind in ("", "BW")
