"""Labels come from attributes whose values many patients share; a site may allow more, none that identifies."""

from pathlib import Path

import pytest

from client.cohort.label_attributes import HARMLESS, allowed, identifies
from client.site.policy import Limits, SitePolicy, inside
from common.errors import PlanRefused, StateError
from common.plan.study_plan import StudyPlan


def plan(attribute: str) -> StudyPlan:
    return StudyPlan.parse(f'name = "who"\n[data]\nlabels = ["a", "b"]\nlabel_attribute = "{attribute}"\n')


@pytest.mark.parametrize("keyword", sorted(HARMLESS))
def test_every_site_takes_labels_from_codes_that_many_patients_share(keyword: str) -> None:
    from pydicom.datadict import dictionary_VR

    assert dictionary_VR(keyword) == "CS"
    assert allowed(keyword, ())
    assert not identifies(keyword)


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientID", "PatientName", "PatientBirthDate", "PatientBirthTime", "OtherPatientIDs", "OtherPatientNames",
        "IssuerOfPatientID", "PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers", "PatientComments",
        "MedicalRecordLocator", "MilitaryRank", "Occupation", "PatientWeight", "ResponsiblePerson", "AccessionNumber",
        "StudyID", "StudyInstanceUID", "SOPInstanceUID", "SeriesNumber", "StudyDate", "StudyTime",
        "AdmissionID", "CurrentPatientLocation", "ClinicalTrialSubjectID", "ReferringPhysicianName", "OperatorsName",
        "FillerOrderNumberImagingServiceRequest", "DeviceSerialNumber", "ImageComments", "AdditionalPatientHistory",
        "PixelData", "NoSuchKeyword", "Private",
    ],
)  # fmt: skip
def test_no_site_takes_labels_from_what_may_identify(tmp_path: Path, keyword: str) -> None:
    assert identifies(keyword)
    with pytest.raises(PlanRefused, match="may identify a patient"):
        inside(SitePolicy(name="north"), plan(keyword))
    (tmp_path / "site.toml").write_text(f'name = "north"\n[limits]\nlabel_attributes = ["{keyword}"]\n')
    with pytest.raises(StateError, match=r"label_attributes.*may identify"):
        SitePolicy.load(tmp_path)


@pytest.mark.parametrize("keyword", ["StudyDescription", "ProtocolName", "PatientAge", "KVP", "ContrastBolusAgent"])
def test_other_attributes_take_the_sites_own_word(keyword: str) -> None:
    with pytest.raises(PlanRefused, match=r"does not allow.*limits\.label_attributes"):
        inside(SitePolicy(name="north"), plan(keyword))
    inside(SitePolicy(name="north", limits=Limits(label_attributes=(keyword,))), plan(keyword))
